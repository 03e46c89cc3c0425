//! The table of `docs/reference/outcomes.md`, with each behaviour that the stand-in has.

use std::fmt::Write as _;

use scanhook_stand_in::behaviour::{self, Ends};

use crate::processes::{alive, left};
use crate::world::{World, message, message_for, stand_in};

#[tokio::test]
async fn each_behaviour_of_the_cli_becomes_what_the_contract_says() {
    let mut table = String::new();
    for behaviour in behaviour::all() {
        let timeout = if behaviour.ends == Ends::Never {
            "1s"
        } else {
            "60s"
        };
        let world = World::with(timeout, &stand_in()).await;
        // On the second receive, so that no first-time leniency hides what is permanent.
        let outcome = world.outcome(&message(behaviour.name), 2).await;
        writeln!(table, "{:<28}{outcome}", behaviour.name).unwrap();
        assert_eq!(alive(&world.scratch()), [""; 0], "{}", behaviour.name);
        let expected: &[_] = match behaviour.name {
            "killed" | "wrong-region" => &["lock"],
            _ if behaviour.ends == Ends::Never => &["lock"],
            _ => &["lock", "slot-0/database"],
        };
        assert_eq!(left(&world.scratch()), expected, "{}", behaviour.name);
    }
    insta::assert_snapshot!(table, @r"
    pass                        passed [0, 2, 2, 1, 1] confirmed
    pass-clean                  passed [0, 0, 0, 0, 0] confirmed
    pass-despite-failed-policy  passed [2, 2, 2, 1, 1] confirmed
    accepted                    passed [2, 2, 2, 1, 1] confirmed
    no-policy                   passed no_policy [0, 2, 2, 1, 1] confirmed
    policies-absent             passed no_policy [0, 2, 2, 1, 1] confirmed
    policies-null               passed no_policy [0, 2, 2, 1, 1] confirmed
    fail                        failed [2, 2, 2, 1, 1] confirmed
    bad-token                   dead letter: bad_token
    wrong-region                retried: database
    database-stale              passed [0, 2, 2, 1, 1] confirmed
    not-found                   dead letter: image_not_found
    registry-401                dead letter: unauthorized
    registry-login              passed [0, 2, 2, 1, 1] confirmed
    registry-denied             dead letter: unauthorized
    rate-limited                retried: rate_limited
    unsupported                 dead letter: unsupported_image
    no-platform                 dead letter: unsupported_image
    untrusted-tls               dead letter: untrusted_tls
    network                     retried: network
    network-5xx                 retried: network
    flaky                       retried: network
    no-space                    dead letter: no_space
    fill-disk                   dead letter: no_space
    unknown-error               retried: scanner_error
    digits-in-digest            retried: scanner_error
    toomanyrequests-denied-eof  retried: scanner_error
    prints-token                retried: scanner_error
    exit-2                      dead letter: bad_parameters
    go-panic                    retried: scanner_error
    exit-42                     retried: scanner_error
    slow                        passed [0, 2, 2, 1, 1] confirmed
    hang                        retried: timeout
    hang-ignoring-term          retried: timeout
    grandchild                  passed [0, 2, 2, 1, 1] confirmed
    grandchild-hang             retried: timeout
    killed                      retried: out_of_memory
    truncated                   retried: no_report
    no-report                   retried: no_report
    no-report-fail              retried: no_report
    empty-report                retried: no_report
    not-json                    retried: no_report
    older-schema                retried: no_report
    huge-report                 retried: no_report
    contradiction-pass          dead letter: report_mismatch
    contradiction-fail          dead letter: report_mismatch
    unknown-evaluation          retried: no_report
    other-repository            dead letter: report_mismatch
    other-digest                dead letter: report_mismatch
    index-digest                passed [0, 2, 2, 1, 1] unconfirmed
    no-digest                   passed [0, 2, 2, 1, 1] unconfirmed
    empty-digest                passed [0, 2, 2, 1, 1] unconfirmed
    huge-stderr                 passed [0, 2, 2, 1, 1] confirmed
    huge-stdout                 passed [0, 2, 2, 1, 1] confirmed
    leftovers                   passed [0, 2, 2, 1, 1] confirmed
    prints-env                  passed [0, 2, 2, 1, 1] confirmed
    ");
}

#[tokio::test]
async fn a_record_has_its_event_and_the_policies_that_were_evaluated() {
    let world = World::start().await;
    let mut message = message_for("scan", "demo/fail");
    message["event"]["id"] = "fake-event-id".into();
    message["event"]["occurred_at"] = "2026-11-21T19:59:57Z".into();
    world.outcome(&message.to_string(), 1).await;
    let record = serde_json::to_value(world.record("scan").unwrap()).unwrap();
    assert_eq!(
        record["event"],
        serde_json::json!({
            "id": "fake-event-id", "type": "PUSH_ARTIFACT", "actor": "ci",
            "occurred_at": "2026-11-21T19:59:57Z",
        })
    );
    assert_eq!(
        record["policies_evaluated"],
        serde_json::json!(["Sysdig Best Practices", "of-all", "of-source"])
    );
    assert_eq!(
        record["policies_failed"],
        serde_json::json!(["Sysdig Best Practices"])
    );
}
