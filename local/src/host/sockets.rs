//! The addresses that a process listens on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};

use crate::output;

/// Connections that wait to be accepted: as many as Linux lets (`net.core.somaxconn`), since beyond that an honest sender's begins
/// anew a second later.
const BACKLOG: u32 = 4096;

pub(crate) fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A port that the last process has just left can be taken.
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

/// The listener of their own that probes have, if they have one.
pub(crate) fn bind_health(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    address.map(|it| bind(it, "--health-listen")).transpose()
}

/// Where this machine reaches a listener: one on all addresses by loopback.
pub(crate) fn reached(listener: &TcpListener) -> anyhow::Result<SocketAddr> {
    let address = listener.local_addr()?;
    Ok(match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    })
}
