//! What people get wrong, and what they are shown of it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Config;

const GOOD: &str = r#"sources:
  prod:
    kind: harbor
    registry: harbor.example.com
    auth:
      - { type: token, header: Authorization, secret: "env:HARBOR" }
  own:
    kind: generic
    registry: registry.example.com
    hosts: [cache.example.com]
    auth:
      - type: hmac
        header: X-Signature
        algorithm: sha256
        encoding: hex
        prefix: sha256=
        secret: env:OWN
      - { type: basic, username: push, secret: "env:OWN" }
      - { type: oidc, issuer: "https://i.example.com", audience: a, email: a@example.com }
      - { type: oidc, issuer: "https://i.example.com", audience: a, subject: "1137" }
    include: [team/**]
    exclude: [team/tmp/*]
    tags: { include: ["v*"], exclude: ["*-dev"] }
    untagged: scan
    platforms: [linux/arm64]
    policies: [one]
    payload:
      events: /events
      match: { /type: [PUSH], "header:Ce-Type": [push] }
      ping: { /ping: null }
      repository: [/a, /b]
      tag: /t
      digest: /d
      host: /h
      media_type: /m
      id: /i
      type: /k
      actor: /w
      time: /z
    rate_limit: { per_minute: 60, burst: 5 }
  acr:
    kind: acr
    registry: a.azurecr.io
    auth:
      - { type: bearer, secret: "ssm:/scanhook/webhook/acr" }
    events: [quarantine]
  artifactory:
    kind: artifactory
    registry: artifactory.example.com
    auth: [{ type: path_token, secret: "file:/secret" }]
    repo_key: drop
registries:
  harbor.example.com:
    credentials: { type: basic, username: robot, password: "env:PASSWORD" }
    insecure: false
    ca: ssm:/scanhook/scanner/ca
    pulls: 4
    allow: [10.0.0.0/8]
  bearer.example.com:
    credentials: { type: bearer, username: token, token: "env:TOKEN" }
  "*.pkg.dev":
    credentials: { type: gar, key: "env:KEY" }
  "*.azurecr.io":
    credentials: { type: acr, tenant: example.com, username: id, password: "env:ACR" }
scanner:
  api_url: https://secure.sysdig.com
  api_token: env:SYSDIG
  policies: [all]
  timeout: 10m
  concurrency: 2
  max_image: 8GiB
dedup: { window: 10m }
retry: { attempts: 10, base: 30s, cap: 1h }
ledger: { keep: 90d }
limits: { body: 1MiB }
"#;

#[test]
fn each_mistake_is_shown_with_its_line_its_column_and_what_is_expected() {
    let mut shown = String::new();
    for (good, bad) in [
        ("kind: harbor", "kind: harbour"),
        ("kind: harbor", "kind: jfrog"),
        ("    registry: harbor.example.com\n", ""),
        ("registry: harbor.", "registy: harbor."),
        ("kind: harbor\n", "kind: harbor\n    colour: red\n"),
        ("kind: harbor\n", "kind: harbor\n    kind: zot\n"),
        ("\"env:HARBOR\"", "hunter2-hunter2-hunter2"),
        ("\"env:HARBOR\"", "[\"env:HARBOR\"]"),
        ("algorithm: sha256", "algorithm: sha265"),
        ("type: oidc", "type: Oidc"),
        ("hosts: [cache.example.com]", "hosts: cache.example.com"),
        ("include: [team/**]", "include: [[team]]"),
        ("per_minute: 60", "per_minute: 1.5"),
        ("per_minute: 60", "per_minute: many"),
        ("insecure: false", "insecure: no"),
        ("allow: [10.0.0.0/8]", "allow: [10.0.0.0/33]"),
        ("  timeout: 10m", "  timeout: 600"),
        ("  timeout: 10m", "timeout: 10m"),
        ("  timeout: 10m", "\ttimeout: 10m"),
        ("dedup: { window: 10m }", "dedup:"),
        ("limits: { body: 1MiB }", "limits: { body: 1GiB }"),
        ("limits: { body: 1MiB }", "limits: { body: 1MiB"),
        ("limits: { body: 1MiB }", "limits: { body: 1MiB }\n---\n"),
        ("retry: {", "retry: { <<: *common,"),
        ("retry: {", "retry: { env:X,"),
        ("secret: env:OWN", "secret: @own"),
    ] {
        assert!(GOOD.contains(good), "{good}");
        let err = Config::parse(&GOOD.replacen(good, bad, 1)).unwrap_err();
        writeln!(shown, "{}\n  {err}", bad.trim_end().escape_debug()).unwrap();
    }
    insta::assert_snapshot!(shown, @r#"
kind: harbour
  sources.prod.kind (line 3, column 11): expected one of acr, artifactory, distribution, docker-hub, ecr, gar, generic, ghcr, gitea, gitlab, harbor, nexus, quay, zot, found "harbour"; did you mean "harbor"?
kind: jfrog
  sources.prod.kind (line 3, column 11): expected one of acr, artifactory, distribution, docker-hub, ecr, gar, generic, ghcr, gitea, gitlab, harbor, nexus, quay, zot, found "jfrog"

  sources.prod.registry (line 3, column 5): expected the host that images are pulled from: a name or an address in lower case, with an optional port, found nothing
registy: harbor.
  sources.prod.registy (line 4, column 5): expected one of kind, registry, hosts, auth, include, exclude, tags, untagged, platforms, policies, events, repo_key, payload, rate_limit, found the key "registy"; did you mean "registry"?
kind: harbor\n    colour: red
  sources.prod.colour (line 4, column 5): expected one of kind, registry, hosts, auth, include, exclude, tags, untagged, platforms, policies, events, repo_key, payload, rate_limit, found the key "colour"
kind: harbor\n    kind: zot
  sources.prod (line 4, column 5): the key "kind" is repeated
hunter2-hunter2-hunter2
  sources.prod.auth[0].secret (line 6, column 55): expected a reference such as env:NAME, file:PATH, ssm:/NAME or secretsmanager:NAME[#key], found a string
[\"env:HARBOR\"]
  sources.prod.auth[0].secret (line 6, column 55): expected a reference such as env:NAME, file:PATH, ssm:/NAME or secretsmanager:NAME[#key], found a list
algorithm: sha265
  sources.own.auth[0].algorithm (line 14, column 20): expected one of sha1, sha256, sha512, found "sha265"; did you mean "sha256"?
type: Oidc
  sources.own.auth[2].type (line 19, column 17): expected one of hmac, token, bearer, basic, path_token, oidc, found "Oidc"; did you mean "oidc"?
hosts: cache.example.com
  sources.own.hosts (line 10, column 12): expected a list, found a string
include: [[team]]
  sources.own.include[0] (line 21, column 15): expected a string, found a list
per_minute: 1.5
  sources.own.rate_limit.per_minute (line 40, column 31): expected a whole number below 2^32, found a decimal number
per_minute: many
  sources.own.rate_limit.per_minute (line 40, column 31): expected a whole number below 2^32, found a string
insecure: no
  registries.harbor.example.com.insecure (line 55, column 15): expected true or false, found a string
allow: [10.0.0.0/33]
  registries.harbor.example.com.allow[0] (line 58, column 13): expected a network such as 10.1.0.0/16, found a string
  timeout: 600
  scanner.timeout (line 69, column 12): expected a duration such as 30s, 10m, 1h or 90d, found a number
timeout: 10m
  timeout (line 69, column 1): expected one of sources, registries, scanner, dedup, retry, ledger, limits, found the key "timeout"
\ttimeout: 10m
  scanner (line 69, column 2): not YAML: tabs disallowed within this context (block indentation)
dedup:
  dedup (line 72, column 6): expected a map, found null
limits: { body: 1GiB }
  limits.body (line 75, column 17): expected a size between 1KiB and 4MiB, found a string
limits: { body: 1MiB
  limits (line 75, column 9): not YAML: unclosed bracket '{'
limits: { body: 1MiB }\n---
  top level (line 76, column 4): expected one document, found another after ---
retry: { <<: *common,
  retry (line 73, column 10): merge keys (<<) are not supported
retry: { env:X,
  retry (line 73, column 10): expected one of attempts, base, cap, found another key
secret: @own
  sources.own.auth[0] (line 17, column 17): not YAML: this character can't start a value; quote the value
"#);
}

const MARK: &str = "CANARY541754175417";

fn assert_unmarked(yaml: &str) {
    let shown = match Config::parse(yaml) {
        Ok(config) => config.warnings.join("\n"),
        Err(err) => format!("{err} {err:?}"),
    };
    assert!(
        !shown.contains("CANARY") && !shown.contains("5417"),
        "{shown}\n{yaml}"
    );
}

/// Calls `with` with the value as often as it has values inside, one of which is replaced each time.
fn replace_each(value: &Value, by: &Value, with: &mut dyn FnMut(&Value)) {
    with(by);
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                replace_each(child, by, &mut |it| {
                    let mut map = map.clone();
                    map.insert(key.clone(), it.clone());
                    with(&Value::Object(map));
                });
            }
        }
        Value::Array(list) => {
            for (index, child) in list.iter().enumerate() {
                replace_each(child, by, &mut |it| {
                    let mut list = list.clone();
                    list[index] = it.clone();
                    with(&Value::Array(list));
                });
            }
        }
        _ => {}
    }
}

#[test]
fn no_message_shows_a_value_wherever_it_is_and_of_whatever_type() {
    let good: Value = serde_saphyr::from_str(GOOD).unwrap();
    assert_eq!(Config::parse(&good.to_string()).err(), None);
    let mut positions = 0;
    for bad in [
        json!(MARK),
        json!(format!("env:{MARK}")),
        json!(541_754_175_417_u64),
        json!([MARK]),
        json!({ "secret": MARK }),
        json!([{ "type": MARK, "secret": MARK }]),
    ] {
        replace_each(&good, &bad, &mut |it| {
            positions += 1;
            assert_unmarked(&it.to_string());
        });
    }
    assert!(positions > 6 * 120, "{positions}");
}

#[test]
fn no_message_shows_a_value_that_is_not_even_yaml() {
    // A list of maps, keys in both styles and a whole source: the other sections are parsed in the same way.
    let lines: Vec<&str> = GOOD.lines().take(24).collect();
    for bad in [
        format!("{MARK}: {MARK}"),
        format!("*{MARK}"),
        format!("&{MARK}"),
        format!("!{MARK} {MARK}"),
        format!("!!binary {MARK}"),
        format!("@{MARK}"),
        format!("\"{MARK}"),
        format!("'{MARK}"),
        format!("\"\\x{MARK}\""),
        format!("[{MARK}"),
        format!("{{ {MARK}"),
        format!("{{ ? [{MARK}] : {MARK} }}"),
        format!("{{ {MARK} }}"),
        format!("{{ {MARK}: {MARK} }}"),
        format!("|{MARK}"),
        format!("\n{MARK}"),
        format!("\n\t- {MARK}"),
        format!("\n---\n{MARK}"),
        format!("%{MARK}"),
    ] {
        for (index, line) in lines.iter().enumerate() {
            let Some((key, _)) = line.split_once(": ") else {
                continue;
            };
            let mut lines = lines.clone();
            let line = format!("{key}: {bad}");
            lines[index] = &line;
            assert_unmarked(&lines.join("\n"));
        }
    }
}
