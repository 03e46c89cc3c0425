//! Where connections may lead. The resolved address decides, not the name.
//!
//! **Invariant**: this crate connects to a registry, realm or redirect only at an address that was checked here. Names
//! are checked when they are resolved for the connection, addresses in URLs before it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves a host name. It is an argument, so that tests and the demo can define hosts.
pub type Dns = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>
        + Send
        + Sync,
>;

pub fn system_dns() -> Dns {
    Arc::new(|host| {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host, 0)).await?;
            Ok(addresses.collect())
        })
    })
}

/// The addresses that a host may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// A cloud's metadata server, under its known name.
    Metadata,
    /// A host in the configuration: any address except those where no registry can be.
    Configured,
    /// A host that a registry named: public addresses, and those of these networks.
    Foreign(Vec<IpNet>),
}

/// The requested address, or every address of a name, is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connections to this address are not allowed")]
pub(super) struct BlockedError;

impl Reach {
    pub(super) fn permits(&self, address: IpAddr) -> bool {
        let forms = forms(address);
        if *self == Self::Metadata {
            return true;
        }
        let is_never = forms.iter().any(|it| is_link_local_or_metadata(*it));
        let is_reached = match self {
            Self::Metadata | Self::Configured => true,
            Self::Foreign(allow) => {
                allow.iter().any(|it| it.contains(&address))
                    || forms.iter().all(|it| is_public(*it))
            }
        };
        !is_never && is_reached
    }
}

/// Returns an address and the IPv4 address embedded in it: mapped (`::ffff:0:0/96`), compatible (`::/96`), behind NAT64
/// (`64:ff9b::/96`, RFC 6052) or by 6to4 (`2002::/16`, RFC 3056).
fn forms(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address else {
        return vec![address];
    };
    let segments = v6.segments();
    let octets = v6.octets();
    let embedded = match segments {
        [0, 0, 0, 0, 0, 0xffff | 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            let [.., a, b, c, d] = octets;
            Some(Ipv4Addr::new(a, b, c, d))
        }
        [0x2002, ..] => {
            let [_, _, a, b, c, d, ..] = octets;
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    };
    match embedded {
        // Loopback and "unspecified" look like compatible addresses, but aren't.
        Some(v4) if !v6.is_loopback() && !v6.is_unspecified() => match segments {
            // The outer address is only a notation for the inner one.
            [0 | 0x64, ..] => vec![v4.into()],
            _ => vec![address, v4.into()],
        },
        _ => vec![address],
    }
}

/// Link-local addresses, where clouds have their metadata servers, and the other addresses of such servers: AWS and
/// Google over IPv6, Alibaba, and Azure's host.
fn is_link_local_or_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_link_local()
                || v4 == Ipv4Addr::new(100, 100, 100, 200)
                || v4 == Ipv4Addr::new(168, 63, 129, 16)
        }
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || matches!(v6.segments(), [0xfd00, 0x0ec2, ..])
                || v6 == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)
        }
    }
}

/// Whether an address is on the Internet. Source: IANA's registries of special-purpose addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (b & 0xc0) == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b & 0xfe) == 18))
        }
        IpAddr::V6(v6) => match v6.segments() {
            // Exceptions within global unicast: IETF protocols with Teredo, and both documentation ranges.
            [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
            [0x3fff, second, ..] if second < 0x1000 => false,
            [first, ..] => (first & 0xe000) == 0x2000,
        },
    }
}

/// A resolver that removes the addresses that a connection may not use.
pub(super) struct Guarded {
    pub(super) dns: Dns,
    pub(super) reach: Reach,
    /// The hosts of proxies. The operator chooses them, and they decide what they connect to.
    pub(super) proxies: Arc<[String]>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let is_proxy = self.proxies.contains(&host);
        let reach = self.reach.clone();
        let looked_up = (self.dns)(host);
        Box::pin(async move {
            let mut addresses = looked_up.await?;
            if !is_proxy && !addresses.is_empty() {
                addresses.retain(|it| reach.permits(it.ip()));
                if addresses.is_empty() {
                    return Err(BlockedError.into());
                }
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(reach: &Reach, address: &str) -> bool {
        reach.permits(address.parse().unwrap())
    }

    #[test]
    fn a_configured_host_may_have_any_address_except_those_of_metadata_servers() {
        for address in [
            "10.1.2.3",
            "127.0.0.1",
            "192.168.0.1",
            "8.8.8.8",
            "::1",
            "fd12::1",
            "2a00::1",
        ] {
            assert!(permits(&Reach::Configured, address), "{address}");
        }
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(!permits(&Reach::Configured, address), "{address}");
            let all = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
            assert!(!permits(&Reach::Foreign(all), address), "{address}");
        }
    }

    #[test]
    fn a_foreign_host_must_be_public_or_allowed() {
        let foreign = Reach::Foreign(vec!["10.1.0.0/16".parse().unwrap()]);
        for address in [
            "8.8.8.8",
            "2a00:1450::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
            "10.1.2.3",
        ] {
            assert!(permits(&foreign, address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.2.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "::ffff:127.0.0.1",
            "::ffff:10.2.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:0a02:0001::",
        ] {
            assert!(!permits(&foreign, address), "{address}");
        }
    }
}
