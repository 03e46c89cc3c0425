//! Listening sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};

use crate::output;

/// The most connections that wait to be accepted: the default limit of Linux (`net.core.somaxconn`). Beyond it, a sender retries its
/// connection only after a second.
const BACKLOG: u32 = 4096;

pub(crate) fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Allows a port that another process has just closed.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| {
        format!("could not listen on {address}; choose another address with {flag}")
    })
}

pub(crate) fn announce_health(address: Option<SocketAddr>) {
    if let Some(address) = address {
        output::notice(&format!("probes are answered at http://{address}/healthz"));
    }
}

/// The separate listener for probes.
pub(crate) fn bind_health(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    address.map(|it| bind(it, "--health-listen")).transpose()
}

/// The address by which this machine reaches a listener; loopback for an unspecified one.
pub(crate) fn reached(listener: &TcpListener) -> anyhow::Result<SocketAddr> {
    let address = listener.local_addr()?;
    Ok(match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    })
}
