//! `scanhook check --sample`: what the webhook would do with a saved delivery, and why.

use std::fs;

use serde_json::{Value, json};

use crate::world::{Place, Ran, digest};

/// Secrets that can't be resolved, because a dry run needs none.
const YAML: &str = r#"
sources:
  prod:
    kind: harbor
    registry: harbor.example.com
    hosts: [harbor.internal]
    auth: [{ type: token, secret: "env:NOT_SET" }]
    include: ["prod/**"]
    exclude: ["**/tmp", "**/cache"]
    tags: { exclude: ["*-dev"] }
  azure: { kind: acr, registry: example.azurecr.io, auth: [{ type: token, secret: "file:/nowhere/secret" }] }
  zot: { kind: zot, registry: zot.example.com, auth: [{ type: bearer, secret: "env:NOT_SET" }] }
  hub: { kind: docker-hub, auth: [{ type: path_token, secret: "env:NOT_SET" }] }
limits: { body: 4KiB }
"#;

fn check(place: &Place, source: &str, body: &str, more: &[&str]) -> Ran {
    fs::write(place.path("sample.json"), body).unwrap();
    place.run(&[&["check", "--sample=sample.json", source], more].concat())
}

/// The report: exit code, status, problem; and for each event outcome or reason, image, tag and explanation.
fn report(place: &Place, source: &str, body: &Value) -> (i32, u64, String, Vec<[String; 4]>) {
    let ran = check(place, source, &body.to_string(), &["--output=json"]);
    assert_eq!(ran.stderr, "");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let events = report["events"].as_array().unwrap().iter().map(|it| {
        let outcome = if it["reason"].is_null() {
            &it["outcome"]
        } else {
            &it["reason"]
        };
        [
            text(outcome),
            text(&it["image"]),
            text(&it["tag"]),
            text(&it["why"]),
        ]
    });
    (
        ran.code.unwrap(),
        report["status"].as_u64().unwrap(),
        text(&report["problem"]),
        events.collect(),
    )
}

fn push(resources: &Value, repository: &str) -> Value {
    json!({
        "type": "PUSH_ARTIFACT", "occur_at": 1_795_291_200, "operator": "ci",
        "event_data": {"resources": resources, "repository": {"repo_full_name": repository}},
    })
}

#[test]
fn every_event_is_shown_with_its_outcome_and_reason() {
    let place = Place::with(YAML);
    let resources = json!([
        {"tag": "1", "digest": digest(1), "resource_url": "harbor.internal/prod/api:1"},
        {"tag": "1", "digest": digest(1)},
        {"tag": digest(2), "digest": digest(2)},
        {"tag": "2-dev"},
        {"tag": "3", "resource_url": "https://evil.example.com/prod/api:3"},
        {"tag": format!("{}.sig", digest(3).replace(':', "-"))},
        {"tag": "$(id)"},
    ]);
    let (code, status, problem, events) = report(&place, "prod", &push(&resources, "prod/api"));
    assert_eq!((code, status, problem.as_str()), (1, 202, ""));
    let api = "harbor.example.com/prod/api";
    let signature = format!("{}.sig", digest(3).replace(':', "-"));
    let expected = [
        [
            "queued",
            api,
            "1",
            "PUSH_ARTIFACT of an image that the source selects",
        ],
        [
            "repeated_in_delivery",
            api,
            "1",
            "the same image is earlier in this delivery",
        ],
        [
            "untagged",
            api,
            "",
            "pushed by digest only, and `untagged` is skip",
        ],
        [
            "filtered_tag",
            api,
            "2-dev",
            "pattern 1 of `tags.exclude` matches 2-dev",
        ],
        [
            "foreign_registry",
            api,
            "3",
            "the payload names \"evil.example.com\"; `registry` and `hosts` are harbor.example.com, harbor.internal",
        ],
        [
            "queued",
            api,
            &signature,
            "PUSH_ARTIFACT of an image that the source selects",
        ],
        [
            "malformed",
            "",
            "",
            "the payload names no valid tag, looked for at resources[].tag of the data",
        ],
    ];
    assert_eq!(events, expected.map(|it| it.map(str::to_owned)));

    for (repository, why) in [
        ("dev/api", "no pattern of `include` matches dev/api"),
        ("prod/cache", "pattern 2 of `exclude` matches prod/cache"),
    ] {
        let (code, status, _, events) =
            report(&place, "prod", &push(&json!([{"tag": "1"}]), repository));
        assert_eq!((code, status), (0, 200));
        assert_eq!(
            (events[0][0].as_str(), events[0][3].as_str()),
            ("filtered_repository", why)
        );
    }
    let pulled = json!({"type": "PULL_ARTIFACT"});
    assert_eq!(
        report(&place, "prod", &pulled).3[0][..1],
        ["not_a_push".to_owned()]
    );
}

#[test]
fn the_table_shows_the_same() {
    let place = Place::with(YAML);
    let body = push(&json!([{"tag": "1"}, {"tag": "2-dev"}]), "prod/api");
    let ran = check(&place, "prod", &body.to_string(), &[]);
    assert_eq!(ran.code, Some(0));
    for words in [
        "prod (harbor): 202 1 to scan, 1 skipped",
        "harbor.example.com/prod/api:1 ",
        "queued",
        "skipped: filtered_tag",
        "pattern 1 of `tags.exclude` matches 2-dev",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
}

#[test]
fn a_refused_sample_is_shown_with_the_place_of_the_field() {
    let place = Place::with(YAML);
    let problem = |source: &str, body: &str| {
        let ran = check(&place, source, body, &[]);
        assert_eq!(ran.code, Some(1), "{}", ran.stdout);
        ran.stdout
    };
    let printed = problem(
        "hub",
        r#"{"push_data":{},"repository":{"repo_name":"a/b"}}"#,
    );
    assert_eq!(
        printed,
        "hub (docker-hub): 400 the payload names no valid tag, looked for at push_data.tag\n"
    );
    let printed = problem(
        "hub",
        r#"{"push_data":{"tag":"1","tag":"2"},"repository":{}}"#,
    );
    assert!(
        printed.contains("at push_data: duplicate field `tag`"),
        "{printed}"
    );
    let printed = problem("prod", "{");
    assert!(printed.contains("400 the body is not JSON"), "{printed}");
    let printed = problem("prod", &" ".repeat(5_000));
    assert!(
        printed.contains("413 the body is longer than limits.body, 4096 bytes"),
        "{printed}"
    );
}

#[test]
fn the_headers_come_from_the_headers_file_or_from_the_kind() {
    let place = Place::with(YAML);
    let body = json!({"name": "team/app", "reference": "1", "digest": digest(1)});
    assert_eq!(report(&place, "zot", &body).1, 202);
    fs::write(
        place.path("sample.headers"),
        "Ce-Type: zotregistry.image.deleted\n",
    )
    .unwrap();
    assert_eq!(
        report(&place, "zot", &body).3[0][..1],
        ["not_a_push".to_owned()]
    );
    fs::write(
        place.path("sample.json.headers"),
        "\nce-type: own.image.updated\n",
    )
    .unwrap();
    assert_eq!(report(&place, "zot", &body).1, 202);
    fs::write(place.path("sample.json.headers"), "nonsense\n").unwrap();
    let ran = check(&place, "zot", &body.to_string(), &[]);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr
            .contains("sample.json.headers:1: not `Name: value`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_validation_is_shown_with_its_answer() {
    let place = Place::with(YAML);
    let body = json!([{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "C-1"}}]);
    let ran = check(&place, "azure", &body.to_string(), &[]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (
            Some(0),
            "azure (acr): 200 a validation, answered with C-1\n"
        )
    );
}

#[test]
fn a_missing_source_or_file_exits_with_2() {
    let place = Place::with(YAML);
    for (arguments, words) in [
        (
            &["check", "--sample=none.json", "prod"] as &[&str],
            "could not read none.json",
        ),
        (
            &["check", "--sample=scanhook.yaml", "other"],
            "has no source other",
        ),
        (&["check", "--sample=scanhook.yaml"], "SOURCE"),
        (&["check", "prod"], "--sample"),
    ] {
        let ran = place.run(arguments);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
}
