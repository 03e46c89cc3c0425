//! A proxy to the SQS endpoint of `serve` that delays or loses the answer of one receive.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::world::exchange;

/// What happens to the first answer with messages.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// It is delayed by this time.
    Late(Duration),
    /// The connection ends instead.
    Lost,
}

/// Passes requests on to `server`. Returns its address, and the number of answers that have met their fate.
pub(crate) fn before(server: SocketAddr, fate: Fate) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let met = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&met);
    // The thread ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let met = Arc::clone(&counted);
            std::thread::spawn(move || pass(&stream, server, fate, &met));
        }
    });
    (address, met)
}

/// Passes on the requests of a connection until it ends.
fn pass(stream: &TcpStream, server: SocketAddr, fate: Fate, met: &AtomicUsize) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let name = line.to_ascii_lowercase();
            if let Some(value) = name.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            if !name.starts_with("connection:") {
                head += &line;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let head = format!("{head}Connection: close\r\n\r\n");
        let answer = exchange(server, &head, &body).unwrap();
        if answer.body.contains("\"ReceiptHandle\"") && met.fetch_add(1, Ordering::SeqCst) == 0 {
            match fate {
                Fate::Late(time) => std::thread::sleep(time),
                Fate::Lost => return,
            }
        }
        let (status, text) = (answer.status, &answer.body);
        let answer = format!(
            "HTTP/1.1 {status} -\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
