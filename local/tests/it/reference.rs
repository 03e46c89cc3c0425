//! Compares `docs/reference` with the program's output and answers. `tests/it/reference.rs` has the checks that need no program.

use std::collections::BTreeSet;

use scanhook_emulator::cause::Cause;
use scanhook_scanner::doctor::{Finding, Outcome};
use scanhook_tests::reference::Page;
use serde_json::{Value, json};

use crate::world::{Delivery, Place, YAML, digest, wait_for};

/// The JSON that a command prints, with or without findings.
#[track_caller]
fn printed(place: &Place, arguments: &[&str]) -> Value {
    let ran = place.run(&[arguments, &["--output=json"]].concat());
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// A configuration with an additional Event Grid subscription.
fn yaml() -> String {
    let azure = r#"sources:
  azure: { kind: acr, registry: example.azurecr.io, auth: [{ type: path_token, secret: "env:HUB" }] }"#;
    YAML.replacen("sources:", azure, 1)
}

/// The same delivery with another body.
fn with_body(delivery: Delivery, body: &Value) -> Delivery {
    Delivery {
        body: body.to_string().into_bytes(),
        ..delivery
    }
}

/// A push of an image to scan, and of an image in a foreign registry.
fn of_two_registries() -> Value {
    json!({
        "type": "PUSH_ARTIFACT", "occur_at": 1_795_291_200, "operator": "ci",
        "event_data": {
            "resources": [
                {"tag": "1", "digest": digest(1), "resource_url": "harbor.example.com/prod/pass:1"},
                {"tag": "2", "digest": digest(2), "resource_url": "elsewhere.example.com/prod/pass:2"},
            ],
            "repository": {"repo_full_name": "prod/pass"},
        },
    })
}

fn validation() -> Value {
    json!([{
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "data": {"validationCode": "C-1", "validationUrl": "https://example.com"},
    }])
}

#[test]
fn answers_are_described_field_by_field() {
    let place = Place::with(&yaml());
    let serve = place.serve(&["--no-scan"]);
    let harbor = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    let azure = place.delivery("azure", "example.azurecr.io/prod/pass:1");
    let answer = |delivery: &Delivery, status: u16| -> Value {
        let answer = serve.send(delivery);
        assert_eq!(answer.status, status, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    };
    let queued = answer(&with_body(harbor.clone(), &of_two_registries()), 202);
    let validated = answer(&with_body(azure, &validation()), 200);
    let page = Page::read("answers.md");
    page.check_examples("Success", "Success", &[queued, validated]);
    page.check("Problems", &[answer(&with_body(harbor, &json!(7)), 400)]);

    let ready: Value = serde_json::from_str(&serve.get("/readyz").body).unwrap();
    page.check_examples("Readiness", "Readiness", &[ready]);
}

#[test]
fn the_output_of_every_command_is_described_field_by_field() {
    let place = Place::with(&yaml());
    let page = Page::read("output.md");
    let serve = place.serve(&[]);
    let gone = serve.queue(&place.delivery("hub", "hub.example.com/prod/not-found:1"));
    let record = place.settled(&gone);
    let records = Page::read("record.md");
    records.check_examples("The ledger record", "Fields", &[record]);

    let list = || printed(&place, &["dlq", "list"]);
    let list = wait_for("the dead letter", || {
        Some(list()).filter(|it| it["letters"][0].is_object())
    });
    page.check("dlq list", std::slice::from_ref(&list));
    let shown = printed(&place, &["dlq", "show", &gone]);
    page.check("dlq show", std::slice::from_ref(&shown));
    page.check(
        "dlq list",
        &[json!({
            "queue": null, "hidden": 0, "groups": list["groups"], "letters": [shown["letter"]],
        })],
    );
    let exported = place.run(&["dlq", "export"]).stdout;
    let exported: Value = serde_json::from_str(&exported).unwrap();
    page.check(
        "dlq export",
        &[exported.clone(), shown["messages"][0].clone()],
    );
    let attributes = exported["attributes"].as_object().unwrap().keys().cloned();
    assert_eq!(
        attributes.collect::<BTreeSet<_>>(),
        Page::read("message.md").names("Dead letters")
    );

    let dry_run = printed(&place, &["dlq", "redrive"]);
    page.check("dlq redrive and dlq delete, without `--yes`", &[dry_run]);
    let done = printed(&place, &["dlq", "redrive", "--yes", &gone]);
    page.check("dlq redrive and dlq delete, with `--yes`", &[done]);

    let url = format!("--url=http://{}", serve.address);
    let nowhere = "--url=http://127.0.0.1:1";
    let sent = printed(&place, &["send", "harbor", &url]);
    let failed = printed(&place, &["send", "harbor", nowhere, "--count=2"]);
    let deliveries = [sent, failed].into_iter();
    let deliveries = deliveries.flat_map(|it| it.as_array().unwrap().clone());
    page.check("send", &deliveries.collect::<Vec<_>>());
    let load = ["send", "harbor", nowhere, "--count=2", "--summary"];
    page.check("send --summary", &[printed(&place, &load)]);

    let backfill = [
        "backfill",
        "harbor",
        "--dry-run",
        "--repositories=prod/pass",
    ];
    page.check("backfill", &[printed(&place, &backfill)]);

    std::fs::write(place.path("sample.json"), of_two_registries().to_string()).unwrap();
    let checked = printed(&place, &["check", "--sample=sample.json", "harbor"]);
    page.check("check --sample", &[checked]);
}

#[test]
fn the_output_of_the_doctor_is_described_field_by_field() {
    let place = Place::with(&YAML.replace("http://127.0.0.1:1", "https://127.0.0.1:1"));
    let arguments = [
        "doctor",
        "--scanner-cli=./nowhere",
        "--pass-image=127.0.0.1:1/a:1",
        "--fail-image=127.0.0.1:1/b:1",
    ];
    Page::read("output.md").check("doctor", &[printed(&place, &arguments)]);
}

#[test]
fn every_word_of_readiness_and_of_the_doctor_is_described() {
    let set = |words: &[&str]| {
        words
            .iter()
            .map(|it| (*it).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let causes = [
        Cause::DiskFull,
        Cause::ReadOnly,
        Cause::Locked,
        Cause::Io,
        Cause::Damaged,
        Cause::Unavailable,
    ];
    let causes = causes.map(|it| {
        // A new word must be added to the list above; likewise below.
        match it {
            Cause::DiskFull
            | Cause::ReadOnly
            | Cause::Locked
            | Cause::Io
            | Cause::Damaged
            | Cause::Unavailable => it.as_str(),
        }
    });
    assert_eq!(Page::read("answers.md").names("Causes"), set(&causes));

    let page = Page::read("output.md");
    let outcomes = [
        Outcome::Ok,
        Outcome::Warning,
        Outcome::Failed,
        Outcome::NotChecked,
    ];
    let outcomes = outcomes.map(|it| match it {
        Outcome::Ok | Outcome::Warning | Outcome::Failed | Outcome::NotChecked => it.as_str(),
    });
    assert_eq!(page.names("Outcomes of a check"), set(&outcomes));
    let findings = [Finding::Verified, Finding::Refuted, Finding::NotChecked];
    let findings = findings.map(|it| match it {
        Finding::Verified | Finding::Refuted | Finding::NotChecked => it.as_str(),
    });
    assert_eq!(page.names("Findings on an assumption"), set(&findings));
}
