//! How commands reach a queue: in AWS, at a running `serve`, or in the queue file of a stopped one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs::{self, client_settings};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::host::data_dir::{self, DataDir};
use crate::host::queues::open_store;

/// The timeout of one attempt of a call, a long poll included. It is long because giving up a receive is costly: the messages that
/// the server hid for it stay hidden, although nobody has read them.
const ATTEMPT: Duration = Duration::from_mins(1);

/// Our own SQS endpoint.
pub(crate) struct Endpoint {
    pub(crate) client: Client,
    /// The settings of further clients.
    pub(crate) settings: Builder,
    /// Its URL.
    pub(crate) base: String,
    /// The server, if this process runs it because no `serve` does.
    _served: Option<Served>,
}

struct Served {
    _stop: DropGuard,
    _data_dir: DataDir,
}

/// A client for AWS, or for the endpoint that the environment names.
pub(crate) async fn aws_client() -> Client {
    Client::new(&scanhook_config::aws::sdk_config(ATTEMPT).await)
}

/// The endpoint of the `serve` that uses this directory. If none is running, starts an endpoint on its queue file.
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
    let settings = client_settings(&base, socket);
    Endpoint {
        client: Client::from_conf(settings.clone().build()),
        settings,
        base,
        _served: served,
    }
}
