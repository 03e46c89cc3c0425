//! Where commands reach queues: AWS, the `serve` that runs, or the queue file of one that does not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use aws_sdk_sqs::Client;
use scanhook_config::Environment;
use scanhook_config::aws::Aws;
use scanhook_config::aws::json::{SQS, Service};
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::host::data_dir::{self, DataDir};
use crate::host::queues::{embedded_client, open_store};

/// The longest single try of a call; a long poll is part of it. It is long because a receive that is given up costs more than
/// one that is waited for: what a server took for it stays hidden, and nobody has read it.
const ATTEMPT: Duration = Duration::from_mins(1);

/// Our own SQS endpoint.
pub(crate) struct Endpoint {
    pub(crate) client: Client,
    /// Its URL.
    pub(crate) base: String,
    /// What ends with this, where no `serve` runs.
    _served: Option<Served>,
}

struct Served {
    _stop: DropGuard,
    _data_dir: DataDir,
}

/// A client for queues of AWS, or wherever the environment leads.
pub(crate) async fn outside() -> Client {
    Client::new(&scanhook_config::aws::sdk_config(ATTEMPT).await)
}

/// The webhook's way to the queue of an endpoint of ours, which takes any credentials.
pub(crate) fn service(base: &str) -> Service {
    let base = base.to_owned();
    let settings: Environment = Arc::new(move |name| {
        let value = match name {
            "AWS_ENDPOINT_URL_SQS" => &base,
            "AWS_REGION" => sqs::REGION,
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => "any",
            _ => return None,
        };
        Some(value.to_owned())
    });
    Service::new(SQS, &Aws::function(&settings))
}

/// The endpoint of the `serve` that runs on this directory; if none runs, one of its queue file.
pub(crate) async fn open(path: &Path) -> anyhow::Result<Endpoint> {
    if !data_dir::queue(path).is_file() {
        bail!(
            "there is no queue in {}: run this where `scanhook serve` ran, or name its --data-dir or an SQS queue with --queue-url",
            path.display()
        );
    }
    let data_dir = match DataDir::try_lock(path)? {
        Some(data_dir) => data_dir,
        None => match data_dir::endpoint(path) {
            Some(address) if TcpStream::connect(address).await.is_ok() => {
                return Ok(at(address, None));
            }
            _ => DataDir::lock(path).await?,
        },
    };
    let store = open_store(&data_dir.queue()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(sqs::Endpoint::new(store, Faults::none()).serve(listener, stopped));
    let served = Served {
        _stop: stop.drop_guard(),
        _data_dir: data_dir,
    };
    Ok(at(address, Some(served)))
}

fn at(address: SocketAddr, served: Option<Served>) -> Endpoint {
    let base = format!("http://{address}");
    let socket = aws_smithy_http_client::Builder::new().build_http();
    Endpoint {
        client: embedded_client(&base, socket),
        base,
        _served: served,
    }
}
