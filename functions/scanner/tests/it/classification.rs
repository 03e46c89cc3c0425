//! The table of the CLI's words, row by row: what a scan that dies with them becomes.

use std::fmt::Write as _;
use std::os::unix::fs::symlink;

use scanhook_core::tools::sysdig::classify::{Evidence, Pattern, Row, Sign, TABLE};
use tempfile::TempDir;

use crate::world::{World, message, script};

/// What becomes of a scan whose CLI prints `words` and exits with 3, on its second receive.
async fn outcome(words: &str) -> String {
    let directory = TempDir::new().unwrap();
    let program = directory.path().join("cli");
    symlink(script("says-words"), &program).unwrap();
    std::fs::write(directory.path().join("words"), words).unwrap();
    World::with("30s", &program)
        .await
        .outcome(&message("words"), 2)
        .await
}

fn words(sign: &Sign) -> Vec<String> {
    match sign {
        Sign::Text(words) | Sign::Word(words) => vec![(*words).to_owned()],
        Sign::Status(numbers) => numbers
            .iter()
            .map(|it| format!("unexpected status code {it}"))
            .collect(),
    }
}

/// Each text that the row alone must take: one for each sign of which any will do, one for each way to have them all.
fn texts(row: &Row) -> Vec<String> {
    match row.pattern {
        Pattern::Any(signs) => signs.iter().flat_map(words).collect(),
        Pattern::All(signs) => signs
            .iter()
            .map(words)
            .fold(vec![String::new()], |begun, next| {
                let with = |text: &String| {
                    next.iter()
                        .map(|it| format!("{text} {it}"))
                        .collect::<Vec<_>>()
                };
                begun.iter().flat_map(with).collect()
            }),
    }
}

#[tokio::test]
async fn each_row_of_the_table_decides_what_becomes_of_a_scan() {
    let mut table = String::new();
    for row in &TABLE {
        let outcome = outcome(row.example).await;
        let evidence = match row.evidence {
            Evidence::Seen => "seen",
            Evidence::Inferred => "inferred",
        };
        writeln!(table, "{evidence:<9} {outcome:<32} {}", row.example).unwrap();
    }
    insta::assert_snapshot!(table, @r"
    seen      dead letter: bad_token           environment variable SECURE_API_TOKEN cannot be empty
    seen      dead letter: bad_token           Unable to retrieve MainDB: unexpected status 401 Unauthorized. Exiting now
    seen      retried: database                Unable to retrieve MainDB ... Exiting now
    inferred  retried: rate_limited            TOOMANYREQUESTS: You have reached your pull rate limit
    inferred  dead letter: image_not_found     GET https://registry/v2/a/manifests/1: MANIFEST_UNKNOWN: manifest unknown
    inferred  dead letter: unauthorized        GET https://registry/v2/a/manifests/1: UNAUTHORIZED: authentication required
    inferred  dead letter: unsupported_image   no child with platform linux/amd64 in index registry/a:1
    inferred  dead letter: no_space            write /tmp/layer: no space left on device
    inferred  dead letter: untrusted_tls       x509: certificate signed by unknown authority
    inferred  retried: network                 dial tcp 192.0.2.1:443: i/o timeout
    inferred  retried: network                 unexpected status code 503 Service Unavailable
    inferred  retried: network                 read manifest: unexpected EOF
    inferred  retried: scanner_error           something nobody has seen
    ");
}

#[tokio::test]
async fn each_sign_of_a_row_is_enough_by_itself() {
    for row in &TABLE {
        let example = outcome(row.example).await;
        for text in texts(row) {
            assert_eq!(outcome(&text).await, example, "{text}");
        }
    }
}
