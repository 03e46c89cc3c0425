//! A minimal HTTP/1.1 client, so that measurements show the cost of the server.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a measurement fails where it fails"
)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends a request, and reads a response with a `Content-Length`. Returns status and body.
///
/// # Panics
///
/// If the server closes the connection or sends another form of answer.
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
