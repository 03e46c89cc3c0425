//! Whole answers, read from a socket: they hold what AWS's API reference promises, and nothing that it omits.

use serde_json::{Value, json};

use crate::recorded::{done, members, refusal};
use crate::world::{World, arn, redrive_policy};

#[tokio::test]
async fn operations_on_queues_answer_with_what_was_asked_for() {
    let world = World::start().await;
    let url = "http://localhost/000000000000/q";
    let policy = json!({"Version": "2012-10-17", "Statement": []}).to_string();
    let encryption = ["KmsMasterKeyId", "SqsManagedSseEnabled"];
    for (operation, more, answer) in [
        (
            "CreateQueue",
            json!({"QueueName": "q", "Attributes": {"DelaySeconds": "3"}, "tags": {"team": "a", "stage": "b"}}),
            json!({"QueueUrl": url}),
        ),
        (
            "GetQueueUrl",
            json!({"QueueName": "q", "QueueOwnerAWSAccountId": "000000000000"}),
            json!({"QueueUrl": url}),
        ),
        (
            "ListQueues",
            json!({"QueueNamePrefix": ""}),
            json!({"QueueUrls": [url]}),
        ),
        ("ListQueues", json!({"QueueNamePrefix": "x"}), json!({})),
        (
            "ListDeadLetterSourceQueues",
            json!({}),
            json!({"queueUrls": []}),
        ),
        ("TagQueue", json!({"Tags": {"stage": "c"}}), json!({})),
        (
            "UntagQueue",
            json!({"TagKeys": ["team", "none"]}),
            json!({}),
        ),
        ("ListQueueTags", json!({}), json!({"Tags": {"stage": "c"}})),
        ("UntagQueue", json!({"TagKeys": ["stage"]}), json!({})),
        ("ListQueueTags", json!({}), json!({})),
        ("GetQueueAttributes", json!({}), json!({})),
        (
            "GetQueueAttributes",
            json!({"AttributeNames": ["RedrivePolicy", "Policy"]}),
            json!({}),
        ),
        (
            "SetQueueAttributes",
            json!({"Attributes": {"VisibilityTimeout": "7", "Policy": policy}}),
            json!({}),
        ),
        (
            "GetQueueAttributes",
            json!({"AttributeNames": ["DelaySeconds", "VisibilityTimeout", "Policy"]}),
            json!({"Attributes": {"DelaySeconds": "3", "VisibilityTimeout": "7", "Policy": policy}}),
        ),
        (
            "SetQueueAttributes",
            json!({"Attributes": {"Policy": ""}}),
            json!({}),
        ),
        (
            "GetQueueAttributes",
            json!({"AttributeNames": ["Policy"]}),
            json!({}),
        ),
        (
            "SetQueueAttributes",
            json!({"Attributes": {"KmsMasterKeyId": "alias/aws/sqs"}}),
            json!({}),
        ),
        (
            "GetQueueAttributes",
            json!({"AttributeNames": encryption}),
            json!({"Attributes": {"KmsMasterKeyId": "alias/aws/sqs", "SqsManagedSseEnabled": "false"}}),
        ),
        ("ReceiveMessage", json!({"WaitTimeSeconds": 0}), json!({})),
        (
            "DeleteMessage",
            json!({"ReceiptHandle": "cSAxIDEgeA=="}),
            json!({}),
        ),
        ("PurgeQueue", json!({}), json!({})),
        ("DeleteQueue", json!({}), json!({})),
    ] {
        let mut request = json!({"QueueUrl": "q"});
        let more = more.as_object().unwrap().clone();
        request.as_object_mut().unwrap().extend(more);
        let described = format!("{operation} {request}");
        assert_eq!(
            done(&world, operation, request).await,
            answer,
            "{described}"
        );
    }
}

#[tokio::test]
async fn a_number_may_be_the_minimum_or_the_maximum_of_its_range() {
    let world = World::start().await;
    world.queue("q").await;
    for (name, least, greatest) in [
        ("DelaySeconds", 0, 900),
        ("KmsDataKeyReusePeriodSeconds", 60, 86_400),
        ("MaximumMessageSize", 1024, 1_048_576),
        ("MessageRetentionPeriod", 60, 1_209_600),
        ("ReceiveMessageWaitTimeSeconds", 0, 20),
        ("VisibilityTimeout", 0, 43_200),
    ] {
        for number in [least, greatest] {
            let set = json!({"QueueUrl": "q", "Attributes": {name: number.to_string()}});
            done(&world, "SetQueueAttributes", set).await;
        }
        for number in [least - 1, greatest + 1] {
            // A refused attribute keeps the others from being set.
            let attributes = json!({name: number.to_string(), "KmsMasterKeyId": "key"});
            let set = json!({"QueueUrl": "q", "Attributes": attributes});
            let (code, message) = refusal(&world, "SetQueueAttributes", set).await;
            assert_eq!(code, "InvalidAttributeValue");
            assert_eq!(message, format!("Invalid value for the parameter {name}."));
        }
        let get = json!({"QueueUrl": "q", "AttributeNames": [name, "KmsMasterKeyId"]});
        let answer = done(&world, "GetQueueAttributes", get).await;
        assert_eq!(answer, json!({"Attributes": {name: greatest.to_string()}}));
    }
}

#[tokio::test]
async fn a_message_is_received_with_what_was_asked_for() {
    const TRACE: &str =
        "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
    let world = World::start().await;
    world.queue_with("q", &[("VisibilityTimeout", "0")]).await;
    let text = |value: &str| json!({"DataType": "String", "StringValue": value});
    // A body with every kind of character that XML allows, of the largest allowed size. The trace header doesn't count
    // towards it.
    let body = format!(
        "Grüße, \"Welt\" <&> \u{1f40b}\n\t\r\u{7f}\u{fffd}{}",
        "x".repeat((1 << 20) - 64)
    );
    let ten: Value = (0..10).map(|it| (it.to_string(), text("v"))).collect();
    let group = "a-source!".repeat(14);
    let send = json!({
        "QueueUrl": "q", "MessageBody": body, "MessageGroupId": group, "MessageSystemAttributes": {"AWSTraceHeader": text(TRACE)},
    });
    let answer = done(&world, "SendMessage", send).await;
    assert_eq!(
        members(&answer),
        [
            "MD5OfMessageBody",
            "MD5OfMessageSystemAttributes",
            "MessageId"
        ]
    );
    assert_eq!(
        answer["MD5OfMessageSystemAttributes"],
        "5ae4d5d7636402d80f4eb6d213245a88"
    );
    let receive = async |more: Value| {
        let mut request = json!({"QueueUrl": "q"});
        let more = more.as_object().unwrap().clone();
        request.as_object_mut().unwrap().extend(more);
        done(&world, "ReceiveMessage", request).await["Messages"][0].take()
    };
    let message = receive(json!({})).await;
    assert_eq!(
        members(&message),
        ["Body", "MD5OfBody", "MessageId", "ReceiptHandle"]
    );
    assert_eq!(message["Body"], body);
    for name in ["AttributeNames", "MessageSystemAttributeNames"] {
        let message = receive(json!({name: ["MessageGroupId", "AWSTraceHeader"]})).await;
        let expected = json!({"MessageGroupId": group, "AWSTraceHeader": TRACE});
        assert_eq!(message["Attributes"], expected, "{name}");
    }
    done(&world, "PurgeQueue", json!({"QueueUrl": "q"})).await;
    let send = json!({"QueueUrl": "q", "MessageBody": "x", "MessageAttributes": ten});
    let answer = done(&world, "SendMessage", send).await;
    assert_eq!(
        members(&answer),
        ["MD5OfMessageAttributes", "MD5OfMessageBody", "MessageId"]
    );
    let message = receive(json!({"MessageAttributeNames": ["All"]})).await;
    assert_eq!(message["MessageAttributes"], ten);
}

#[tokio::test]
async fn a_dead_letter_keeps_what_it_was_sent_with() {
    let world = World::start().await;
    let (_, dlq) = world.queue_with_dlq("q", 1).await;
    let attributes = json!({"a": {"DataType": "String", "StringValue": "b"}});
    let send = json!({"QueueUrl": "q", "MessageBody": "x", "MessageGroupId": "g", "MessageAttributes": attributes});
    done(&world, "SendMessage", send).await;
    let once = json!({"QueueUrl": "q", "VisibilityTimeout": 0});
    done(&world, "ReceiveMessage", once.clone()).await;
    assert_eq!(done(&world, "ReceiveMessage", once).await, json!({}));
    let receive = json!({"QueueUrl": dlq, "AttributeNames": ["MessageGroupId"], "MessageAttributeNames": ["All"]});
    let dead_letter = done(&world, "ReceiveMessage", receive).await["Messages"][0].take();
    assert_eq!(dead_letter["Attributes"], json!({"MessageGroupId": "g"}));
    assert_eq!(dead_letter["MessageAttributes"], attributes);
}

#[tokio::test]
async fn the_sources_of_a_dead_letter_queue_are_listed_in_pages() {
    let world = World::start().await;
    let dlq = world.queue("dlq").await;
    let policy = redrive_policy("dlq", 1000);
    for name in ["a", "b"] {
        world.queue_with(name, &[("RedrivePolicy", &policy)]).await;
    }
    let url = |name: &str| format!("http://localhost/000000000000/{name}");
    let mut list = json!({"QueueUrl": dlq, "MaxResults": 1});
    let page = done(&world, "ListDeadLetterSourceQueues", list.clone()).await;
    assert_eq!(page["queueUrls"], json!([url("a")]));
    list["NextToken"] = page["NextToken"].clone();
    let page = done(&world, "ListDeadLetterSourceQueues", list).await;
    assert_eq!(page, json!({"queueUrls": [url("b")]}));
}

#[tokio::test]
async fn a_dead_letter_queue_allows_at_most_ten_sources() {
    let world = World::start().await;
    world.queue("q").await;
    let sources = |count: usize| {
        (0..count)
            .map(|it| arn(&it.to_string()))
            .collect::<Vec<_>>()
    };
    for (permission, count, reason) in [
        ("byQueue", 10, None),
        ("byQueue", 11, Some("up to 10 source queue ARNs")),
        ("allowAll", 1, Some("must set redrivePermission to byQueue")),
    ] {
        let policy = json!({"redrivePermission": permission, "sourceQueueArns": sources(count)});
        let set =
            json!({"QueueUrl": "q", "Attributes": {"RedriveAllowPolicy": policy.to_string()}});
        let Some(reason) = reason else {
            done(&world, "SetQueueAttributes", set).await;
            continue;
        };
        let (code, message) = refusal(&world, "SetQueueAttributes", set).await;
        assert_eq!(code, "InvalidParameterValue");
        assert!(message.contains(reason), "{message}");
    }
}
