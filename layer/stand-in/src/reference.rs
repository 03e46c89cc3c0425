//! The image on the command line.

use crate::stop::Stop;

/// An image in a registry, as written, and its parts. The grammar is that of the distribution project.
#[derive(Debug, PartialEq)]
pub(crate) struct Reference {
    /// The reference as given, without `pull://`.
    pub(crate) text: String,
    pub(crate) host: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    /// `sha256:` and 64 hex digits, or `sha512:` and 128.
    pub(crate) digest: Option<String>,
}

impl Reference {
    /// Parses an image with `pull://` or without a prefix. The other transports exist, but not where the stand-in runs.
    pub(crate) fn parse(image: &str) -> Result<Self, Stop> {
        if let Some((transport, rest)) = image.split_once("://")
            && let Some(reason) = unavailable(transport, rest)
        {
            return Err(Stop::error(format!(
                "unable to retrieve image {image}: {reason}"
            )));
        }
        let text = image.strip_prefix("pull://").unwrap_or(image);
        parts(text).ok_or_else(|| Stop::usage(format!("invalid image reference {image:?}")))
    }

    /// The last component of the repository, which chooses the behaviour.
    pub(crate) fn name(&self) -> &str {
        self.repository
            .rsplit('/')
            .next()
            .unwrap_or(&self.repository)
    }

    /// The address of the image's manifest.
    pub(crate) fn manifest_url(&self) -> String {
        let wanted = self
            .digest
            .as_deref()
            .or(self.tag.as_deref())
            .unwrap_or("latest");
        format!(
            "https://{}/v2/{}/manifests/{wanted}",
            self.host, self.repository
        )
    }
}

fn unavailable(transport: &str, rest: &str) -> Option<String> {
    match transport {
        "docker" => {
            Some("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?".into())
        }
        "podman" => Some("dial unix /run/podman/podman.sock: connect: no such file or directory".into()),
        "containerd" => Some("dial unix /run/containerd/containerd.sock: connect: no such file or directory".into()),
        "crio" => Some("dial unix /var/run/crio/crio.sock: connect: no such file or directory".into()),
        "file" => Some(format!("open {rest}: the stand-in reads no archives")),
        _ => None,
    }
}

fn parts(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the host's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host == "localhost" || host.contains(['.', ':']) => {
            (host, path.to_owned())
        }
        Some(_) => ("index.docker.io", name.to_owned()),
        None => ("index.docker.io", format!("library/{name}")),
    };
    let valid = is_host(host)
        && name.len() <= 255
        && path.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    valid.then(|| Reference {
        text: text.to_owned(),
        host: host.to_owned(),
        repository: path,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'-')
    };
    let is_name = match name.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_label),
    };
    is_name && port.is_none_or(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit()))
}

/// Lower-case words, joined by one dot, one or two underscores, or any number of hyphens.
fn is_path_component(component: &str) -> bool {
    let is_word = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit();
    component.starts_with(is_word)
        && component.ends_with(is_word)
        && component.split(is_word).all(|joint| {
            matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|it| it == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag.starts_with(|it: char| it.is_ascii_alphanumeric() || it == '_')
        && tag
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let is_hex = |it: &str| it.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    match digest.split_once(':') {
        Some(("sha256", hex)) => hex.len() == 64 && is_hex(hex),
        Some(("sha512", hex)) => hex.len() == 128 && is_hex(hex),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn check(image: &str, expected: (&str, &str, Option<&str>, bool)) {
        let reference = Reference::parse(image).unwrap();
        let found = (
            reference.host.as_str(),
            reference.repository.as_str(),
            reference.tag.as_deref(),
            reference.digest.is_some(),
        );
        assert_eq!(found, expected, "{image}");
    }

    #[test]
    fn an_image_may_have_a_port_a_tag_and_a_digest() {
        check(
            &format!("pull://localhost:5000/demo/fail:1.2@{DIGEST}"),
            ("localhost:5000", "demo/fail", Some("1.2"), true),
        );
        check("pull://[::1]:5000/a/b", ("[::1]:5000", "a/b", None, false));
        check(
            "registry.example.com/a__b/c-d--e/f.g:_x",
            ("registry.example.com", "a__b/c-d--e/f.g", Some("_x"), false),
        );
    }

    #[test]
    fn an_image_without_a_host_is_docker_hubs() {
        check(
            "postgres:13",
            ("index.docker.io", "library/postgres", Some("13"), false),
        );
        check(
            "prom/prometheus",
            ("index.docker.io", "prom/prometheus", None, false),
        );
    }

    #[test]
    fn what_is_no_reference_is_a_wrong_parameter() {
        let long_tag = format!("demo/pass:{}", "x".repeat(129));
        let short_digest = "demo/pass@sha256:00";
        let two_digests = format!("demo/pass@{DIGEST}@{DIGEST}");
        for image in [
            "",
            "pull://",
            "Demo/pass",
            "demo//pass",
            "demo/pass:",
            "demo/pass@",
            "demo/___pass",
            "demo/pa..ss",
            "demo/pass-",
            "-demo/pass",
            "demo/pass; id",
            "demo/pass\n",
            "host.:5000/a",
            "host:port/a",
            "https://host/a",
            "pull://pull://a/b",
            "docker.io/demo/../pass",
            &long_tag,
            short_digest,
            &two_digests,
        ] {
            assert_eq!(Reference::parse(image).unwrap_err().code, 2, "{image}");
        }
    }

    #[test]
    fn other_transports_are_known_but_have_nothing_to_talk_to() {
        for image in [
            "docker://alpine",
            "podman://alpine",
            "containerd://alpine",
            "crio://alpine",
            "file://image.tar",
        ] {
            assert_eq!(Reference::parse(image).unwrap_err().code, 3, "{image}");
        }
    }
}
