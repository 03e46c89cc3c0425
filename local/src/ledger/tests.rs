//! One suite for every store of claims and records, and what only SQLite has.

use scanhook_core::failure::{Class, ErrorReason};
use scanhook_core::image::{Digest, Image};
use scanhook_core::message::QueueMessage;
use scanhook_core::platform::Platform;
use scanhook_core::record::RecordVerdict;
use scanhook_core::report::{Evaluation, Findings, Report};
use scanhook_core::source::SourceName;
use scanhook_core::target::{Choice, Target};
use scanhook_core::verdict::{Identity, Judged};

use super::*;

/// How long the stores of the suite keep things.
const KEEP: Duration = Duration::from_hours(1);

/// Runs each case on a fresh store that two workers have opened.
macro_rules! suite {
    ($($case:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $case() {
                let directory = tempfile::tempdir().unwrap();
                let open = || super::open(directory.path());
                super::$case(open(), open()).await;
            })*
        }

        #[cfg(feature = "dynamodb-tests")]
        mod dynamodb {
            $(#[tokio::test]
            async fn $case() {
                let table = super::table::create(stringify!($case)).await;
                super::$case(super::table::open(&table).await, super::table::open(&table).await).await;
            })*
        }
    };
}

suite! {
    a_claim_is_held_until_it_ends_and_its_holder_may_take_it_again
    a_finished_scan_satisfies_who_asks_within_the_window
    each_verdict_is_told_as_it_was_reached
    only_the_holder_can_release_a_claim
    only_the_holder_can_finish_a_claim
    a_scan_that_outlasts_its_claim_counts_unless_another_has_begun
    a_call_that_is_made_twice_does_no_harm
    claims_on_other_content_are_independent
    a_claim_that_expired_counts_for_nothing
    of_two_workers_that_race_one_wins_each_of_a_thousand_times
    a_record_takes_the_place_of_its_earlier_one
    a_verdict_stays_when_its_message_comes_once_more
    a_verdict_stays_when_an_earlier_attempt_tells_late_of_its_failure
    records_of_each_platform_are_found_by_the_scan_in_order
    records_of_several_images_for_one_platform_stand_side_by_side
    records_that_expired_are_gone
    the_latest_records_are_listed_across_pages
    filters_choose_what_is_listed
}

#[cfg(feature = "dynamodb-tests")]
mod table {
    //! Tables as `docs/reference/ledger.md` describes them, on the server that `SCANHOOK_TEST_DYNAMODB` names.

    use aws_sdk_dynamodb::Client;
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType,
        Projection, ProjectionType, ScalarAttributeType, TimeToLiveSpecification,
    };
    use scanhook_scanner::dynamodb::DynamoDbLedger;
    use scanhook_scanner::ledger::Ledger as _;
    use std::time::Duration;

    fn config() -> aws_config::SdkConfig {
        let endpoint = scanhook_config::environment()("SCANHOOK_TEST_DYNAMODB");
        let endpoint = endpoint.expect("SCANHOOK_TEST_DYNAMODB names the server's endpoint");
        let keys = Credentials::new("test", "test", None, None, "test");
        aws_config::SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .credentials_provider(
                aws_credential_types::provider::SharedCredentialsProvider::new(keys),
            )
            .endpoint_url(endpoint)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build()
    }

    fn key(name: &str, kind: KeyType) -> KeySchemaElement {
        KeySchemaElement::builder()
            .attribute_name(name)
            .key_type(kind)
            .build()
            .unwrap()
    }

    pub(super) async fn create(name: &str) -> String {
        let client = Client::new(&config());
        let attributes = ["pk", "sk", "list_shard", "listed_at"].map(|it| {
            let attribute = AttributeDefinition::builder().attribute_name(it);
            attribute
                .attribute_type(ScalarAttributeType::S)
                .build()
                .unwrap()
        });
        let index = GlobalSecondaryIndex::builder()
            .index_name("by_time")
            .key_schema(key("list_shard", KeyType::Hash))
            .key_schema(key("listed_at", KeyType::Range))
            .projection(
                Projection::builder()
                    .projection_type(ProjectionType::All)
                    .build(),
            );
        let call = client
            .create_table()
            .table_name(name)
            .set_attribute_definitions(Some(attributes.to_vec()))
            .key_schema(key("pk", KeyType::Hash))
            .key_schema(key("sk", KeyType::Range))
            .global_secondary_indexes(index.build().unwrap())
            .billing_mode(BillingMode::PayPerRequest);
        call.send().await.unwrap();
        let ttl = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name("expires_at");
        let call = client.update_time_to_live().table_name(name);
        call.time_to_live_specification(ttl.build().unwrap())
            .send()
            .await
            .unwrap();
        name.to_owned()
    }

    pub(super) async fn open(table: &str) -> DynamoDbLedger {
        let ledger = DynamoDbLedger::new(
            &config(),
            table.to_owned(),
            super::KEEP,
            Duration::from_mins(1),
        );
        ledger.ping().await.unwrap().unwrap();
        ledger
    }
}

fn open(directory: &Path) -> SqliteLedger {
    SqliteLedger::open(&directory.join("ledger"), KEEP, at(0)).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn id(text: &str) -> ScanId {
    ScanId::try_from(text.to_owned()).unwrap()
}

fn source(name: &str) -> SourceName {
    SourceName::try_from(name.to_owned()).unwrap()
}

fn key_of(repository: &str) -> ClaimKey {
    let image = Image::parse(&format!("h.io/{repository}@sha256:{}", "ab".repeat(32))).unwrap();
    let digest = image.pin.digest().unwrap().clone();
    ClaimKey::new(&Target::new(&image, digest), &[])
}

fn key() -> ClaimKey {
    key_of("a")
}

fn error() -> ScanError {
    ScanError {
        reason: ErrorReason::Network,
        class: Class::Transient,
        detail: "x".to_owned(),
    }
}

/// A claim at second `now` until 100 seconds later, satisfied by a scan that finished after `satisfied_after`.
async fn claim_of(
    ledger: &impl Ledger,
    key: &ClaimKey,
    holder: &str,
    now: i64,
    satisfied_after: Timestamp,
) -> Claim {
    let holder = id(holder);
    let request = ClaimRequest {
        key,
        holder: &holder,
        now: at(now),
        until: at(now + 100),
        satisfied_after,
    };
    ledger.claim(request).await.unwrap()
}

/// The same for the one content of most cases, satisfied by a scan of the last 50 seconds.
async fn claim(ledger: &impl Ledger, holder: &str, now: i64) -> Claim {
    claim_of(ledger, &key(), holder, now, at(now - 50)).await
}

async fn finish(ledger: &impl Ledger, holder: &str, verdict: Verdict, now: i64) {
    ledger
        .finish(&key(), &id(holder), verdict, at(now))
        .await
        .unwrap();
}

async fn release(ledger: &impl Ledger, holder: &str) {
    ledger.release(&key(), &id(holder), &error()).await.unwrap();
}

async fn a_claim_is_held_until_it_ends_and_its_holder_may_take_it_again(
    ledger: impl Ledger,
    other: impl Ledger,
) {
    assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
    assert_eq!(claim(&other, "b", 99).await, Claim::InProgress(at(100)));
    assert_eq!(claim(&ledger, "a", 99).await, Claim::Claimed);
    assert_eq!(claim(&other, "b", 150).await, Claim::InProgress(at(199)));
    assert_eq!(claim(&other, "b", 199).await, Claim::Claimed);
    assert_eq!(claim(&ledger, "a", 200).await, Claim::InProgress(at(299)));
}

async fn a_finished_scan_satisfies_who_asks_within_the_window(
    ledger: impl Ledger,
    other: impl Ledger,
) {
    assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
    finish(&ledger, "a", Verdict::Failed, 10).await;
    assert_eq!(claim(&other, "b", 59).await, Claim::Done(Verdict::Failed));
    assert_eq!(claim(&ledger, "a", 59).await, Claim::Done(Verdict::Failed));
    assert_eq!(claim(&other, "b", 60).await, Claim::Claimed);
    assert_eq!(claim(&ledger, "c", 61).await, Claim::InProgress(at(160)));
    finish(&other, "b", Verdict::Passed, 70).await;
    // Nobody who is to scan in any case is satisfied.
    let forced = claim_of(&ledger, &key(), "c", 71, Timestamp::MAX).await;
    assert_eq!(forced, Claim::Claimed);
}

async fn each_verdict_is_told_as_it_was_reached(ledger: impl Ledger, other: impl Ledger) {
    let verdicts = [
        Verdict::Passed,
        Verdict::PassedWithoutPolicy,
        Verdict::Failed,
    ];
    for (round, verdict) in (0..).map(|it| it * 1000).zip(verdicts) {
        assert_eq!(claim(&ledger, "a", round).await, Claim::Claimed);
        finish(&ledger, "a", verdict, round + 1).await;
        assert_eq!(claim(&other, "b", round + 2).await, Claim::Done(verdict));
    }
}

async fn only_the_holder_can_release_a_claim(ledger: impl Ledger, other: impl Ledger) {
    assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
    release(&other, "b").await;
    assert_eq!(claim(&other, "b", 1).await, Claim::InProgress(at(100)));
    release(&ledger, "a").await;
    assert_eq!(claim(&other, "b", 2).await, Claim::Claimed);
}

async fn only_the_holder_can_finish_a_claim(ledger: impl Ledger, other: impl Ledger) {
    finish(&ledger, "a", Verdict::Passed, 0).await;
    assert_eq!(claim(&ledger, "a", 1).await, Claim::Claimed);
    finish(&other, "b", Verdict::Passed, 2).await;
    assert_eq!(claim(&other, "b", 3).await, Claim::InProgress(at(101)));
}

async fn a_scan_that_outlasts_its_claim_counts_unless_another_has_begun(
    ledger: impl Ledger,
    other: impl Ledger,
) {
    assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
    finish(&ledger, "a", Verdict::Failed, 120).await;
    assert_eq!(claim(&other, "b", 121).await, Claim::Done(Verdict::Failed));

    assert_eq!(claim(&ledger, "a", 1000).await, Claim::Claimed);
    assert_eq!(claim(&other, "b", 1100).await, Claim::Claimed);
    finish(&ledger, "a", Verdict::Passed, 1110).await;
    release(&ledger, "a").await;
    assert_eq!(claim(&ledger, "c", 1120).await, Claim::InProgress(at(1200)));
    finish(&other, "b", Verdict::Failed, 1130).await;
    assert_eq!(
        claim(&ledger, "c", 1140).await,
        Claim::Done(Verdict::Failed)
    );
}

/// As the SDK does when the answer to its first try is lost.
async fn a_call_that_is_made_twice_does_no_harm(ledger: impl Ledger, other: impl Ledger) {
    for _ in 0..2 {
        assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
    }
    for _ in 0..2 {
        finish(&ledger, "a", Verdict::Passed, 10).await;
    }
    release(&ledger, "a").await;
    assert_eq!(claim(&other, "b", 11).await, Claim::Done(Verdict::Passed));
    for _ in 0..2 {
        release(&other, "b").await;
    }
    assert_eq!(claim(&other, "b", 12).await, Claim::Done(Verdict::Passed));
}

async fn claims_on_other_content_are_independent(ledger: impl Ledger, other: impl Ledger) {
    assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
    let claimed = claim_of(&other, &key_of("b"), "b", 0, at(-50)).await;
    assert_eq!(claimed, Claim::Claimed);
}

async fn a_claim_that_expired_counts_for_nothing(ledger: impl Ledger, other: impl Ledger) {
    let kept = i64::try_from(KEEP.as_secs()).unwrap();
    assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
    finish(&ledger, "a", Verdict::Passed, 10).await;
    // Whoever asks was satisfied by a scan of any age, but the store needn't know of one any more.
    let claimed = claim_of(&other, &key(), "b", 10 + kept - 1, Timestamp::MIN).await;
    assert_eq!(claimed, Claim::Done(Verdict::Passed));
    let claimed = claim_of(&other, &key(), "b", 10 + kept, Timestamp::MIN).await;
    assert_eq!(claimed, Claim::Claimed);
}

async fn of_two_workers_that_race_one_wins_each_of_a_thousand_times(
    ledger: impl Ledger,
    other: impl Ledger,
) {
    // They race for new content, for content whose claim was released, whose claim ended, and that was scanned long ago.
    for round in 0..1000 {
        let (key, now) = (key_of(&format!("r{}", round / 4)), round * 1000);
        let (one, two) = tokio::join!(
            claim_of(&ledger, &key, "a", now, at(now - 50)),
            claim_of(&other, &key, "b", now, at(now - 50))
        );
        let winner = match (one, two) {
            (Claim::Claimed, Claim::InProgress(until)) if until == at(now + 100) => "a",
            (Claim::InProgress(until), Claim::Claimed) if until == at(now + 100) => "b",
            both => panic!("round {round}: {both:?}"),
        };
        match round % 4 {
            0 => ledger.release(&key, &id(winner), &error()).await.unwrap(),
            2 => {
                let holder = id(winner);
                let finished = ledger.finish(&key, &holder, Verdict::Passed, at(now + 1));
                finished.await.unwrap();
            }
            _ => {}
        }
    }
}

fn record(scan_id: &str, repository: &str, received: i64) -> ScanRecord {
    let digest = "ab".repeat(32);
    let message = serde_json::json!({
        "version": 1, "scan_id": scan_id, "source": "prod",
        "image": {"registry": "h.io", "repository": repository, "tag": "1.0", "digest": format!("sha256:{digest}")},
        "event": {"id": "fake-event", "type": "push", "actor": "ci", "occurred_at": at(received).to_string(), "received_at": at(received).to_string()},
        "force": false,
    });
    let message = QueueMessage::parse(&message.to_string()).unwrap();
    ScanRecord::begin(&message, 1, at(received + 1))
}

fn judged(verdict: Verdict) -> Judged {
    Judged {
        verdict,
        identity: Identity::Confirmed,
        report: Report {
            cli_version: Some("1.22.6".to_owned()),
            result_url: None,
            pull_string: None,
            digest: None,
            image_id: None,
            evaluation: Evaluation::Failed,
            policies_evaluated: vec!["Sysdig Best Practices".to_owned(), "of-all".to_owned()],
            policies_failed: vec![
                "Sysdig Best Practices".to_owned(),
                "\"quoted\" ä".to_owned(),
            ],
            findings: Findings {
                critical: 1,
                high: u64::MAX,
                ..Findings::default()
            },
        },
    }
}

async fn a_record_takes_the_place_of_its_earlier_one(
    ledger: impl Ledger + History,
    other: impl Ledger + History,
) {
    assert_eq!(other.find(&id("01A"), at(0)).await.unwrap(), []);
    let begun = record("01A", "a", 0);
    ledger.record(&begun).await.unwrap();
    assert_eq!(
        other.find(&id("01A"), at(2)).await.unwrap(),
        std::slice::from_ref(&begun)
    );
    let retried = begun.clone().failed(&error(), State::Retrying, at(3));
    let done = begun.judged(&judged(Verdict::Failed), at(4));
    for record in [retried, done] {
        ledger.record(&record).await.unwrap();
        assert_eq!(
            other.find(&id("01A"), at(5)).await.unwrap(),
            std::slice::from_ref(&record)
        );
        let latest = other.latest(&ScanFilter::default(), 10, at(5)).await;
        assert_eq!(latest.unwrap(), [record]);
    }
}

async fn a_verdict_stays_when_its_message_comes_once_more(
    ledger: impl Ledger + History,
    other: impl Ledger + History,
) {
    let begun = record("01A", "a", 0);
    let done = begun.clone().judged(&judged(Verdict::Failed), at(4));
    let repeated = begun.clone().repeated(Verdict::Failed, at(5));
    ledger.record(&done).await.unwrap();
    other.record(&repeated).await.unwrap();
    assert_eq!(ledger.find(&id("01A"), at(6)).await.unwrap(), [done]);
    // What was not done takes it: that it waited for another request's scan is then its whole story.
    ledger
        .record(&begun.failed(&error(), State::Retrying, at(7)))
        .await
        .unwrap();
    other.record(&repeated).await.unwrap();
    assert_eq!(ledger.find(&id("01A"), at(8)).await.unwrap(), [repeated]);
}

async fn a_verdict_stays_when_an_earlier_attempt_tells_late_of_its_failure(
    ledger: impl Ledger + History,
    other: impl Ledger + History,
) {
    let hung = record("01A", "a", 0);
    let later = ScanRecord {
        started_at: at(5),
        ..hung.clone()
    };
    let done = later.clone().repeated(Verdict::Passed, at(6));
    ledger.record(&hung).await.unwrap();
    other.record(&done).await.unwrap();
    for state in [State::Retrying, State::DeadLetter] {
        let failed = hung.clone().failed(&error(), state, at(7));
        ledger.record(&failed).await.unwrap();
        assert_eq!(
            ledger.find(&id("01A"), at(8)).await.unwrap(),
            std::slice::from_ref(&done)
        );
    }
    // One that began later tells what is so by now.
    let again = ScanRecord {
        started_at: at(9),
        ..hung
    };
    other.record(&again).await.unwrap();
    assert_eq!(ledger.find(&id("01A"), at(9)).await.unwrap(), [again]);
}

async fn records_of_each_platform_are_found_by_the_scan_in_order(
    ledger: impl Ledger + History,
    other: impl Ledger + History,
) {
    let on = |platform: &str| ScanRecord {
        platform: Some(Platform::parse(platform).unwrap()),
        ..record("01A", "a", 0)
    };
    let (amd, arm) = (on("linux/amd64"), on("linux/arm64"));
    let next = record("01AB", "a", 0);
    // Before the registry has told the platforms there is a record without one; the first with one takes its place.
    for record in [&next, &record("01A", "a", 0), &arm, &amd] {
        ledger.record(record).await.unwrap();
    }
    let found = other.find(&id("01A"), at(1)).await.unwrap();
    assert_eq!(found, [amd.clone(), arm.clone()]);
    let latest = other
        .latest(&ScanFilter::default(), 10, at(1))
        .await
        .unwrap();
    assert_eq!(latest, [next, arm, amd]);
}

async fn records_of_several_images_for_one_platform_stand_side_by_side(
    ledger: impl Ledger + History,
    other: impl Ledger + History,
) {
    let of = |digit: &str| ScanRecord {
        platform: Some(Platform::parse("linux/amd64").unwrap()),
        digest: Some(Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap()),
        choice: Some(Choice {
            entry: digit.to_owned(),
            entries: 2,
            candidates: 2,
            passed_over: Vec::new(),
            others: 0,
        }),
        ..record("01A", "a", 0)
    };
    let (first, second) = (of("1"), of("2"));
    for record in [&record("01A", "a", 0), &second, &first, &second] {
        ledger.record(record).await.unwrap();
    }
    let found = other.find(&id("01A"), at(1)).await.unwrap();
    assert_eq!(found, [first, second]);
}

async fn records_that_expired_are_gone(
    ledger: impl Ledger + History,
    other: impl Ledger + History,
) {
    let kept = i64::try_from(KEEP.as_secs()).unwrap();
    let begun = record("01A", "a", 0);
    ledger.record(&begun).await.unwrap();
    for (second, expected) in [(kept, 1), (kept + 1, 0)] {
        let found = other.find(&id("01A"), at(second)).await.unwrap();
        assert_eq!(found.len(), expected);
        let latest = other.latest(&ScanFilter::default(), 10, at(second)).await;
        assert_eq!(latest.unwrap().len(), expected);
    }
}

async fn the_latest_records_are_listed_across_pages(
    ledger: impl Ledger + History,
    other: impl Ledger + History,
) {
    // Deliveries come in any order, several in the same moment.
    let order = |number: i64| (number * 7) % 300;
    for number in 0..300 {
        let number = order(number);
        let record = record(&format!("01-{number:03}"), "a", number / 3);
        ledger.record(&record).await.unwrap();
    }
    let latest = async |limit: usize| -> Vec<String> {
        let records = other.latest(&ScanFilter::default(), limit, at(300)).await;
        records
            .unwrap()
            .iter()
            .map(|it| it.scan_id.to_string())
            .collect()
    };
    let expected: Vec<_> = (0..300).rev().map(|it| format!("01-{it:03}")).collect();
    assert_eq!(latest(1000).await, expected);
    assert_eq!(latest(7).await, expected[..7]);
    assert_eq!(latest(0).await, [""; 0]);
}

async fn filters_choose_what_is_listed(
    ledger: impl Ledger + History,
    other: impl Ledger + History,
) {
    let [one, two, three] = [
        record("01A", "prod/api", 10),
        record("01B", "prod/web", 20),
        record("01C", "api", 30),
    ];
    let records = [
        one.judged(&judged(Verdict::Failed), at(40)),
        two.failed(&error(), State::DeadLetter, at(40)),
        ScanRecord {
            source: source("other"),
            ..three
        },
    ];
    for record in &records {
        ledger.record(record).await.unwrap();
    }
    let none = ScanFilter::default;
    let cases = [
        (none(), vec!["01C", "01B", "01A"]),
        (
            ScanFilter {
                image: Some("prod/".to_owned()),
                ..none()
            },
            vec!["01B", "01A"],
        ),
        (
            ScanFilter {
                image: Some("/api:1.0@sha256:ab".to_owned()),
                ..none()
            },
            vec!["01C", "01A"],
        ),
        (
            ScanFilter {
                verdict: Some(RecordVerdict::Failed),
                ..none()
            },
            vec!["01A"],
        ),
        (
            ScanFilter {
                verdict: Some(RecordVerdict::Error),
                ..none()
            },
            vec!["01B"],
        ),
        (
            ScanFilter {
                since: Some(at(20)),
                ..none()
            },
            vec!["01C", "01B"],
        ),
        (
            ScanFilter {
                source: Some(source("other")),
                ..none()
            },
            vec!["01C"],
        ),
        (
            ScanFilter {
                source: Some(source("other")),
                verdict: Some(RecordVerdict::Failed),
                ..none()
            },
            vec![],
        ),
    ];
    for (filter, expected) in cases {
        let latest = other.latest(&filter, 10, at(50)).await.unwrap();
        let ids: Vec<_> = latest.iter().map(|it| it.scan_id.as_str()).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
    // A filter that only old records pass finds them behind all others.
    let filter = ScanFilter {
        image: Some("prod/api".to_owned()),
        ..none()
    };
    assert_eq!(
        other.latest(&filter, 1, at(50)).await.unwrap(),
        records[..1]
    );
}

#[test]
fn a_newer_or_broken_file_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 7)
        .unwrap();
    let Err(err) = SqliteLedger::open(&path, Duration::ZERO, at(0)) else {
        panic!("opened")
    };
    assert!(
        format!("{err:#}").contains("newer scanhook (schema 7"),
        "{err:#}"
    );
    std::fs::write(
        &path,
        "this is no database, but longer than one hundred bytes ".repeat(10),
    )
    .unwrap();
    assert!(SqliteLedger::open(&path, Duration::ZERO, at(0)).is_err());
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("this is no database")
    );
}

const FIVE_DAYS: i64 = 5 * 86_400;

#[tokio::test]
async fn a_claim_of_a_clock_that_was_days_ahead_blocks_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    assert_eq!(claim(&ledger, "a", FIVE_DAYS).await, Claim::Claimed);
    assert_eq!(claim(&ledger, "b", 0).await, Claim::Claimed);
    assert_eq!(claim(&ledger, "c", 1).await, Claim::InProgress(at(100)));
}

#[tokio::test]
async fn a_scan_that_finished_in_the_future_satisfies_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    assert_eq!(claim(&ledger, "a", FIVE_DAYS).await, Claim::Claimed);
    finish(&ledger, "a", Verdict::Passed, FIVE_DAYS + 10).await;
    assert_eq!(claim(&ledger, "b", 0).await, Claim::Claimed);
    finish(&ledger, "b", Verdict::Passed, 20).await;
    // The clocks of two machines, or a clock that is slewed, differ by less.
    assert_eq!(claim(&ledger, "c", 10).await, Claim::Done(Verdict::Passed));
}

#[tokio::test]
async fn a_start_with_a_clock_years_ahead_deletes_no_history() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let records = [record("01A", "a", 0), record("01B", "a", 3000)];
    for record in &records {
        let ledger = SqliteLedger::open(&path, KEEP, at(0)).unwrap();
        ledger.record(record).await.unwrap();
    }
    let years = SqliteLedger::open(&path, KEEP, at(FIVE_DAYS * 365)).unwrap();
    drop(years);
    let ledger = SqliteLedger::open(&path, KEEP, at(3000)).unwrap();
    let latest = ledger.latest(&ScanFilter::default(), 9, at(3001)).await;
    assert_eq!(latest.unwrap().len(), 2);
    // What is too old by the records' own times goes.
    ledger.record(&record("01C", "a", 9000)).await.unwrap();
    drop(ledger);
    let ledger = SqliteLedger::open(&path, KEEP, at(9000)).unwrap();
    let latest = ledger.latest(&ScanFilter::default(), 9, at(0)).await;
    let latest = latest.unwrap();
    let ids: Vec<_> = latest.iter().map(|it| it.scan_id.as_str()).collect();
    assert_eq!(ids, ["01C"]);
}

/// What another process does that locks the file.
fn lock(directory: &Path) -> Connection {
    let other = Connection::open(directory.join("ledger")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    other
}

#[tokio::test]
async fn records_of_a_locked_ledger_wait_and_are_written_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    let other = lock(directory.path());
    let begun = std::time::Instant::now();
    let first = record("01A", "a", 0);
    let calls = tokio::join!(ledger.record(&first), ledger.probe(), async {
        let second = ledger.record(&record("01B", "a", 1)).await;
        (second, ledger.record(&record("01A", "a", 2)).await)
    });
    let (first, probed, (second, third)) = calls;
    for outcome in [first, second, third] {
        let text = format!("{:#}", anyhow::Error::from(outcome.unwrap_err()));
        assert!(
            text.contains("wait in memory: database is locked"),
            "{text}"
        );
    }
    assert_eq!(probed.unwrap_err().cause, Cause::Locked);
    // Two after one another, beside which the others waited.
    assert!(begun.elapsed() < 2 * SCAN_PATIENCE + SCAN_PATIENCE / 2);
    drop(other);
    let stopping = CancellationToken::new();
    let catching_up = tokio::spawn(ledger.clone().catch_up(stopping.clone()));
    let written = async {
        while !ledger.backlog().records.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(30), written);
    written.await.unwrap();
    stopping.cancel();
    catching_up.await.unwrap();
    let latest = ledger.latest(&ScanFilter::default(), 9, at(3)).await;
    let latest = latest.unwrap();
    let found: Vec<_> = latest
        .iter()
        .map(|it| (it.scan_id.as_str(), it.received_at))
        .collect();
    assert_eq!(found, [("01A", at(2)), ("01B", at(1))]);
}

#[tokio::test]
async fn a_record_that_can_never_be_written_keeps_no_other_one_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    ledger.record(&record("01A", "a", 0)).await.unwrap();
    let connection = ledger.connection.lock().await;
    let damaged = "UPDATE scan SET record = 'no JSON'";
    assert_eq!(connection.execute(damaged, []).unwrap(), 1);
    drop(connection);
    // It would have to be compared with the damaged one.
    let _ = ledger.record(&record("01A", "a", 1)).await;
    ledger.record(&record("01B", "a", 2)).await.unwrap();
    assert!(ledger.backlog().records.is_empty());
    let connection = ledger.connection.lock().await;
    let count = connection.query_row("SELECT count(*) FROM scan", [], |row| row.get(0));
    assert_eq!(count, Ok(2));
}

#[tokio::test]
async fn the_last_try_writes_what_waits() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    let other = lock(directory.path());
    ledger.record(&record("01A", "a", 0)).await.unwrap_err();
    drop(other);
    ledger.last_try().await;
    let found = open(directory.path())
        .find(&id("01A"), at(1))
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
}

#[test]
fn of_too_many_records_that_wait_the_oldest_is_dropped() {
    let mut backlog = Backlog::default();
    for number in 0..=MOST_WAITING {
        backlog.push(record("01A", "a", i64::try_from(number).unwrap()));
    }
    assert_eq!(backlog.records.len(), MOST_WAITING);
    assert_eq!(backlog.records[0].1.received_at, at(1));
}
