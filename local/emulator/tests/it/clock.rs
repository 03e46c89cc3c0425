//! Setting the wall clock and switching the machine off change nothing about messages. Retention does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_sqs::types::MessageSystemAttributeName as Attribute;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use scanhook_emulator::sqs::{DeadLetter, Expiry, Peeked, State, Store};
use scanhook_worker::clock::{Clock, ManualClock};
use tempfile::TempDir;

use crate::world::{World, arn};

const FIVE_DAYS: SignedDuration = SignedDuration::from_hours(120);
const HOUR_S: u64 = 3600;

async fn peek(store: &Store, queue: &str) -> Vec<Peeked> {
    store.peek(queue, 99, Box::new(|_| true)).await.unwrap()
}

#[tokio::test]
async fn a_clock_that_is_set_expires_nothing_and_hides_nothing() {
    for step in [FIVE_DAYS, -FIVE_DAYS] {
        let world = World::start().await;
        let url = world.queue("q").await;
        world.send(&url, "received").await;
        assert_eq!(world.bodies(&url).await, ["received"]);
        world.send(&url, "waiting").await;
        world.clock.set(step);
        assert_eq!(world.depth("q").await, [1, 1, 0], "{step}");
        world.send(&url, "sent by the other clock").await;
        world.advance_s(30);
        let bodies = ["waiting", "sent by the other clock", "received"];
        assert_eq!(world.bodies(&url).await, bodies, "{step}");
        world.clock.set(-step);
        assert_eq!(world.depth("q").await, [0, 3, 0], "{step}");
        world.advance_s(30);
        assert_eq!(world.bodies(&url).await.len(), 3, "{step}");
    }
}

#[tokio::test]
async fn setting_the_clock_changes_neither_a_long_poll_nor_a_delay() {
    let world = World::start().await;
    let url = world.queue("q").await;
    let delayed = world.client.send_message().queue_url(&url);
    let delayed = delayed.message_body("delayed").delay_seconds(15);
    delayed.send().await.unwrap();
    let poll = world.client.receive_message().queue_url(&url);
    let poll = tokio::spawn(poll.wait_time_seconds(20).send());
    world.clock.sleepers(1).await;
    world.clock.set(-FIVE_DAYS);
    world.clock.set(FIVE_DAYS + FIVE_DAYS);
    assert!(!poll.is_finished());
    world.advance_s(15);
    let received = poll.await.unwrap().unwrap().messages.unwrap();
    assert_eq!(received[0].body(), Some("delayed"));
}

#[tokio::test]
async fn times_are_shown_by_the_wall_clock_as_it_is_set_now() {
    let world = World::start().await;
    let url = world.queue("q").await;
    let sent_at = world.clock.now();
    world.send(&url, "a").await;
    world.advance_s(10);
    // The clock was a day behind, and NTP corrects it.
    world.clock.set(SignedDuration::from_hours(24));
    let message = world.receive(&url).await.remove(0);
    let shown = &message.attributes().unwrap()[&Attribute::SentTimestamp];
    let right = sent_at + SignedDuration::from_hours(24);
    assert_eq!(*shown, right.as_millisecond().to_string());
    let peeked = peek(&world.store, "q").await.remove(0);
    assert_eq!(peeked.sent_at, right);
    assert_eq!(
        peeked.visible_at,
        world.clock.now() + SignedDuration::from_secs(30)
    );
    let oldest = world.store.depth("q").await.unwrap().oldest_age;
    assert_eq!(oldest.unwrap().as_secs(), 10);
}

/// Stops a world and opens its file with a clock that is ahead of the world's by `gap`, or behind it.
async fn reopened(world: World, gap: SignedDuration) -> (Store, ManualClock, TempDir) {
    let clock = ManualClock::at(world.clock.now() + gap);
    let (store, dir) = world.stop().await;
    drop(store);
    let store = Store::open(&dir.path().join("queues.db"), Clock::Manual(clock.clone())).unwrap();
    (store, clock, dir)
}

#[tokio::test]
async fn a_machine_that_was_off_for_weeks_loses_nothing() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "received").await;
    world.receive(&url).await;
    world.send(&url, "waiting").await;
    let (store, clock, _dir) = reopened(world, SignedDuration::from_hours(24 * 30)).await;
    let depth = store.depth("q").await.unwrap();
    // The receiver of the first message is gone, and the message has been hidden for long enough.
    assert_eq!((depth.visible, depth.in_flight), (2, 0));
    // Half a day of the downtime counts.
    assert_eq!(depth.oldest_age.unwrap().as_secs(), 12 * HOUR_S);
    clock.advance(std::time::Duration::from_secs(84 * HOUR_S));
    assert_eq!(store.depth("q").await.unwrap().visible, 0);
}

#[tokio::test]
async fn a_short_stop_changes_no_times() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    let before = peek(&world.store, "q").await;
    let (store, _, _dir) = reopened(world, SignedDuration::from_secs(90)).await;
    assert_eq!(peek(&store, "q").await, before);
    let age = store.depth("q").await.unwrap().oldest_age;
    assert_eq!(age.unwrap().as_secs(), 90);
}

#[tokio::test]
async fn starting_with_a_clock_that_is_days_behind_hides_nothing() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "received").await;
    world.receive(&url).await;
    world.send(&url, "waiting").await;
    let (store, clock, _dir) = reopened(world, -FIVE_DAYS).await;
    let depth = store.depth("q").await.unwrap();
    assert_eq!((depth.visible, depth.in_flight), (1, 1));
    clock.advance(std::time::Duration::from_secs(30));
    assert_eq!(store.depth("q").await.unwrap().visible, 2);
    // Then NTP corrects it.
    clock.set(FIVE_DAYS);
    assert_eq!(store.depth("q").await.unwrap().visible, 2);
}

static COUNTED: AtomicU32 = AtomicU32::new(0);

fn dead_letter(message: &Peeked, now: Timestamp) -> BTreeMap<String, String> {
    let reason = format!("{} at {now}", message.body);
    BTreeMap::from([("reason".to_owned(), reason)])
}

#[tokio::test]
async fn expired_messages_go_to_the_dead_letter_queue_if_the_owner_wants_that() {
    let world = World::start().await;
    let (url, dlq) = world.queue_with_dlq("q", 9).await;
    let expiry = Expiry {
        dead_letter: Some(dead_letter),
        count: || {
            COUNTED.fetch_add(1, Ordering::Relaxed);
        },
    };
    world.store.expire_as("q", expiry).await.unwrap();
    for number in 0..250 {
        world.send(&url, &format!("waiting {number}")).await;
    }
    world.send(&url, "waiting too").await;
    world.advance_s(96 * HOUR_S - 10);
    let in_flight = world.receive(&url).await;
    assert_eq!(in_flight.len(), 10);
    world.advance_s(10);
    // Messages in flight stay: their workers may still delete them, or hide them for longer.
    assert_eq!(world.depth("q").await, [0, 10, 0]);
    world.delete(&url, &in_flight[9]).await;
    world.hide(&url, &in_flight[8], 3600).await;
    assert_eq!(peek(&world.store, "q").await.len(), 9);
    assert_eq!(
        (world.depth("q-dlq").await, COUNTED.load(Ordering::Relaxed)),
        ([241, 0, 0], 241)
    );
    world.advance_s(60);
    assert_eq!(world.bodies(&url).await, [""; 0]);
    assert_eq!(
        (world.depth("q").await, world.depth("q-dlq").await),
        ([0, 1, 0], [249, 0, 0])
    );
    let now = world.clock.now();
    let dead_letters = peek(&world.store, "q-dlq").await;
    let last = dead_letters
        .iter()
        .find(|it| it.body == "waiting 99")
        .unwrap();
    assert_eq!(
        last.attributes["reason"],
        format!("waiting 99 at {}", now - SignedDuration::from_secs(60))
    );
    assert_eq!(last.dead_letter_source.as_deref(), Some(arn("q").as_str()));
    // Their age restarts in the dead-letter queue, so its whole retention applies.
    assert_eq!(
        (last.sent_at, last.state),
        (now - SignedDuration::from_secs(60), State::Visible)
    );
    assert_eq!(world.receive(&dlq).await.len(), 10);
}

#[tokio::test]
async fn nothing_expires_while_the_dead_letter_queue_is_missing() {
    let world = World::start().await;
    let (url, dlq) = world.queue_with_dlq("q", 9).await;
    let dead_letter = Some(dead_letter as DeadLetter);
    let expiry = Expiry {
        dead_letter,
        count: || (),
    };
    world.store.expire_as("q", expiry).await.unwrap();
    world.send(&url, "kept").await;
    world
        .client
        .delete_queue()
        .queue_url(&dlq)
        .send()
        .await
        .unwrap();
    world.advance_s(200 * HOUR_S);
    assert_eq!(world.bodies(&url).await, ["kept"]);
}

/// Makes a queue file of schema 1, with a message that was sent and received while the clock was five days ahead.
fn schema_1(path: &Path, clock: &ManualClock) {
    let store = Store::open(path, Clock::Manual(clock.clone())).unwrap();
    drop(store);
    let ahead = (clock.now() + FIVE_DAYS).as_millisecond();
    let file = Connection::open(path).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(10))
        .unwrap();
    file.execute_batch(&format!(
        "DROP TABLE time; PRAGMA user_version = 1;
         INSERT INTO queue (name, attributes, tags, created_at, modified_at) VALUES ('q', '{{}}', '{{}}', 0, 0);
         INSERT INTO message (queue, id, attributes, sent_at, visible_at, received_at, receive_count, body)
         VALUES (1, 'a', '{{}}', {ahead}, {ahead} + 1000, {ahead}, 1, 'a'), (1, 'b', '{{}}', {ahead} - 500000000, {ahead}, NULL, 0, 'b');"
    ))
    .unwrap();
}

#[tokio::test]
async fn a_file_of_schema_1_is_migrated_and_hides_no_message_longer_than_sqs_allows() {
    let clock = ManualClock::at("2026-11-21T20:00:00Z".parse().unwrap());
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("queues.db");
    schema_1(&path, &clock);
    let store = Store::open(&path, Clock::Manual(clock.clone())).unwrap();
    clock.advance(std::time::Duration::from_secs(1));
    let [b, a] = &peek(&store, "q").await[..] else {
        panic!("two messages")
    };
    assert_eq!((a.state, b.state), (State::Visible, State::Visible));
}
