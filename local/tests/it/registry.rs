//! A registry with an image under every name. It is the HTTP proxy of the processes under test, so it answers for every host that
//! their configuration reaches over plain HTTP.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex};
use std::thread;

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// The generated manifests, by digest.
static MANIFESTS: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

static ADDRESS: LazyLock<SocketAddr> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(&stream));
        }
    });
    address
});

/// The registry's address. The registry starts at its first use, and stops with the process.
pub(crate) fn address() -> SocketAddr {
    *ADDRESS
}

/// The digest of an image with this content, which is in every repository.
pub(crate) fn digest_of(content: &str) -> String {
    let sha256 = |text: &str| format!("sha256:{}", hex::encode(Sha256::digest(text)));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(content), "size": 7},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha256("layer"), "size": 1000}],
    });
    let manifest = manifest.to_string();
    let digest = sha256(&manifest);
    MANIFESTS.lock().unwrap().insert(digest.clone(), manifest);
    digest
}

/// The digest of a tag.
pub(crate) fn digest_of_tag(repository: &str, tag: &str) -> String {
    digest_of(&format!("{repository}:{tag}"))
}

/// Answers one request, `GET http://HOST/v2/NAME/manifests/REFERENCE`.
fn answer(mut stream: &TcpStream) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    lines.find(String::is_empty);
    let mut words = first.split(' ');
    let (method, url) = (words.next(), words.next().unwrap_or_default());
    let path = url.split_once("/v2/").map_or("", |(_, path)| path);
    let digest = match path.split_once("/manifests/") {
        Some((_, digest)) if digest.contains(':') => digest.to_owned(),
        Some((repository, tag)) => digest_of_tag(repository, tag),
        None => String::new(),
    };
    let manifest = MANIFESTS.lock().unwrap().get(&digest).cloned();
    let (status, body) = manifest.map_or((404, String::new()), |it| (200, it));
    let head = format!(
        "HTTP/1.1 {status} x\r\nconnection: close\r\ndocker-content-digest: {digest}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let body = if method == Some("HEAD") { "" } else { &body };
    // The client may have been killed meanwhile.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}
