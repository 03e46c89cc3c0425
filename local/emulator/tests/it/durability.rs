//! What survives a kill, and which files are left unchanged.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::Connection;
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs::{self, OpenError, Peeked, Store};
use scanhook_worker::clock::{Clock, ManualClock};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::world::{World, client};

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(path, Clock::Manual(ManualClock::at(Timestamp::UNIX_EPOCH)))
}

/// Copies the files to a new directory, as a process killed now would leave them.
fn killed(world: &World) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in std::fs::read_dir(world.dir.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[tokio::test]
async fn every_acknowledged_change_survives_a_kill() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "deleted").await;
    let message = world.receive(&url).await.remove(0);
    world.delete(&url, &message).await;
    world.send(&url, "received").await;
    let received = world.receive(&url).await.remove(0);
    let id = world.send(&url, "waiting").await;

    let copy = killed(&world);
    let clock = Clock::Manual(world.clock.clone());
    let store = Store::open(&copy.path().join("queues.db"), clock).unwrap();
    let peeked = store.peek("q", 10, Box::new(|_| true)).await.unwrap();
    let [first, second] = &peeked[..] else {
        panic!("two messages, not {peeked:?}")
    };
    assert_eq!((first.body.as_str(), first.receive_count), ("received", 1));
    assert_eq!(
        (second.body.as_str(), second.message_id.as_str()),
        ("waiting", id.as_str())
    );

    // A handle from before the kill is valid after it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let endpoint = sqs::Endpoint::new(store.clone(), Faults::none());
    tokio::spawn(endpoint.serve(listener, std::future::pending()));
    let delete = client(&base)
        .delete_message()
        .queue_url(sqs::queue_url(&base, "q"));
    delete
        .receipt_handle(received.receipt_handle().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(
        store.peek("q", 10, Box::new(|_| true)).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn a_store_that_is_reopened_keeps_its_messages() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "kept").await;
    let (store, dir) = world.stop().await;
    drop(store);
    let store = open(&dir.path().join("queues.db")).unwrap();
    assert_eq!(
        store.peek("q", 10, Box::new(|_| true)).await.unwrap()[0].body,
        "kept"
    );
}

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let world = World::start().await;
    let err = open(&world.dir.path().join("queues.db")).unwrap_err();
    assert!(matches!(err, OpenError::InUse(_)), "{err}");
}

#[test]
fn a_newer_file_is_refused_and_left_unchanged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("queues.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE later (a); PRAGMA user_version = 3")
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let err = open(&path).unwrap_err();
    assert!(matches!(err, OpenError::Newer { found: 3, .. }), "{err}");
    assert!(
        err.to_string()
            .contains("schema 3, but this version supports 2 at most"),
        "{err}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_foreign_database_is_refused_and_left_unchanged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("queues.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE mine (a)")
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let err = open(&path).unwrap_err();
    assert!(matches!(err, OpenError::Foreign(_)), "{err}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_unchanged() {
    let world = World::start().await;
    let url = world.queue("q").await;
    for _ in 0..50 {
        world.send(&url, &"x".repeat(2000)).await;
    }
    let (store, dir) = world.stop().await;
    drop(store);
    let path = dir.path().join("queues.db");
    drop(open(&path).unwrap());
    let sound = wait_for_release(&path);

    for (what, damaged) in [
        (
            "no database",
            b"this is no database, and it is long enough to be sure of that".repeat(100),
        ),
        ("truncated", sound[..sound.len() / 2].to_vec()),
        ("overwritten", {
            let mut bytes = sound.clone();
            bytes[8192..40960].fill(0xaa);
            bytes
        }),
    ] {
        let path = dir.path().join(format!("{what}.db"));
        std::fs::write(&path, &damaged).unwrap();
        let err = open(&path).unwrap_err();
        assert!(matches!(err, OpenError::Damaged { .. }), "{what}: {err}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "{what}");
    }
}

/// Returns the file's bytes after its last user has closed it: the exclusive lock waits for that.
fn wait_for_release(path: &Path) -> Vec<u8> {
    let connection = Connection::open(path).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(10))
        .unwrap();
    connection
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    drop(connection);
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn messages_of_a_killed_process_can_be_released() {
    let world = World::start().await;
    let url = world.queue("q").await;
    for body in ["started", "waiting for a retry"] {
        world.send(&url, body).await;
    }
    assert_eq!(world.receive(&url).await.len(), 2);
    let is_started = |it: &Peeked| it.body == "started";
    let released = world
        .store
        .release("q", Box::new(is_started))
        .await
        .unwrap();
    assert_eq!((released, world.depth("q").await), (1, [1, 1, 0]));
    let again = world.receive(&url).await.remove(0);
    assert_eq!(again.body(), Some("started"));
    assert!(
        world
            .store
            .release("none", Box::new(is_started))
            .await
            .is_err()
    );
}
