//! Injected faults.

use std::time::Duration;

use scanhook_emulator::faults::Faults;

use crate::world::World;

async fn throttled(seed: u64) -> Vec<bool> {
    let world = World::start_with(Faults::new(0.25, Duration::ZERO, seed)).await;
    let mut throttled = Vec::new();
    for _ in 0..200 {
        let listed = world.client.list_queues().send().await;
        throttled.push(listed.is_err_and(|err| err.into_service_error().is_request_throttled()));
    }
    throttled
}

#[tokio::test]
async fn the_seed_decides_which_requests_are_throttled() {
    let first = throttled(1).await;
    assert_eq!(throttled(1).await, first);
    assert_ne!(throttled(2).await, first);
    let count = first.iter().filter(|it| **it).count();
    assert!((30..70).contains(&count), "{count} of 200");
}

#[tokio::test]
async fn every_request_is_delayed_by_the_latency() {
    let world = World::start_with(Faults::new(0.0, Duration::from_hours(1), 0)).await;
    let listed = tokio::spawn(world.client.list_queues().send());
    world.clock.advance_to_next_sleeper().await;
    listed.await.unwrap().unwrap();
}
