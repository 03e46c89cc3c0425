//! The demo's registry: a few manifests on a loopback socket, under every host name that the demo uses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use scanhook_core::image::Digest;
use scanhook_registry::Dns;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::SIGNATURE;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CHART: &str = "application/vnd.cncf.helm.config.v1+json";
const CHART_LAYER: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
const SIGNATURE_LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A registry that stops when it is dropped.
pub(super) struct Registry {
    address: SocketAddr,
    manifests: Arc<Manifests>,
    server: JoinHandle<()>,
}

/// By the last component of the repository, because kinds put different paths before it; and by tag or digest.
type Manifests = HashMap<(String, String), (Digest, &'static str, Vec<u8>)>;

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Registry {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let manifests = Arc::new(manifests());
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("could not open a socket for the demo's registry")?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/v2/{*path}", get(manifest))
            .with_state(Arc::clone(&manifests));
        let server = tokio::spawn(async {
            if let Err(err) = axum::serve(listener, router).await {
                tracing::error!("the demo's registry stopped: {err}");
            }
        });
        Ok(Self {
            address,
            manifests,
            server,
        })
    }

    /// Resolves every host name to this registry.
    pub(super) fn dns(&self) -> Dns {
        let address = self.address;
        Arc::new(move |_| Box::pin(std::future::ready(Ok(vec![address]))))
    }

    /// The digest of a tag; `None` if the tag doesn't exist.
    pub(super) fn digest(&self, repository: &str, tag: &str) -> Option<&Digest> {
        let found = self.manifests.get(&(last(repository), tag.to_owned()));
        found.map(|(digest, ..)| digest)
    }
}

/// Answers GET, and HEAD too: the router drops the body.
async fn manifest(State(manifests): State<Arc<Manifests>>, Path(path): Path<String>) -> Response {
    let found = path
        .split_once("/manifests/")
        .and_then(|(repository, reference)| {
            manifests.get(&(last(repository), reference.to_owned()))
        });
    match found {
        Some((digest, media_type, bytes)) => {
            let headers = [
                (header::CONTENT_TYPE.as_str(), *media_type),
                ("docker-content-digest", digest.as_str()),
            ];
            (headers, bytes.clone()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn last(repository: &str) -> String {
    let name = repository.rsplit('/').next();
    name.unwrap_or_default().to_owned()
}

fn manifests() -> Manifests {
    let mut manifests = Manifests::new();
    let mut put = |name: &str, tag: Option<&str>, media_type, manifest: Value| {
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        for reference in [Some(digest.as_str()), tag].into_iter().flatten() {
            let key = (name.to_owned(), reference.to_owned());
            manifests.insert(key, (digest.clone(), media_type, bytes.clone()));
        }
        digest
    };
    let mut children = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let child = image(CONFIG, LAYER, architecture);
        let digest = put("pass", None, IMAGE, child);
        children.push(json!({
            "mediaType": IMAGE, "digest": digest, "size": 1,
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
    put("pass", Some("1.0"), INDEX, index);
    for (name, tag) in [("fail", "2.0"), ("flaky", "1.1")] {
        put(name, Some(tag), IMAGE, image(CONFIG, LAYER, name));
    }
    put(
        "chart",
        Some("0.1.0"),
        IMAGE,
        image(CHART, CHART_LAYER, "chart"),
    );
    // A signature has the config of an image, but not its layers.
    put(
        "pass",
        Some(SIGNATURE),
        IMAGE,
        image(CONFIG, SIGNATURE_LAYER, "signature"),
    );
    manifests
}

fn image(config: &str, layer: &str, content: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": config, "digest": Digest::of(content.as_bytes()), "size": content.len()},
        "layers": [{"mediaType": layer, "digest": Digest::of(b"layer"), "size": 5}],
    })
}
