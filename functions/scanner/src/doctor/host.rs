//! What the machine has: processors, memory, disk, and who can be reached from it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use scanhook_config::Environment;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Check, Outcome};

/// The machine, as far as it tells; null is what it does not.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Whether this is a Lambda function.
    pub is_lambda: bool,
    /// `amd64`, `arm64`, or what else it is.
    pub architecture: &'static str,
    /// Processors that this process may use.
    pub cpus: Option<usize>,
    /// All memory, or what a container or function may use of it.
    pub memory_bytes: Option<u64>,
    /// Memory that is free or can be freed.
    pub memory_available_bytes: Option<u64>,
    /// Where runs write.
    pub scratch: String,
    /// Space left there.
    pub disk_available_bytes: Option<u64>,
}

/// How long a host may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn examine(environment: &Environment, scratch: &Path) -> Host {
    let disk = rustix::fs::statvfs(scratch).ok();
    Host {
        is_lambda: environment("AWS_LAMBDA_RUNTIME_API").is_some(),
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        cpus: std::thread::available_parallelism()
            .ok()
            .map(std::num::NonZero::get),
        memory_bytes: memory(environment),
        memory_available_bytes: meminfo("MemAvailable:"),
        scratch: scratch.parent().unwrap_or(scratch).display().to_string(),
        disk_available_bytes: disk.map(|it| it.f_bavail.saturating_mul(it.f_frsize)),
    }
}

fn memory(environment: &Environment) -> Option<u64> {
    let function = environment("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        .and_then(|it| it.parse::<u64>().ok())
        .map(|it| it << 20);
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|it| it.trim().parse().ok());
    [function, container, meminfo("MemTotal:")]
        .into_iter()
        .flatten()
        .min()
}

/// Source: proc(5), `/proc/meminfo`, whose numbers are in KiB.
fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|it| it.strip_prefix(name))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

/// Host and port of a URL.
pub(super) fn authority(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if url.starts_with("http://") && !authority.contains(':') {
        format!("{authority}:80")
    } else {
        authority.to_owned()
    }
}

/// Connects to each of the hosts, once, without saying anything.
pub(super) async fn reach(hosts: impl IntoIterator<Item = String>) -> Vec<Check> {
    let mut hosts: Vec<_> = hosts.into_iter().map(|it| with_port(&it)).collect();
    hosts.sort_unstable();
    hosts.dedup();
    join_all(hosts.into_iter().map(connect)).await
}

fn with_port(host: &str) -> String {
    // Docker Hub's images are not served by the host that its name says.
    match host {
        "docker.io" => "registry-1.docker.io:443".to_owned(),
        _ if host.contains(':') => host.to_owned(),
        _ => format!("{host}:443"),
    }
}

async fn connect(host: String) -> Check {
    let began = Instant::now();
    let connected = timeout(PATIENCE, TcpStream::connect(&host)).await;
    let (outcome, detail) = match connected {
        Ok(Ok(_)) => {
            let took = began.elapsed().as_millis();
            (Outcome::Ok, format!("{host} answers after {took} ms"))
        }
        Ok(Err(err)) => (
            Outcome::Failed,
            format!("{host} can't be reached directly: {err}"),
        ),
        Err(_) => (
            Outcome::Failed,
            format!("{host} does not answer within {} s", PATIENCE.as_secs()),
        ),
    };
    Check {
        check: "network",
        outcome,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_asked_at_the_port_of_its_url() {
        for (url, expected) in [
            ("https://secure.sysdig.com", "secure.sysdig.com:443"),
            ("https://app.us4.sysdig.com/api?x", "app.us4.sysdig.com:443"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("http://sysdig.internal", "sysdig.internal:80"),
        ] {
            assert_eq!(with_port(&authority(url)), expected);
        }
        assert_eq!(with_port("docker.io"), "registry-1.docker.io:443");
        assert_eq!(with_port("localhost:5000"), "localhost:5000");
    }

    #[test]
    fn this_machine_has_memory_and_a_disk() {
        let environment: Environment = std::sync::Arc::new(|name| {
            (name == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE").then(|| "1".to_owned())
        });
        let host = examine(&environment, Path::new("/tmp"));
        assert_eq!(host.memory_bytes, Some(1 << 20));
        assert!(!host.is_lambda && host.disk_available_bytes.is_some());
        assert!(host.cpus.is_some_and(|it| it > 0));
    }
}
