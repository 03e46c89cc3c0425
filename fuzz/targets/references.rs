//! Any text as a reference: it is taken exactly if the published grammar has it, and written so that it is read again.
#![no_main]

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use regex_lite::Regex;
use scanhook_core::image::{Digest, Image, Registry, Repository, Tag};

/// Source: distribution/reference, `reference.go`; OCI's distribution specification.
fn grammar(expression: &str) -> Regex {
    Regex::new(&format!("^(?:{expression})$")).unwrap()
}

static NAME: LazyLock<Regex> = LazyLock::new(|| {
    let component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
    grammar(&format!("{component}(?:/{component})*"))
});
static TAG: LazyLock<Regex> = LazyLock::new(|| grammar("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"));
static DIGEST: LazyLock<Regex> = LazyLock::new(|| grammar("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"));
static HOST: LazyLock<Regex> = LazyLock::new(|| {
    let label = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?";
    grammar(&format!("{label}(?:\\.{label})*"))
});
static PORT: LazyLock<Regex> = LazyLock::new(|| grammar("[0-9]{1,5}"));

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rfind(':').filter(|_| !text.ends_with(']')) {
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        None => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let host_is_good = address.map_or(HOST.is_match(host), |it| it.parse::<Ipv6Addr>().is_ok());
    let port_is_good = port.is_none_or(|it| {
        PORT.is_match(it) && it.parse::<u32>().is_ok_and(|it| (1..=65_535).contains(&it))
    });
    host_is_good && port_is_good && text.len() <= 255
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    assert_eq!(
        Repository::parse(text).is_ok(),
        NAME.is_match(text) && text.len() <= 255
    );
    assert_eq!(Tag::parse(text).is_ok(), TAG.is_match(text));
    assert_eq!(Digest::parse(text).is_ok(), DIGEST.is_match(text));
    assert_eq!(Registry::parse(text).is_ok(), is_host(text));
    if let Ok(host) = Registry::normalise(text) {
        assert_eq!(Registry::normalise(host.as_str()), Ok(host));
    }
    if let Ok(image) = Image::parse(text) {
        assert_eq!(Image::parse(&image.to_string()), Ok(image));
    }
});
