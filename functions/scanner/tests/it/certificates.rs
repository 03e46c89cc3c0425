//! A registry whose certificate is of a private CA: `registries.*.ca` is for our requests and for the CLI, in scans of that
//! registry only.

use serde_json::Value;

use crate::registry::{Content, FakeRegistry, behind_tls};
use crate::world::{REGISTRY, Setup, World, message_for, script};

const PRIVATE: &str = "private.example.com";

const CA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/fake-private-ca.pem"
);

fn of_host(scan_id: &str, host: &str) -> String {
    let mut message = message_for(scan_id, "demo/pass");
    message["image"]["registry"] = host.into();
    message["image"]["digest"] = Value::Null;
    message.to_string()
}

fn registry() -> impl Future<Output = FakeRegistry> {
    let mut content = Content::default();
    content.image("demo/pass", Some("1.0"), "a");
    FakeRegistry::holding(content)
}

#[tokio::test]
async fn the_cli_trusts_a_private_ca_in_scans_of_its_registry_and_in_no_others() {
    let (private, other) = (registry().await, registry().await);
    let program = script("counts-certificates");
    let world = World::set_up(Setup {
        program: &program,
        source: "hosts: [private.example.com]",
        registries: format!(
            "  {PRIVATE}: {{ ca: \"file:{CA}\" }}\n  {REGISTRY}: {{ insecure: true }}"
        ),
        hosts: vec![(PRIVATE, behind_tls(&private)), (REGISTRY, other.address)],
        // What the system trusts: a file with one certificate.
        environment: vec![("SSL_CERT_FILE", CA.to_owned())],
        ..Setup::default()
    });
    let world = world.await;
    for (scan_id, host, told) in [
        ("first", PRIVATE, "certificates: 2"),
        ("other", REGISTRY, "certificates: 0"),
        ("last", PRIVATE, "certificates: 2"),
    ] {
        let outcome = world.outcome(&of_host(scan_id, host), 1).await;
        assert_eq!(outcome, "retried: scanner_error", "{host}");
        assert_eq!(world.record(scan_id).unwrap().detail.unwrap(), told);
    }
}

#[tokio::test]
async fn a_registry_of_a_private_ca_is_scanned_with_it_and_is_untrusted_without() {
    let private = registry().await;
    let address = behind_tls(&private);
    for (entry, expected) in [
        (
            format!("{{ ca: \"file:{CA}\" }}"),
            "passed [0, 2, 2, 1, 1] confirmed",
        ),
        ("{}".to_owned(), "dead letter: untrusted_tls"),
    ] {
        let world = World::set_up(Setup {
            source: "hosts: [private.example.com]",
            registries: format!("  {PRIVATE}: {entry}"),
            hosts: vec![(PRIVATE, address)],
            ..Setup::default()
        });
        let outcome = world.await.outcome(&of_host("scan", PRIVATE), 1).await;
        assert_eq!(outcome, expected, "{entry}");
    }
}
