//! Visibility, delay, retention, redrive and long polling, on a clock that the test controls.

use std::time::Duration;

use aws_sdk_sqs::types::MessageSystemAttributeName as Attribute;

use crate::world::{World, arn};

#[tokio::test]
async fn a_received_message_is_visible_again_after_its_visibility_timeout() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    assert_eq!(world.bodies(&url).await, ["a"]);
    assert_eq!(world.bodies(&url).await, [""; 0]);
    world.advance_s(29);
    assert_eq!(world.bodies(&url).await, [""; 0]);
    world.advance_s(1);
    let again = world.receive(&url).await.remove(0);
    let attributes = again.attributes().unwrap();
    assert_eq!(attributes[&Attribute::ApproximateReceiveCount], "2");
    assert_eq!(
        attributes[&Attribute::ApproximateFirstReceiveTimestamp],
        "1795291200000"
    );
}

#[tokio::test]
async fn a_changed_visibility_timeout_counts_from_now() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    let message = world.receive(&url).await.remove(0);
    world.advance_s(20);
    world.hide(&url, &message, 3600).await;
    world.advance_s(3599);
    assert_eq!(world.depth("q").await, [0, 1, 0]);
    world.hide(&url, &message, 0).await;
    assert_eq!(world.bodies(&url).await, ["a"]);
}

#[tokio::test]
async fn visibility_ends_twelve_hours_after_the_receive() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    let message = world.receive(&url).await.remove(0);
    world.hide(&url, &message, 43_200).await;
    world.advance_s(1);
    let change = world
        .client
        .change_message_visibility()
        .queue_url(&url)
        .visibility_timeout(43_200);
    let err = change
        .receipt_handle(message.receipt_handle().unwrap())
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    assert_eq!(err.meta().code(), Some("InvalidParameterValue"));
    world.hide(&url, &message, 43_199).await;
}

#[tokio::test]
async fn a_deleted_message_cannot_be_hidden() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    let message = world.receive(&url).await.remove(0);
    world.delete(&url, &message).await;
    let change = world.client.change_message_visibility().queue_url(&url);
    let change = change
        .set_receipt_handle(message.receipt_handle)
        .visibility_timeout(1);
    let err = change.send().await.unwrap_err().into_service_error();
    assert_eq!(err.meta().code(), Some("InvalidParameterValue"));
    let message = err.meta().message().unwrap();
    assert!(message.contains("does not exist"), "{message}");
}

#[tokio::test]
async fn only_the_last_receipt_handle_deletes() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "a").await;
    let first = world.receive(&url).await.remove(0);
    world.advance_s(30);
    let second = world.receive(&url).await.remove(0);
    assert_ne!(first.receipt_handle(), second.receipt_handle());
    world.delete(&url, &first).await;
    assert_eq!(world.depth("q").await, [0, 1, 0]);
    world.advance_s(30);
    world.delete(&url, &second).await;
    assert_eq!(world.depth("q").await, [0, 0, 0]);
    world.delete(&url, &second).await;
}

#[tokio::test]
async fn a_handle_of_another_queue_is_refused() {
    let world = World::start().await;
    let (url, other) = (world.queue("q").await, world.queue("other").await);
    world.send(&url, "a").await;
    let message = world.receive(&url).await.remove(0);
    let delete = world
        .client
        .delete_message()
        .queue_url(&other)
        .receipt_handle(message.receipt_handle().unwrap());
    assert!(
        delete
            .send()
            .await
            .unwrap_err()
            .into_service_error()
            .is_receipt_handle_is_invalid()
    );
}

#[tokio::test]
async fn a_delayed_message_appears_when_its_delay_ends() {
    let world = World::start().await;
    let url = world.queue_with("q", &[("DelaySeconds", "60")]).await;
    world.send(&url, "queue's").await;
    world
        .client
        .send_message()
        .queue_url(&url)
        .message_body("own")
        .delay_seconds(900)
        .send()
        .await
        .unwrap();
    world
        .client
        .send_message()
        .queue_url(&url)
        .message_body("none")
        .delay_seconds(0)
        .send()
        .await
        .unwrap();
    assert_eq!(world.depth("q").await, [1, 0, 2]);
    assert_eq!(world.bodies(&url).await, ["none"]);
    world.advance_s(60);
    assert_eq!(world.depth("q").await, [2, 0, 1]);
    world.advance_s(840);
    assert_eq!(world.bodies(&url).await, ["none", "queue's", "own"]);
}

#[tokio::test]
async fn messages_older_than_the_retention_are_deleted() {
    let world = World::start().await;
    let url = world
        .queue_with(
            "q",
            &[
                ("MessageRetentionPeriod", "60"),
                ("VisibilityTimeout", "43200"),
            ],
        )
        .await;
    world.send(&url, "received").await;
    let received = world.receive(&url).await.remove(0);
    world.advance_s(30);
    world.send(&url, "waiting").await;
    world.advance_s(30);
    assert_eq!(world.depth("q").await, [1, 0, 0]);
    let change = world
        .client
        .change_message_visibility()
        .queue_url(&url)
        .visibility_timeout(0);
    change
        .receipt_handle(received.receipt_handle().unwrap())
        .send()
        .await
        .unwrap_err();
    world.advance_s(30);
    assert_eq!(world.bodies(&url).await, [""; 0]);
    assert_eq!(
        world.store.peek("q", 9, Box::new(|_| true)).await.unwrap(),
        []
    );
}

#[tokio::test]
async fn a_message_received_too_often_goes_to_the_dead_letter_queue() {
    let world = World::start().await;
    let (url, dlq) = world.queue_with_dlq("q", 2).await;
    let id = world.send(&url, "poison").await;
    for _ in 0..2 {
        assert_eq!(world.bodies(&url).await, ["poison"]);
        world.advance_s(30);
    }
    world.send(&url, "healthy").await;
    assert_eq!(world.depth("q-dlq").await, [0, 0, 0]);
    assert_eq!(world.bodies(&url).await, ["healthy"]);
    let dead = world.receive(&dlq).await.remove(0);
    assert_eq!(dead.message_id(), Some(id.as_str()));
    let attributes = dead.attributes().unwrap();
    assert_eq!(attributes[&Attribute::DeadLetterQueueSourceArn], arn("q"));
    assert_eq!(attributes[&Attribute::SentTimestamp], "1795291200000");
    assert_eq!(attributes[&Attribute::ApproximateReceiveCount], "3");
    world.delete(&dlq, &dead).await;
    assert_eq!(world.depth("q-dlq").await, [0, 0, 0]);
}

#[tokio::test]
async fn one_receive_skips_any_number_of_dead_letters() {
    let world = World::start().await;
    let (url, _) = world.queue_with_dlq("q", 1).await;
    for _ in 0..25 {
        world.send(&url, "poison").await;
    }
    for _ in 0..3 {
        world.receive(&url).await;
    }
    world.advance_s(30);
    world.send(&url, "healthy").await;
    assert_eq!(world.bodies(&url).await, ["healthy"]);
    assert_eq!(world.depth("q-dlq").await, [25, 0, 0]);
}

#[tokio::test]
async fn a_long_poll_ends_empty_after_its_wait_time() {
    let world = World::start().await;
    let url = world.queue("q").await;
    let poll = tokio::spawn(
        world
            .client
            .receive_message()
            .queue_url(&url)
            .wait_time_seconds(20)
            .send(),
    );
    world.clock.sleepers(1).await;
    world.advance_s(19);
    assert!(!poll.is_finished());
    world.advance_s(1);
    assert_eq!(poll.await.unwrap().unwrap().messages, None);
}

#[tokio::test]
async fn a_long_poll_wakes_for_a_message_sent() {
    let world = World::start().await;
    let url = world
        .queue_with("q", &[("ReceiveMessageWaitTimeSeconds", "20")])
        .await;
    let poll = tokio::spawn(world.client.receive_message().queue_url(&url).send());
    world.clock.sleepers(1).await;
    world.send(&url, "news").await;
    assert_eq!(
        poll.await.unwrap().unwrap().messages()[0].body(),
        Some("news")
    );
}

#[tokio::test]
async fn a_long_poll_wakes_for_a_message_that_becomes_visible() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world
        .client
        .send_message()
        .queue_url(&url)
        .message_body("late")
        .delay_seconds(7)
        .send()
        .await
        .unwrap();
    let poll = tokio::spawn(
        world
            .client
            .receive_message()
            .queue_url(&url)
            .wait_time_seconds(20)
            .send(),
    );
    world.clock.advance_to_next_sleeper().await;
    assert_eq!(
        poll.await.unwrap().unwrap().messages()[0].body(),
        Some("late")
    );
    assert_eq!(world.clock.now().as_second(), 1_795_291_207);

    let poll = tokio::spawn(
        world
            .client
            .receive_message()
            .queue_url(&url)
            .wait_time_seconds(20)
            .send(),
    );
    world.clock.sleepers(1).await;
    let [message] = &world.store.peek("q", 1, Box::new(|_| true)).await.unwrap()[..] else {
        panic!("one message")
    };
    assert_eq!(message.receive_count, 1);
    world.advance_s(20);
    assert_eq!(poll.await.unwrap().unwrap().messages, None);
}

#[tokio::test]
async fn a_shutdown_ends_a_long_poll_at_once() {
    let world = World::start().await;
    let url = world.queue("q").await;
    let poll = tokio::spawn(
        world
            .client
            .receive_message()
            .queue_url(&url)
            .wait_time_seconds(20)
            .send(),
    );
    world.clock.sleepers(1).await;
    tokio::time::timeout(Duration::from_secs(5), world.stop())
        .await
        .unwrap();
    assert_eq!(poll.await.unwrap().unwrap().messages, None);
}

#[tokio::test]
async fn a_message_goes_to_only_one_of_many_polls() {
    let world = World::start().await;
    let url = world.queue("q").await;
    let poll = world
        .client
        .receive_message()
        .queue_url(&url)
        .wait_time_seconds(20)
        .max_number_of_messages(10);
    let polls: Vec<_> = (0..8).map(|_| tokio::spawn(poll.clone().send())).collect();
    world.clock.sleepers(8).await;
    for body in ["a", "b", "c"] {
        world.send(&url, body).await;
    }
    world.clock.sleepers(5).await;
    world.advance_s(20);
    let mut bodies = Vec::new();
    for poll in polls {
        bodies.extend(
            poll.await
                .unwrap()
                .unwrap()
                .messages
                .unwrap_or_default()
                .into_iter()
                .map(|it| it.body.unwrap()),
        );
    }
    bodies.sort();
    assert_eq!(bodies, ["a", "b", "c"]);
}
