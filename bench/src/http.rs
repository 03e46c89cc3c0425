//! A client of HTTP/1.1 that costs next to nothing, so that what is measured is the server.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a measurement fails where it fails"
)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends a whole request, and reads a response that has a `Content-Length`: its status and its body.
///
/// # Panics
///
/// If the server hangs up or answers otherwise.
pub async fn exchange(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    request: &[u8],
) -> (String, String) {
    stream.write_all(request).await.unwrap();
    buffer.clear();
    loop {
        assert!(
            stream.read_buf(buffer).await.unwrap() > 0,
            "the server hung up"
        );
        let Some(head) = buffer.windows(4).position(|it| it == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&buffer[..head]).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap()[9..12].to_owned();
        let length: usize = lines
            .filter_map(|it| it.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.parse().unwrap());
        let end = head + 4 + length;
        if buffer.len() >= end {
            let body = String::from_utf8(buffer[head + 4..end].to_vec()).unwrap();
            return (status, body);
        }
    }
}
