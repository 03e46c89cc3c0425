//! Scratch space, checked before the CLI starts: an image that has no room is retried while other scans hold space.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::registry::{Content, FakeRegistry, image};
use crate::world::{REGISTRY, Setup, World, message_for};

const SIZE: u64 = 1 << 20;

/// A world with an image of that size, and so much space left.
async fn world(free: u64) -> (World, FakeRegistry) {
    let mut content = Content::default();
    for repository in ["demo/pass", "demo/no-space"] {
        content.put(repository, Some("1.0"), &image("a", SIZE));
    }
    let registry = FakeRegistry::holding(content).await;
    let world = World::set_up(Setup {
        registries: format!("  {REGISTRY}: {{ insecure: true }}"),
        hosts: vec![(REGISTRY, registry.address)],
        free_space: Some(Arc::new(move |_| Ok(free))),
        ..Setup::default()
    });
    (world.await, registry)
}

async fn outcome(world: &World, repository: &str) -> String {
    let mut message = message_for("scan", repository);
    message["image"]["digest"] = Value::Null;
    world.outcome(&message.to_string(), 2).await
}

/// What another scan of this process has written.
fn other_scan(world: &World, bytes: u64) -> PathBuf {
    let directory = world.scratch().join("slot-1/scan-other-1");
    fs::create_dir_all(directory.join("tmp")).unwrap();
    let bytes = usize::try_from(bytes).unwrap();
    fs::write(directory.join("tmp/layer"), vec![1; bytes]).unwrap();
    directory
}

#[tokio::test]
async fn an_image_is_scanned_if_its_layers_have_room() {
    let (world, _registry) = world(SIZE).await;
    assert!(outcome(&world, "demo/pass").await.starts_with("passed"));
}

#[tokio::test]
async fn an_image_that_an_empty_scratch_directory_has_no_room_for_is_given_up() {
    let (world, _registry) = world(SIZE - 1).await;
    assert_eq!(outcome(&world, "demo/pass").await, "dead letter: no_space");
    assert_eq!(
        world.record("scan").unwrap().detail.unwrap(),
        "its compressed layers have 1048576 bytes, and 1048575 are free in the scratch space"
    );
    assert!(
        !world.scratch().join("slot-0/database").exists(),
        "no CLI ran"
    );
}

#[tokio::test]
async fn an_image_without_room_is_retried_while_other_scans_hold_enough() {
    let (world, _registry) = world(SIZE / 2).await;
    let other = other_scan(&world, SIZE);
    assert_eq!(outcome(&world, "demo/pass").await, "retried: no_space");
    fs::remove_dir_all(other).unwrap();
    assert_eq!(outcome(&world, "demo/pass").await, "dead letter: no_space");
}

#[tokio::test]
async fn an_image_without_room_is_given_up_if_other_scans_hold_too_little() {
    let (world, _registry) = world(SIZE / 2).await;
    other_scan(&world, SIZE / 4);
    assert_eq!(outcome(&world, "demo/pass").await, "dead letter: no_space");
}

#[tokio::test]
async fn a_cli_that_runs_out_of_space_is_retried_while_other_scans_hold_some() {
    let (world, _registry) = world(u64::MAX).await;
    let other = other_scan(&world, 1);
    assert_eq!(outcome(&world, "demo/no-space").await, "retried: no_space");
    fs::remove_dir_all(other).unwrap();
    let alone = outcome(&world, "demo/no-space").await;
    assert_eq!(alone, "dead letter: no_space");
}
