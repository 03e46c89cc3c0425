//! A registry on a socket that answers as each test wants it to, and writes down what it was asked.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
}

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This status, these headers, this body.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A body that ends before its announced length.
    Cut(Vec<u8>),
    /// A body without end.
    Endless,
    /// Nothing, for ever.
    Never,
}

type Answering = Box<dyn Fn(&Asked) -> Answer + Send + Sync>;

pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) fn status(status: u16) -> Answer {
    Answer::Full(status, Vec::new(), Vec::new())
}

pub(crate) fn answer_json(value: &Value) -> Answer {
    Answer::Full(200, Vec::new(), value.to_string().into_bytes())
}

pub(crate) fn with(status: u16, name: &'static str, value: &str) -> Answer {
    Answer::Full(status, vec![(name, value.to_owned())], Vec::new())
}

impl FakeRegistry {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen): (Arc<Answering>, _) = (Arc::new(Box::new(answer)), Arc::clone(&asked));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answer), Arc::clone(&seen)));
            }
        });
        Self {
            address,
            asked,
            server,
        }
    }

    /// A registry that holds this.
    pub(crate) async fn holding(content: Content) -> Self {
        Self::start(move |asked| content.answer(asked)).await
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The credentials that it was shown.
    pub(crate) fn shown(&self) -> Vec<String> {
        self.asked()
            .into_iter()
            .filter_map(|it| it.authorization)
            .collect()
    }
}

/// Puts TLS in front of a registry, with a certificate of the private CA in `fake-private-ca.pem`; returns its address.
pub(crate) fn behind_tls(registry: &FakeRegistry) -> SocketAddr {
    let pem = include_bytes!("../fixtures/fake-private-registry.pem");
    let certificate = CertificateDer::from_pem_slice(pem).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (config, behind) = (Arc::new(config), registry.address);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Threads, which end with the process: rustls itself knows no runtime.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let stream = StreamOwned::new(connection, stream.unwrap());
            std::thread::spawn(move || forward(stream, behind));
        }
    });
    address
}

/// One request without a body, and its answer. A client that does not trust us ends before that.
fn forward(
    mut front: StreamOwned<ServerConnection, std::net::TcpStream>,
    behind: SocketAddr,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        front.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let mut back = std::net::TcpStream::connect(behind)?;
    back.write_all(&head)?;
    std::io::copy(&mut back, &mut front)?;
    front.conn.send_close_notify();
    front.flush()
}

async fn serve(mut stream: TcpStream, answer: Arc<Answering>, seen: Arc<Mutex<Vec<Asked>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut request = lines.next().unwrap().split(' ');
    let header = |name: &str| {
        let found = lines.clone().filter_map(|it| it.split_once(':'));
        let mut found = found.filter(|(it, _)| it.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_owned())
    };
    let length = header("content-length").map_or(0, |it| it.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let asked = Asked {
        method: request.next().unwrap().to_owned(),
        path: request.next().unwrap().to_owned(),
        host: header("host").unwrap_or_default(),
        authorization: header("authorization"),
        body: String::from_utf8(body).unwrap(),
    };
    let (answer, is_head) = (answer(&asked), asked.method == "HEAD");
    seen.lock().unwrap().push(asked);
    let _ = match answer {
        Answer::Full(status, headers, body) => {
            let mut text = format!("HTTP/1.1 {status} x\r\nconnection: close\r\n");
            for (name, value) in headers {
                write!(text, "{name}: {value}\r\n").unwrap();
            }
            write!(text, "content-length: {}\r\n\r\n", body.len()).unwrap();
            let mut bytes = text.into_bytes();
            if !is_head {
                bytes.extend(body);
            }
            stream.write_all(&bytes).await
        }
        Answer::Cut(body) => {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                body.len() + 1
            );
            let bytes = [head.as_bytes(), &body].concat();
            stream.write_all(&bytes).await
        }
        Answer::Endless => {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
            let mut written = stream.write_all(head).await;
            while written.is_ok() {
                written = stream.write_all(&chunk).await;
            }
            written
        }
        Answer::Never => std::future::pending().await,
    };
}

/// Manifests, by repository and by what they are asked for with.
#[derive(Clone, Default)]
pub(crate) struct Content(HashMap<String, (String, Vec<u8>)>);

impl Content {
    /// Puts a manifest under its digest, and under a tag if there is one; tells the digest.
    pub(crate) fn put(&mut self, repository: &str, tag: Option<&str>, manifest: &Value) -> String {
        let bytes = manifest.to_string().into_bytes();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        for name in [Some(digest.as_str()), tag].into_iter().flatten() {
            let path = format!("/v2/{repository}/manifests/{name}");
            self.0.insert(path, (digest.clone(), bytes.clone()));
        }
        digest
    }

    /// An image of that platform with a layer of that size.
    pub(crate) fn image(&mut self, repository: &str, tag: Option<&str>, text: &str) -> String {
        self.put(repository, tag, &image(text, 1000))
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Answer {
        match self.0.get(&asked.path) {
            Some((digest, bytes)) => {
                let json: Value = serde_json::from_slice(bytes).unwrap_or_default();
                let media_type = json["mediaType"].as_str().unwrap_or(IMAGE);
                let headers = vec![
                    ("docker-content-digest", digest.clone()),
                    ("content-type", media_type.to_owned()),
                ];
                Answer::Full(200, headers, bytes.clone())
            }
            None => status(404),
        }
    }
}

pub(crate) fn digest_of(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

/// The manifest of an image whose content is that text.
pub(crate) fn image(text: &str, size: u64) -> Value {
    artifact(CONFIG, text, LAYER, size)
}

/// A manifest with a config and a layer of these types.
pub(crate) fn artifact(config: &str, text: &str, layer: &str, size: u64) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": config, "digest": digest_of(text), "size": 7},
        "layers": [{"mediaType": layer, "digest": digest_of("layer"), "size": size}],
    })
}

/// An index of these digests, each with its platform as OS and architecture.
pub(crate) fn index(children: &[(&str, &str)]) -> Value {
    let children = children.iter().map(|(digest, platform)| {
        let (os, architecture) = platform.split_once('/').unwrap();
        json!({
            "mediaType": IMAGE, "digest": digest, "size": 7,
            "platform": {"os": os, "architecture": architecture},
        })
    });
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children.collect::<Vec<_>>()})
}
