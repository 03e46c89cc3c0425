//! A trace collector on loopback: receives OTLP over HTTP, in Protobuf.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as Wire;
use prost::Message as _;

/// Answers every request with one status, and keeps the spans.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Taken>>>,
}

struct Taken {
    head: String,
    body: ExportTraceServiceRequest,
}

/// A received span.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) wire: Wire,
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
        all.filter(|it| it.trace_id() == trace_id).collect()
    }

    /// All spans received so far.
    pub(crate) fn all(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let mut found = Vec::new();
        for resource in requests.iter().flat_map(|it| &it.body.resource_spans) {
            let attributes = &resource.resource.as_ref().unwrap().attributes;
            let service = text(attributes, "service.name").unwrap();
            for wire in resource.scope_spans.iter().flat_map(|it| &it.spans) {
                let (wire, service) = (wire.clone(), service.clone());
                found.push(Span { wire, service });
            }
        }
        found
    }
}

impl Span {
    pub(crate) fn name(&self) -> &str {
        &self.wire.name
    }

    pub(crate) fn trace_id(&self) -> String {
        hex::encode(&self.wire.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hex::encode(&self.wire.span_id)
    }

    /// Empty of a root.
    pub(crate) fn parent(&self) -> String {
        hex::encode(&self.wire.parent_span_id)
    }

    /// The reason of a failure.
    pub(crate) fn failure(&self) -> Option<&str> {
        let status = self.wire.status.as_ref()?;
        (status.code == 2).then_some(status.message.as_str())
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        text(&self.wire.attributes, name)
    }
}

/// The value of an attribute.
fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
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
        let body = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        taken.lock().unwrap().push(Taken { head, body });
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
