//! A trace collector on loopback: receives OTLP over HTTP, in JSON.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// Answers every request with one status, and keeps the spans.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Taken>>>,
}

struct Taken {
    head: String,
    body: Value,
}

/// A received span.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// In the form of OTLP.
    pub(crate) json: Value,
    /// The name of its process.
    pub(crate) service: String,
}

impl Collector {
    pub(crate) fn answering(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::default());
        let taken = Arc::clone(&requests);
        // The thread ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = Arc::clone(&taken);
                std::thread::spawn(move || answer(&stream, status, &taken));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|it| it.head.clone()).collect()
    }

    /// All spans of a trace received so far.
    pub(crate) fn spans(&self, trace_id: &str) -> Vec<Span> {
        let all = self.all().into_iter();
        all.filter(|it| it.json["traceId"] == trace_id).collect()
    }

    /// All spans received so far.
    pub(crate) fn all(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let mut found = Vec::new();
        for resource in requests
            .iter()
            .flat_map(|it| it.body["resourceSpans"].as_array().unwrap())
        {
            let attributes = resource["resource"]["attributes"].as_array().unwrap();
            let name = attributes.iter().find(|it| it["key"] == "service.name");
            let service = name.unwrap()["value"]["stringValue"].as_str().unwrap();
            for scope in resource["scopeSpans"].as_array().unwrap() {
                for json in scope["spans"].as_array().unwrap() {
                    let (json, service) = (json.clone(), service.to_owned());
                    found.push(Span { json, service });
                }
            }
        }
        found
    }
}

impl Span {
    pub(crate) fn text(&self, member: &str) -> &str {
        self.json[member].as_str().unwrap_or_default()
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        let mut attributes = self.json["attributes"].as_array().unwrap().iter();
        let value = &attributes.find(|it| it["key"] == name)?["value"];
        value.as_object().unwrap().values().next()?.as_str()
    }

    pub(crate) fn nanoseconds(&self, member: &str) -> u64 {
        self.text(member).parse().unwrap()
    }
}

/// Reads requests from a connection until it ends.
fn answer(stream: &TcpStream, status: &str, taken: &Mutex<Vec<Taken>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.lines().find_map(|it| {
            let (name, value) = it.split_once(": ")?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            value.parse().ok().filter(|_| is_length)
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        let body = serde_json::from_slice(&body).unwrap();
        taken.lock().unwrap().push(Taken { head, body });
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}");
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
