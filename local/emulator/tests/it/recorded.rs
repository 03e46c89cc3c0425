//! What AWS answers, compared with the endpoint's answers on a socket.
//!
//! LocalStack recorded the answers on AWS (commit 8b9a79f, `tests/aws/services/sqs/test_sqs.snapshot.json`). Each test
//! names the snapshot and the day of the recording, or the next best source.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::World;

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Sends one request: a line such as `POST /`, more headers, and a body.
async fn ask(world: &World, line: &str, headers: &str, body: &str) -> Answer {
    let address = world.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n"
    );
    let request = format!("{head}{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn call(world: &World, operation: &str, body: Value) -> Answer {
    let target = format!("X-Amz-Target: AmazonSQS.{operation}\r\n");
    ask(world, "POST /", &target, &body.to_string()).await
}

/// Returns the answer of an operation that succeeds.
pub(crate) async fn done(world: &World, operation: &str, body: Value) -> Value {
    let answer = call(world, operation, body).await;
    assert_eq!(answer.status(), "200", "{operation}: {}", answer.body);
    answer.json()
}

/// Returns code and text of the error that an operation ends with.
pub(crate) async fn refusal(world: &World, operation: &str, body: Value) -> (String, String) {
    let answer = call(world, operation, body).await;
    let header = "\r\nx-amzn-query-error: ";
    assert!(answer.head.contains(header), "{operation}: {}", answer.body);
    let code = answer.head.split(header).nth(1).unwrap();
    let code = code.split(';').next().unwrap().to_owned();
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    (code, message)
}

fn refused(code: &str, message: &str) -> (String, String) {
    (code.to_owned(), message.to_owned())
}

pub(crate) fn members(answer: &Value) -> Vec<&str> {
    answer
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

async fn receive(world: &World, more: Value) -> Value {
    let mut request = json!({"QueueUrl": "q"});
    let more = more.as_object().unwrap().clone();
    request.as_object_mut().unwrap().extend(more);
    done(world, "ReceiveMessage", request).await["Messages"].take()
}

async fn handle(world: &World, visibility_timeout: i64) -> String {
    let received = receive(world, json!({"VisibilityTimeout": visibility_timeout})).await;
    received[0]["ReceiptHandle"].as_str().unwrap().to_owned()
}

/// `test_send_message_batch_with_oversized_contents_with_updated_maximum_message_size[sqs]`, 30 April 2024: `Failed` is
/// absent. The source for `Successful` is LocalStack's pull request 9998.
#[tokio::test]
async fn an_answer_to_a_batch_omits_an_empty_list() {
    let world = World::start().await;
    world.queue("q").await;
    for (body, member) in [("x", "Successful"), ("\u{0}", "Failed")] {
        let send = json!({"QueueUrl": "q", "Entries": [{"Id": "1", "MessageBody": body}]});
        let answer = done(&world, "SendMessageBatch", send).await;
        assert_eq!(members(&answer), [member]);
    }
    let handle = handle(&world, 30).await;
    for operation in ["ChangeMessageVisibilityBatch", "DeleteMessageBatch"] {
        for (handle, member) in [(handle.as_str(), "Successful"), ("garbage", "Failed")] {
            let entry = json!({"Id": "1", "ReceiptHandle": handle, "VisibilityTimeout": 0});
            let request = json!({"QueueUrl": "q", "Entries": [entry]});
            let answer = done(&world, operation, request).await;
            assert_eq!(members(&answer), [member], "{operation}");
        }
    }
}

/// `test_change_message_visibility_after_visibility_timeout_expiration[sqs]`, 30 April 2024: 200. LocalStack's pull
/// request 9632 shows that nothing changes: AWS "simply sends back an OK and does nothing".
#[tokio::test]
async fn a_late_change_of_visibility_is_accepted_and_changes_nothing() {
    let world = World::start().await;
    let url = world.queue_with("q", &[("VisibilityTimeout", "1")]).await;
    world.send(&url, "x").await;
    let handle = handle(&world, 1).await;
    world.advance_s(2);
    let change = json!({"QueueUrl": "q", "ReceiptHandle": handle, "VisibilityTimeout": 2});
    let answer = done(&world, "ChangeMessageVisibility", change).await;
    assert_eq!(answer, json!({}));
    let entry = json!({"Id": "1", "ReceiptHandle": handle, "VisibilityTimeout": 2});
    let batch = json!({"QueueUrl": "q", "Entries": [entry]});
    let answer = done(&world, "ChangeMessageVisibilityBatch", batch).await;
    assert_eq!(answer, json!({"Successful": [{"Id": "1"}]}));
    assert_eq!(world.depth("q").await, [1, 0, 0]);
}

/// `test_terminate_visibility_timeout_after_receive`. Its authors ran it on AWS without a recording.
#[tokio::test]
async fn the_handle_of_an_earlier_receive_changes_the_visibility() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "x").await;
    let first = handle(&world, 0).await;
    handle(&world, 3).await;
    let change = json!({"QueueUrl": "q", "ReceiptHandle": first, "VisibilityTimeout": 0});
    done(&world, "ChangeMessageVisibility", change).await;
    assert_eq!(world.depth("q").await, [1, 0, 0]);
}

/// `test_inflight_message_requeue` receives the first message again. Its authors ran it on AWS without a recording. AWS
/// promises no order, and here the second message comes first: docs/emulator.md explains why.
#[tokio::test]
async fn a_message_that_is_visible_again_comes_after_waiting_messages() {
    let world = World::start().await;
    let url = world.queue("q").await;
    world.send(&url, "test1").await;
    handle(&world, 2).await;
    world.advance_s(1);
    world.send(&url, "test2").await;
    world.advance_s(2);
    assert_eq!(world.bodies(&url).await, ["test2", "test1"]);
}

/// `test_aws_trace_header_propagation[sqs]`, 27 June 2025. There are no recordings of a batch, or of a message with an
/// attribute of its own.
#[tokio::test]
async fn the_trace_header_of_a_request_becomes_an_attribute_of_its_messages() {
    const TRACE: &str =
        "Root=1-3152b799-8954dae64eda91bc9a23a7e8;Parent=7fa8c0f79203be72;Sampled=1";
    let world = World::start().await;
    world.queue("q").await;
    let own = json!({"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-2-3"}});
    let entries = json!([{"Id": "1", "MessageBody": "x"}, {"Id": "2", "MessageBody": "x", "MessageSystemAttributes": own}]);
    for (operation, body) in [
        ("SendMessage", json!({"QueueUrl": "q", "MessageBody": "x"})),
        (
            "SendMessageBatch",
            json!({"QueueUrl": "q", "Entries": entries}),
        ),
    ] {
        let headers =
            format!("X-Amz-Target: AmazonSQS.{operation}\r\nX-Amzn-Trace-Id: {TRACE}\r\n");
        let answer = ask(&world, "POST /", &headers, &body.to_string()).await;
        assert_eq!(answer.status(), "200", "{}", answer.body);
    }
    let wanted = json!({"AttributeNames": ["AWSTraceHeader"], "MaxNumberOfMessages": 10});
    let received = receive(&world, wanted).await;
    let headers: Vec<_> = received
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["Attributes"]["AWSTraceHeader"])
        .collect();
    assert_eq!(headers, [TRACE, TRACE, "Root=1-2-3"]);
}

/// `test_receive_message_message_attribute_names_filters[sqs]`, 30 April 2024.
#[tokio::test]
async fn message_attributes_are_selected_by_name_prefix_and_wildcard() {
    let world = World::start().await;
    world.queue("q").await;
    let text = |value: &str| json!({"DataType": "String", "StringValue": value});
    let attributes =
        json!({"Help.Me": text("Me"), "Hello": text("There"), "General": text("Kenobi")});
    let send = json!({"QueueUrl": "q", "MessageBody": "msg", "MessageAttributes": attributes});
    let all = "4c360f3fdafd970e05fae2f149d997f5";
    let answer = done(&world, "SendMessage", send).await;
    assert_eq!(answer["MD5OfMessageAttributes"], all);
    for (wanted, sum) in [
        (json!(["All"]), json!(all)),
        (json!(["*"]), json!(all)),
        (json!([".*"]), json!(all)),
        (
            json!(["Hello", "General"]),
            json!("fca026605781cb4126a1e9044df24232"),
        ),
        (
            json!(["Foo", "Hello"]),
            json!("a311262e065454b75da111d535b8dacd"),
        ),
        (json!(["Hel.*"]), json!("83fee93c1bcd8b9a5a923ffacdc636c7")),
        (json!(["Foo"]), Value::Null),
        (json!([]), Value::Null),
    ] {
        let request = json!({"VisibilityTimeout": 0, "MessageAttributeNames": wanted});
        let message = receive(&world, request).await[0].take();
        assert_eq!(message["MD5OfMessageAttributes"], sum, "{wanted}");
        assert_eq!(
            message["MessageAttributes"].is_null(),
            sum.is_null(),
            "{wanted}"
        );
    }
}

/// `test_set_queue_attributes_default_values[sqs]`, 10 December 2025.
#[tokio::test]
async fn attributes_set_back_to_their_defaults_are_shown_as_recorded() {
    let world = World::start().await;
    world.queue("q").await;
    let set = async |attributes: Value| {
        let request = json!({"QueueUrl": "q", "Attributes": attributes});
        done(&world, "SetQueueAttributes", request).await;
        let all = json!({"QueueUrl": "q", "AttributeNames": ["All"]});
        done(&world, "GetQueueAttributes", all).await["Attributes"].take()
    };
    let shown =
        set(json!({"KmsMasterKeyId": "testKeyId", "KmsDataKeyReusePeriodSeconds": "6000"})).await;
    assert_eq!(shown["KmsDataKeyReusePeriodSeconds"], "6000");
    assert_eq!(shown["KmsMasterKeyId"], "testKeyId");
    assert_eq!(shown["SqsManagedSseEnabled"], "false");
    let shown = set(json!({"KmsMasterKeyId": "", "KmsDataKeyReusePeriodSeconds": "300"})).await;
    assert_eq!(
        members(&shown),
        [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
            "CreatedTimestamp",
            "DelaySeconds",
            "LastModifiedTimestamp",
            "MaximumMessageSize",
            "MessageRetentionPeriod",
            "QueueArn",
            "ReceiveMessageWaitTimeSeconds",
            "SqsManagedSseEnabled",
            "VisibilityTimeout",
        ]
    );
    assert_eq!(shown["SqsManagedSseEnabled"], "false");
    // Creating the queue with the same attributes must still succeed.
    let again = json!({"QueueName": "q", "Attributes": {"KmsDataKeyReusePeriodSeconds": "300"}});
    done(&world, "CreateQueue", again).await;
}

/// `test_send_batch_message_size`, 30 April 2024, and for one message `test_send_oversized_message[sqs]`.
#[tokio::test]
async fn a_batch_words_the_refusal_of_a_too_long_message_differently() {
    let world = World::start().await;
    world
        .queue_with("q", &[("MaximumMessageSize", "1024")])
        .await;
    let body = "a".repeat(1025);
    let send = json!({"QueueUrl": "q", "MessageBody": body});
    let reason = "Reason: Message must be shorter than 1024 bytes.";
    assert_eq!(
        refusal(&world, "SendMessage", send).await,
        refused(
            "InvalidParameterValue",
            &format!("One or more parameters are invalid. {reason}")
        )
    );
    let batch = json!({"QueueUrl": "q", "Entries": [{"Id": "1", "MessageBody": body}]});
    let failed = &done(&world, "SendMessageBatch", batch).await["Failed"][0];
    assert_eq!(failed["Code"], "InvalidParameterValue");
    assert_eq!(
        failed["Message"],
        format!("One or more parameters cannot be validated. {reason}")
    );
}

async fn refusal_of_attribute(world: &World, name: &str, value: Value) -> (String, String) {
    let send = json!({"QueueUrl": "q", "MessageBody": "x", "MessageAttributes": {name: value}});
    refusal(world, "SendMessage", send).await
}

/// `test_send_message_with_empty_string_attribute[sqs]`, 30 April 2024.
#[tokio::test]
async fn an_attribute_with_an_empty_value_is_refused_with_the_text_of_aws() {
    let world = World::start().await;
    world.queue("q").await;
    let empty = json!({"DataType": "String", "StringValue": ""});
    assert_eq!(
        refusal_of_attribute(&world, "ErrorDetails", empty).await,
        refused(
            "InvalidParameterValue",
            "Message (user) attribute 'ErrorDetails' must contain a non-empty value of type 'String'."
        )
    );
}

/// `test_invalid_string_attributes_cause_invalid_parameter_value_error`. Its authors ran it on AWS without a recording.
#[tokio::test]
async fn a_forbidden_character_has_different_codes_in_an_attribute_and_in_a_body() {
    let world = World::start().await;
    world.queue("q").await;
    for character in ["\u{0}", "\u{8}", "\u{b}", "\u{fffe}"] {
        let value = json!({"DataType": "String", "StringValue": character});
        let (code, _) = refusal_of_attribute(&world, "a", value).await;
        assert_eq!(code, "InvalidParameterValue");
        let send = json!({"QueueUrl": "q", "MessageBody": character});
        let (code, _) = refusal(&world, "SendMessage", send).await;
        assert_eq!(code, "InvalidMessageContents");
    }
}

/// `test_send_message_with_invalid_string_attributes`. Its authors ran it on AWS without a recording. The developer
/// guide names only ASCII letters.
#[tokio::test]
async fn an_attribute_name_may_have_letters_of_any_script() {
    let world = World::start().await;
    world.queue("q").await;
    let value = json!({"DataType": "String", "StringValue": "Valida"});
    let send =
        json!({"QueueUrl": "q", "MessageBody": "x", "MessageAttributes": {"attr.1øßä": value}});
    done(&world, "SendMessage", send).await;
    for character in "§!\"(?".chars() {
        let name = format!("attr{character}");
        let (code, _) = refusal_of_attribute(&world, &name, value.clone()).await;
        assert_eq!(code, "InvalidParameterValue", "{name}");
    }
}

/// No recording. The developer guide allows up to 38 digits, from 10^-128 to 10^126.
#[tokio::test]
async fn a_number_is_finite() {
    let world = World::start().await;
    world.queue("q").await;
    for number in ["NaN", "inf", "-Infinity", "1e400", "one", "0x10"] {
        let value = json!({"DataType": "Number", "StringValue": number});
        let (code, message) = refusal_of_attribute(&world, "a", value).await;
        assert_eq!(code, "InvalidParameterValue", "{number}");
        assert!(message.contains("to a number"), "{message}");
    }
}

/// `test_create_standard_queue_with_fifo_attribute_raises_error[sqs]`, 15 May 2024, and
/// `test_set_unsupported_attribute_standard[sqs]`, 14 May 2024.
#[tokio::test]
async fn a_standard_queue_has_no_attributes_of_fifo_queues() {
    let world = World::start().await;
    world.queue("q").await;
    for (name, value, message) in [
        ("FifoQueue", "true", "Unknown Attribute FifoQueue."),
        ("FifoQueue", "false", "Unknown Attribute FifoQueue."),
        (
            "ContentBasedDeduplication",
            "true",
            "Unknown Attribute ContentBasedDeduplication.",
        ),
        (
            "DeduplicationScope",
            "queue",
            "You can specify the DeduplicationScope only when FifoQueue is set to true.",
        ),
        (
            "FifoThroughputLimit",
            "perQueue",
            "You can specify the FifoThroughputLimit only when FifoQueue is set to true.",
        ),
    ] {
        for operation in ["CreateQueue", "SetQueueAttributes"] {
            let request = json!({"QueueName": "new", "QueueUrl": "q", "Attributes": {name: value}});
            assert_eq!(
                refusal(&world, operation, request).await,
                refused("InvalidAttributeName", message)
            );
        }
    }
}

/// Smithy's protocol test `AwsJson11ServersDontDeserializeNullStructureValues`. AWS JSON 1.0 differs only in the
/// content type.
#[tokio::test]
async fn a_null_member_counts_as_absent() {
    let world = World::start().await;
    world.queue("q").await;
    let nulls = json!({"DataType": "String", "StringValue": "x", "BinaryValue": null});
    let attributes = json!({"a": nulls});
    let entry = json!({"Id": "1", "MessageBody": "x", "MessageAttributes": null, "MessageSystemAttributes": null});
    for (operation, request) in [
        (
            "CreateQueue",
            json!({"QueueName": "q", "Attributes": null, "tags": null}),
        ),
        ("CreateQueue", json!({"QueueName": "q", "Tags": null})),
        ("TagQueue", json!({"QueueUrl": "q", "Tags": null})),
        ("UntagQueue", json!({"QueueUrl": "q", "TagKeys": null})),
        (
            "GetQueueAttributes",
            json!({"QueueUrl": "q", "AttributeNames": null}),
        ),
        (
            "SendMessage",
            json!({"QueueUrl": "q", "MessageBody": "x", "MessageAttributes": null}),
        ),
        (
            "SendMessage",
            json!({"QueueUrl": "q", "MessageBody": "x", "MessageSystemAttributes": null}),
        ),
        (
            "SendMessage",
            json!({"QueueUrl": "q", "MessageBody": "x", "MessageAttributes": attributes, "DelaySeconds": null}),
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": "q", "Entries": [entry]}),
        ),
        (
            "ReceiveMessage",
            json!({
                "QueueUrl": "q", "AttributeNames": null, "MessageSystemAttributeNames": null, "MessageAttributeNames": null,
            }),
        ),
    ] {
        done(&world, operation, request).await;
    }
    for (operation, request, code) in [
        (
            "SetQueueAttributes",
            json!({"QueueUrl": "q", "Attributes": null}),
            "MissingParameter",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": "q", "Entries": null}),
            "AWS.SimpleQueueService.EmptyBatchRequest",
        ),
        (
            "DeleteMessageBatch",
            json!({"QueueUrl": "q", "Entries": [{"Id": null, "ReceiptHandle": "x"}]}),
            "AWS.SimpleQueueService.InvalidBatchEntryId",
        ),
        (
            "SendMessage",
            json!({"QueueUrl": "q", "MessageBody": "x", "MessageAttributes": {"a": {"DataType": null, "StringValue": "x"}}}),
            "InvalidParameterValue",
        ),
        // A map's value is not a member. Dropping it would send less than was asked for.
        (
            "SendMessage",
            json!({"QueueUrl": "q", "MessageBody": "x", "MessageAttributes": {"a": null}}),
            "SerializationException",
        ),
    ] {
        assert_eq!(
            refusal(&world, operation, request).await.0,
            code,
            "{operation}"
        );
    }
}

/// Checks the only form of error whose text clients of the query protocol show.
fn assert_query_error(answer: &Answer) {
    assert_eq!(answer.status(), "400", "{}", answer.body);
    assert!(
        answer.head.contains("content-type: text/xml"),
        "{}",
        answer.head
    );
    let code = "<Code>AWS.SimpleQueueService.UnsupportedOperation</Code>";
    assert!(answer.body.contains(code), "{}", answer.body);
    assert!(
        answer.body.contains("the query protocol"),
        "{}",
        answer.body
    );
}

/// These requests succeed on AWS (LocalStack's `TestSqsQueryApi`). Here they must not seem to.
#[tokio::test]
async fn a_get_in_the_query_protocol_is_refused() {
    let world = World::start().await;
    world.queue("q").await;
    for target in [
        "/000000000000/q?Action=SendMessage&MessageBody=hi&Version=2012-11-05",
        "/000000000000/q?Version=2012-11-05&Action=DeleteQueue",
        "/000000000000/q?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00",
        "/?Action=ListQueues",
        "/queue/?Action=ListQueues",
    ] {
        assert_query_error(&ask(&world, &format!("GET {target}"), "", "").await);
    }
    assert_eq!(world.depth("q").await, [0, 0, 0]);
    // A presigned request of a current SDK.
    let target = "X-Amz-Target: AmazonSQS.ListQueues\r\n";
    let answer = ask(&world, "POST /?X-Amz-Signature=00", target, "{}").await;
    assert_eq!(answer.status(), "200", "{}", answer.body);
}

/// boto3 1.26 shows `<Message>`. It can't parse a JSON answer, and retries.
#[tokio::test]
async fn an_sdk_of_the_query_protocol_is_refused_in_xml() {
    let world = World::start().await;
    let form = "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n";
    let body = "Action=ListQueues&Version=2012-11-05";
    for line in ["POST /", "POST /000000000000/q"] {
        assert_query_error(&ask(&world, line, form, body).await);
    }
    assert_query_error(&ask(&world, "POST /?Action=ListQueues", "", "").await);
    let both = format!("{form}X-Amz-Target: AmazonSQS.ListQueues\r\n");
    let answer = ask(&world, "POST /", &both, "{}").await;
    assert_eq!(answer.status(), "200", "{}", answer.body);
}

#[tokio::test]
async fn requests_without_an_operation_are_refused_with_an_explanation() {
    let world = World::start().await;
    let unsupported = "AWS.SimpleQueueService.UnsupportedOperation";
    assert_eq!(
        refusal(&world, "AddPermission", json!({})).await,
        refused(
            unsupported,
            "This endpoint does not have the operation AddPermission."
        )
    );
    for body in ["[\"q\"]", "\u{1f}\u{8b}\u{8}", "3", "Action=GetQueueUrl"] {
        let target = "X-Amz-Target: AmazonSQS.GetQueueUrl\r\n";
        let answer = ask(&world, "POST /", target, body).await;
        assert!(
            answer.head.contains("SerializationException"),
            "{}",
            answer.head
        );
        assert_eq!(answer.json()["message"], "The body must be a JSON object.");
    }
    for (line, status) in [
        ("POST /000000000000/q/", "404"),
        ("POST /queue", "404"),
        ("GET /", "404"),
        ("DELETE /000000000000/q", "404"),
    ] {
        let answer = ask(&world, line, "", "").await;
        assert_eq!(answer.status(), status, "{line}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("There is nothing here"), "{message}");
    }
}
