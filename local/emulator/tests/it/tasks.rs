//! Message move tasks.

use aws_sdk_sqs::types::ListMessageMoveTasksResultEntry as Task;
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs;
use scanhook_worker::clock::Clock;
use tokio::net::TcpListener;

use crate::world::{World, arn};

/// Makes a world whose queue `q-dlq` holds `count` messages that `q` received too often.
async fn with_dead_letters(count: usize) -> (World, String, String) {
    let world = World::start().await;
    let (url, dlq) = world.queue_with_dlq("q", 1).await;
    for index in 0..count {
        world.send(&url, &index.to_string()).await;
    }
    while !world.receive(&url).await.is_empty() {}
    world.advance_s(30);
    assert_eq!(world.bodies(&url).await, [""; 0]);
    assert_eq!(world.depth("q-dlq").await[0], u64::try_from(count).unwrap());
    (world, url, dlq)
}

async fn last(world: &World) -> Task {
    world
        .client
        .list_message_move_tasks()
        .source_arn(arn("q-dlq"))
        .send()
        .await
        .unwrap()
        .results
        .unwrap()
        .remove(0)
}

/// Waits until the last task has this status.
async fn until(world: &World, status: &str) -> Task {
    loop {
        let task = last(world).await;
        if task.status() == Some(status) {
            return task;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn dead_letters_return_to_their_queue_as_new_messages() {
    let (world, url, _) = with_dead_letters(250).await;
    let before = world
        .store
        .peek("q-dlq", 1, Box::new(|_| true))
        .await
        .unwrap()
        .remove(0);
    world.advance_s(5);
    world
        .client
        .start_message_move_task()
        .source_arn(arn("q-dlq"))
        .send()
        .await
        .unwrap();
    let task = until(&world, "COMPLETED").await;
    assert_eq!(task.approximate_number_of_messages_moved(), 250);
    assert_eq!(task.approximate_number_of_messages_to_move(), Some(250));
    assert_eq!(
        (task.source_arn(), task.destination_arn()),
        (Some(arn("q-dlq").as_str()), None)
    );
    assert_eq!(task.task_handle(), None);
    let after = world
        .store
        .peek("q", 1, Box::new(|_| true))
        .await
        .unwrap()
        .remove(0);
    assert_eq!(after.body, before.body);
    assert_ne!(after.message_id, before.message_id);
    assert_eq!(
        (after.sent_at, after.receive_count, after.dead_letter_source),
        (world.clock.now(), 0, None)
    );
    assert_eq!(world.depth("q-dlq").await, [0, 0, 0]);
    assert_eq!(world.receive(&url).await.len(), 10);
}

#[tokio::test]
async fn a_task_keeps_to_its_rate() {
    let (world, _, _) = with_dead_letters(10).await;
    world.queue("elsewhere").await;
    let start = world
        .client
        .start_message_move_task()
        .source_arn(arn("q-dlq"))
        .destination_arn(arn("elsewhere"));
    start
        .max_number_of_messages_per_second(2)
        .send()
        .await
        .unwrap();
    for moved in 1..10 {
        world.clock.sleepers(1).await;
        let task = last(&world).await;
        assert_eq!(task.approximate_number_of_messages_moved(), moved);
        assert_eq!(task.status(), Some("RUNNING"));
        assert_eq!(
            world.depth("elsewhere").await[0],
            u64::try_from(moved).unwrap()
        );
        world.clock.advance_to_next_sleeper().await;
    }
    until(&world, "COMPLETED").await;
    assert_eq!(world.clock.now().as_second(), 1_795_291_234);
}

#[tokio::test]
async fn a_task_is_cancelled_by_its_handle() {
    let (world, _, _) = with_dead_letters(5).await;
    let start = world
        .client
        .start_message_move_task()
        .source_arn(arn("q-dlq"))
        .max_number_of_messages_per_second(1);
    let handle = start.clone().send().await.unwrap().task_handle.unwrap();
    world.clock.sleepers(1).await;
    let err = start.send().await.unwrap_err().into_service_error();
    assert_eq!(err.meta().code(), Some("InvalidParameterValue"));
    assert!(
        err.meta()
            .message()
            .unwrap()
            .starts_with("There is already a task running.")
    );
    assert_eq!(last(&world).await.task_handle(), Some(handle.as_str()));

    let cancel = world.client.cancel_message_move_task().task_handle(&handle);
    let moved = cancel
        .clone()
        .send()
        .await
        .unwrap()
        .approximate_number_of_messages_moved();
    assert_eq!(moved, 1);
    world.advance_s(60);
    assert_eq!(last(&world).await.status(), Some("CANCELLED"));
    assert_eq!(world.depth("q-dlq").await[0], 4);
    assert_eq!(
        cancel
            .send()
            .await
            .unwrap_err()
            .into_service_error()
            .meta()
            .code(),
        Some("InvalidParameterValue")
    );
}

#[tokio::test]
async fn messages_sent_to_the_dead_letter_queue_need_a_destination() {
    let (world, url, dlq) = with_dead_letters(0).await;
    world.send(&dlq, "direct").await;
    world
        .client
        .start_message_move_task()
        .source_arn(arn("q-dlq"))
        .send()
        .await
        .unwrap();
    let task = until(&world, "FAILED").await;
    assert_eq!(
        task.failure_reason(),
        Some("CouldNotDetermineMessageSource")
    );
    let start = world
        .client
        .start_message_move_task()
        .source_arn(arn("q-dlq"))
        .destination_arn(arn("q"));
    start.send().await.unwrap();
    until(&world, "COMPLETED").await;
    assert_eq!(world.bodies(&url).await, ["direct"]);
}

#[tokio::test]
async fn a_task_fails_when_its_destination_is_deleted() {
    let (world, _, _) = with_dead_letters(5).await;
    let elsewhere = world.queue("elsewhere").await;
    let start = world
        .client
        .start_message_move_task()
        .source_arn(arn("q-dlq"))
        .destination_arn(arn("elsewhere"));
    start
        .max_number_of_messages_per_second(1)
        .send()
        .await
        .unwrap();
    world.clock.sleepers(1).await;
    world
        .client
        .delete_queue()
        .queue_url(elsewhere)
        .send()
        .await
        .unwrap();
    world.clock.advance_to_next_sleeper().await;
    let task = until(&world, "FAILED").await;
    assert_eq!(
        task.failure_reason(),
        Some("AWS.SimpleQueueService.NonExistentQueue")
    );
    assert_eq!(world.depth("q-dlq").await[0], 4);
}

#[tokio::test]
async fn a_task_resumes_after_a_restart_at_its_rate() {
    let (world, _, _) = with_dead_letters(5).await;
    let start = world
        .client
        .start_message_move_task()
        .source_arn(arn("q-dlq"))
        .max_number_of_messages_per_second(1);
    start.send().await.unwrap();
    world.clock.sleepers(1).await;
    let clock = world.clock.clone();
    let (store, dir) = world.stop().await;
    drop(store);
    clock.advance(std::time::Duration::from_hours(1));
    let store =
        sqs::Store::open(&dir.path().join("queues.db"), Clock::Manual(clock.clone())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = sqs::Endpoint::new(store.clone(), Faults::none());
    tokio::spawn(endpoint.serve(listener, std::future::pending()));
    clock.sleepers(1).await;
    assert_eq!(store.depth("q-dlq").await.unwrap().visible, 3);
    clock.advance_to_next_sleeper().await;
    clock.sleepers(1).await;
    assert_eq!(store.depth("q-dlq").await.unwrap().visible, 2);
}

#[tokio::test]
async fn invalid_tasks_are_refused() {
    let (world, _, _) = with_dead_letters(0).await;
    for (source, destination, rate, code) in [
        ("none", None, None, "ResourceNotFoundException"),
        ("q-dlq", Some("none"), None, "ResourceNotFoundException"),
        ("q-dlq", Some("q-dlq"), None, "InvalidParameterValue"),
        ("q", None, None, "InvalidParameterValue"),
        ("q-dlq", None, Some(0), "InvalidParameterValue"),
        ("q-dlq", None, Some(501), "InvalidParameterValue"),
    ] {
        let start = world
            .client
            .start_message_move_task()
            .source_arn(arn(source));
        let start = start
            .set_destination_arn(destination.map(arn))
            .set_max_number_of_messages_per_second(rate);
        let err = start.send().await.unwrap_err().into_service_error();
        assert_eq!(
            err.meta().code(),
            Some(code),
            "{source} {destination:?} {rate:?}"
        );
    }
    for handle in ["garbage", "e30="] {
        let cancel = world
            .client
            .cancel_message_move_task()
            .task_handle(handle)
            .send()
            .await;
        assert_eq!(
            cancel.unwrap_err().into_service_error().meta().code(),
            Some("InvalidParameterValue")
        );
    }
}
