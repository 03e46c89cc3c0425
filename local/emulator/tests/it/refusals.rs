//! What the endpoint refuses, with AWS's codes, headers and texts.

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{HeaderMap, Request, StatusCode};
use jiff::Timestamp;
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs::{self, Store};
use scanhook_worker::clock::{Clock, ManualClock};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

struct Endpoint {
    router: Router,
    _dir: TempDir,
}

impl Endpoint {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let clock = Clock::Manual(ManualClock::at(Timestamp::UNIX_EPOCH));
        let store = Store::open(&dir.path().join("queues.db"), clock).unwrap();
        store.ensure_queue("q", &[]).await.unwrap();
        Self {
            router: sqs::Endpoint::new(store, Faults::none()).router(),
            _dir: dir,
        }
    }

    async fn post(&self, operation: &str, body: String) -> (StatusCode, HeaderMap, Value) {
        let request = Request::post("/")
            .header("host", "sqs.local:1")
            .header("x-amz-target", format!("AmazonSQS.{operation}"));
        let request = request
            .header("content-type", "application/x-amz-json-1.0")
            .body(Body::from(body))
            .unwrap();
        let (parts, body) = self
            .router
            .clone()
            .oneshot(request)
            .await
            .unwrap()
            .into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (
            parts.status,
            parts.headers,
            serde_json::from_slice(&body).unwrap(),
        )
    }
}

const URL: &str = "http://sqs.local:1/000000000000/q";

/// Checks that the operation is refused with this code, and with a text that contains `message`.
async fn check(operation: &str, body: Value, code: &str, message: &str) {
    let endpoint = Endpoint::start().await;
    let (status, headers, answer) = endpoint.post(operation, body.to_string()).await;
    let query_error = headers
        .get("x-amzn-query-error")
        .map(|it| it.to_str().unwrap().to_owned());
    assert_eq!(
        query_error,
        Some(format!("{code};Sender")),
        "{operation} {body}: {answer}"
    );
    assert!(status.is_client_error(), "{status}");
    assert!(
        answer["message"].as_str().unwrap().contains(message),
        "{answer}"
    );
}

async fn check_send(body: Value, code: &str, message: &str) {
    let mut request = json!({"QueueUrl": URL, "MessageBody": "body"});
    request
        .as_object_mut()
        .unwrap()
        .extend(body.as_object().unwrap().clone());
    check("SendMessage", request, code, message).await;
}

async fn check_create(attributes: Value, code: &str, message: &str) {
    check(
        "CreateQueue",
        json!({"QueueName": "new", "Attributes": attributes}),
        code,
        message,
    )
    .await;
}

#[tokio::test]
async fn an_error_has_the_shape_that_sdks_know() {
    let endpoint = Endpoint::start().await;
    let (status, headers, answer) = endpoint
        .post("GetQueueUrl", json!({"QueueName": "none"}).to_string())
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(headers["content-type"], "application/x-amz-json-1.0");
    assert_eq!(
        headers["x-amzn-query-error"],
        "AWS.SimpleQueueService.NonExistentQueue;Sender"
    );
    assert_eq!(headers["x-amzn-requestid"].len(), 36);
    let expected = json!({"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "The specified queue does not exist."});
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_queue_url_names_the_host_of_the_request() {
    let endpoint = Endpoint::start().await;
    let (_, _, answer) = endpoint
        .post("GetQueueUrl", json!({"QueueName": "q"}).to_string())
        .await;
    assert_eq!(answer, json!({"QueueUrl": URL}));
}

#[tokio::test]
async fn a_request_without_an_operation_is_refused() {
    check(
        "",
        json!({}),
        "AWS.SimpleQueueService.UnsupportedOperation",
        "AWS JSON 1.0",
    )
    .await;
}

#[tokio::test]
async fn missing_parameters_are_named() {
    for (operation, body, parameter) in [
        ("CreateQueue", json!({}), "QueueName"),
        ("GetQueueUrl", json!({}), "QueueName"),
        ("SendMessage", json!({"MessageBody": "x"}), "QueueUrl"),
        ("SendMessage", json!({"QueueUrl": URL}), "MessageBody"),
        (
            "SendMessage",
            json!({"QueueUrl": URL, "MessageBody": ""}),
            "MessageBody",
        ),
        ("ReceiveMessage", json!({}), "QueueUrl"),
        ("DeleteMessage", json!({"QueueUrl": URL}), "ReceiptHandle"),
        (
            "ChangeMessageVisibility",
            json!({"QueueUrl": URL, "ReceiptHandle": "x"}),
            "VisibilityTimeout",
        ),
        ("SetQueueAttributes", json!({"QueueUrl": URL}), "Attributes"),
        ("StartMessageMoveTask", json!({}), "SourceArn"),
        ("CancelMessageMoveTask", json!({}), "TaskHandle"),
    ] {
        let message = format!("The request must contain the parameter {parameter}.");
        check(operation, body, "MissingParameter", &message).await;
    }
}

#[tokio::test]
async fn every_operation_reports_a_missing_queue() {
    let url = "http://sqs.local:1/000000000000/none";
    for operation in [
        "DeleteQueue",
        "PurgeQueue",
        "GetQueueAttributes",
        "ListQueueTags",
        "TagQueue",
        "ReceiveMessage",
        "ListDeadLetterSourceQueues",
    ] {
        check(
            operation,
            json!({"QueueUrl": url}),
            "AWS.SimpleQueueService.NonExistentQueue",
            "",
        )
        .await;
    }
    let send = json!({"QueueUrl": url, "MessageBody": "x"});
    check(
        "SendMessage",
        send,
        "AWS.SimpleQueueService.NonExistentQueue",
        "",
    )
    .await;
    let batch = json!({"QueueUrl": url, "Entries": [{"Id": "1", "ReceiptHandle": "x", "MessageBody": "x", "VisibilityTimeout": 0}]});
    for operation in [
        "SendMessageBatch",
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
    ] {
        check(
            operation,
            batch.clone(),
            "AWS.SimpleQueueService.NonExistentQueue",
            "",
        )
        .await;
    }
}

#[tokio::test]
async fn queue_names_are_checked_and_fifo_is_refused() {
    for name in ["", "a b", "a.b", "ü", &"a".repeat(81)] {
        check(
            "CreateQueue",
            json!({"QueueName": name}),
            "InvalidParameterValue",
            "1 to 80 in length",
        )
        .await;
    }
    let unsupported = "AWS.SimpleQueueService.UnsupportedOperation";
    check(
        "CreateQueue",
        json!({"QueueName": "a.fifo"}),
        unsupported,
        "FIFO queues are not supported",
    )
    .await;
}

#[tokio::test]
async fn queue_attributes_are_checked() {
    check_create(
        json!({"Colour": "red"}),
        "InvalidAttributeName",
        "Unknown Attribute Colour.",
    )
    .await;
    check_create(
        json!({"QueueArn": "x"}),
        "InvalidAttributeName",
        "Unknown Attribute QueueArn.",
    )
    .await;
    for (name, value) in [
        ("DelaySeconds", "ten"),
        ("SqsManagedSseEnabled", "yes"),
        ("Policy", "{"),
    ] {
        let message = format!("Invalid value for the parameter {name}.");
        check_create(json!({name: value}), "InvalidAttributeValue", &message).await;
    }
    let both = json!({"SqsManagedSseEnabled": "true", "KmsMasterKeyId": "alias/aws/sqs"});
    check_create(
        both,
        "InvalidAttributeName",
        "one type of server-side encryption",
    )
    .await;
    let unknown = json!({"QueueUrl": URL, "AttributeNames": ["All", "Size"]});
    check(
        "GetQueueAttributes",
        unknown,
        "InvalidAttributeName",
        "Unknown Attribute Size.",
    )
    .await;
}

#[tokio::test]
async fn redrive_policies_are_checked() {
    let arn = "arn:aws:sqs:us-east-1:000000000000:q";
    for (policy, reason) in [
        ("dlq".to_owned(), "not a valid JSON map"),
        ("[]".to_owned(), "not a valid JSON map"),
        (
            json!({"maxReceiveCount": 5}).to_string(),
            "mandatory attribute: deadLetterTargetArn",
        ),
        (
            json!({"deadLetterTargetArn": arn}).to_string(),
            "mandatory attribute: maxReceiveCount",
        ),
        (
            json!({"deadLetterTargetArn": "q", "maxReceiveCount": 5}).to_string(),
            "Invalid value for deadLetterTargetArn",
        ),
        (
            json!({"deadLetterTargetArn": arn, "maxReceiveCount": 0}).to_string(),
            "from 1 to 1000",
        ),
        (
            json!({"deadLetterTargetArn": arn, "maxReceiveCount": "1001"}).to_string(),
            "from 1 to 1000",
        ),
        (
            json!({"deadLetterTargetArn": format!("{arn}x"), "maxReceiveCount": 5}).to_string(),
            "does not exist",
        ),
    ] {
        check_create(
            json!({"RedrivePolicy": policy}),
            "InvalidParameterValue",
            reason,
        )
        .await;
    }
    for (policy, reason) in [
        ("{", "unsupported format"),
        (r#"{"redrivePermission":"some"}"#, "unsupported format"),
        (
            r#"{"redrivePermission":"byQueue"}"#,
            "one or more sourceQueueArns",
        ),
        (
            r#"{"redrivePermission":"denyAll","sourceQueueArns":["a"]}"#,
            "must set redrivePermission to byQueue",
        ),
    ] {
        check_create(
            json!({"RedriveAllowPolicy": policy}),
            "InvalidParameterValue",
            reason,
        )
        .await;
    }
}

#[tokio::test]
async fn a_dead_letter_queue_may_restrict_its_sources() {
    let endpoint = Endpoint::start().await;
    let dlq = "arn:aws:sqs:us-east-1:000000000000:q";
    let allow = json!({"redrivePermission": "byQueue", "sourceQueueArns": ["arn:aws:sqs:us-east-1:000000000000:friend"]});
    let set = json!({"QueueUrl": URL, "Attributes": {"RedriveAllowPolicy": allow.to_string()}});
    assert_eq!(
        endpoint.post("SetQueueAttributes", set.to_string()).await.0,
        StatusCode::OK
    );
    let policy = json!({"deadLetterTargetArn": dlq, "maxReceiveCount": "3"}).to_string();
    for (name, status) in [
        ("friend", StatusCode::OK),
        ("stranger", StatusCode::BAD_REQUEST),
    ] {
        let create = json!({"QueueName": name, "Attributes": {"RedrivePolicy": policy}});
        assert_eq!(
            endpoint.post("CreateQueue", create.to_string()).await.0,
            status,
            "{name}"
        );
    }
}

#[tokio::test]
async fn message_parameters_are_checked() {
    let invalid = "InvalidParameterValue";
    for body in ["\u{0}", "\u{1f}", "\u{fffe}", "\u{ffff}"] {
        check_send(
            json!({"MessageBody": body}),
            "InvalidMessageContents",
            "Invalid characters found",
        )
        .await;
    }
    let long = "a".repeat((1 << 20) + 1);
    check_send(
        json!({"MessageBody": long}),
        invalid,
        "Message must be shorter than 1048576 bytes.",
    )
    .await;
    for delay in [-1, 901] {
        check_send(
            json!({"DelaySeconds": delay}),
            invalid,
            "DelaySeconds must be >= 0 and <= 900.",
        )
        .await;
    }
    for group in ["", "a b", "ä", &"a".repeat(129)] {
        check_send(
            json!({"MessageGroupId": group}),
            invalid,
            "for parameter MessageGroupId is invalid",
        )
        .await;
    }
    check_send(
        json!({"MessageDeduplicationId": "1"}),
        invalid,
        "not valid for this queue type",
    )
    .await;
    let other = json!({"Trace": {"DataType": "String", "StringValue": "x"}});
    check_send(
        json!({"MessageSystemAttributes": other}),
        invalid,
        "Message system attribute name 'Trace' is invalid",
    )
    .await;
}

#[tokio::test]
async fn message_attributes_are_checked() {
    let text = json!({"DataType": "String", "StringValue": "x"});
    let eleven: Value = (0..11).map(|it| (format!("a{it}"), text.clone())).collect();
    check_send(
        json!({"MessageAttributes": eleven}),
        "InvalidParameterValue",
        "[11] exceeds the allowed maximum [10]",
    )
    .await;
    for name in [
        "",
        "a b",
        "AWS.x",
        "amazon.x",
        ".a",
        "a.",
        "a..b",
        &"a".repeat(257),
    ] {
        check_send(
            json!({"MessageAttributes": {name: text}}),
            "InvalidParameterValue",
            "ttribute names",
        )
        .await;
    }
    for (value, message) in [
        (
            json!({"StringValue": "x"}),
            "must contain non-empty message attribute type",
        ),
        (
            json!({"DataType": "Text", "StringValue": "x"}),
            "the set of supported type prefixes",
        ),
        (
            json!({"DataType": "String"}),
            "must contain a non-empty value",
        ),
        (
            json!({"DataType": "String", "StringValue": ""}),
            "must contain a non-empty value",
        ),
        (
            json!({"DataType": "String", "BinaryValue": "eA=="}),
            "must use field 'StringValue'",
        ),
        (
            json!({"DataType": "Binary", "StringValue": "x"}),
            "must use field 'BinaryValue'",
        ),
        (
            json!({"DataType": "Number", "StringValue": "seven"}),
            "to a number",
        ),
    ] {
        check_send(
            json!({"MessageAttributes": {"a": value}}),
            "InvalidParameterValue",
            message,
        )
        .await;
    }
}

#[tokio::test]
async fn a_message_of_exactly_the_largest_size_is_accepted() {
    let endpoint = Endpoint::start().await;
    let attributes = json!({"a": {"DataType": "String", "StringValue": "12345"}});
    let body = "\u{20ac}".repeat(((1 << 20) - 12) / 3);
    let send = json!({"QueueUrl": URL, "MessageBody": body, "MessageAttributes": attributes});
    assert_eq!(
        endpoint.post("SendMessage", send.to_string()).await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn receives_and_visibility_are_checked() {
    let invalid = "InvalidParameterValue";
    for (name, value, reason) in [
        (
            "MaxNumberOfMessages",
            0,
            "Must be between 1 and 10, if provided.",
        ),
        (
            "MaxNumberOfMessages",
            11,
            "Must be between 1 and 10, if provided.",
        ),
        (
            "WaitTimeSeconds",
            -1,
            "Must be >= 0 and <= 20, if provided.",
        ),
        (
            "WaitTimeSeconds",
            21,
            "Must be >= 0 and <= 20, if provided.",
        ),
        (
            "VisibilityTimeout",
            -1,
            "Must be >= 0 and <= 43200, if provided.",
        ),
        (
            "VisibilityTimeout",
            43_201,
            "Must be >= 0 and <= 43200, if provided.",
        ),
    ] {
        check(
            "ReceiveMessage",
            json!({"QueueUrl": URL, name: value}),
            invalid,
            reason,
        )
        .await;
    }
    for seconds in [-1, 43_201] {
        let change = json!({"QueueUrl": URL, "ReceiptHandle": "x", "VisibilityTimeout": seconds});
        let reason = "Must be >= 0 and <= 43200, if provided.";
        check("ChangeMessageVisibility", change, invalid, reason).await;
    }
    check(
        "ReceiveMessage",
        json!({"QueueUrl": URL, "MaxNumberOfMessages": "many"}),
        "SerializationException",
        "invalid type",
    )
    .await;
    let names = json!({"QueueUrl": URL, "MessageSystemAttributeNames": ["Sender"]});
    check(
        "ReceiveMessage",
        names,
        "InvalidAttributeName",
        "Unknown Attribute Sender.",
    )
    .await;
    let message = "The input receipt handle \"garbage\" is not a valid receipt handle.";
    let body = json!({"QueueUrl": URL, "ReceiptHandle": "garbage", "VisibilityTimeout": 0});
    check(
        "DeleteMessage",
        body.clone(),
        "ReceiptHandleIsInvalid",
        message,
    )
    .await;
    check(
        "ChangeMessageVisibility",
        body,
        "ReceiptHandleIsInvalid",
        message,
    )
    .await;
}

#[tokio::test]
async fn batches_are_checked_as_a_whole() {
    let entry = |id: &str, body: &str| json!({"Id": id, "MessageBody": body, "ReceiptHandle": "x", "VisibilityTimeout": 0});
    let eleven: Vec<_> = (0..11).map(|it| entry(&it.to_string(), "x")).collect();
    for (operation, name) in [
        ("SendMessageBatch", "SendMessage"),
        ("DeleteMessageBatch", "DeleteMessage"),
        ("ChangeMessageVisibilityBatch", "ChangeMessageVisibility"),
    ] {
        for (entries, code, message) in [
            (
                json!([]),
                "EmptyBatchRequest",
                format!("at least one {name}BatchRequestEntry"),
            ),
            (
                json!(eleven),
                "TooManyEntriesInBatchRequest",
                "You have sent 11.".to_owned(),
            ),
            (
                json!([entry("a", "x"), entry("a", "x")]),
                "BatchEntryIdsNotDistinct",
                "Id a repeated.".to_owned(),
            ),
            (
                json!([entry("a b", "x")]),
                "InvalidBatchEntryId",
                "at most 80 letters long".to_owned(),
            ),
            (
                json!([entry("", "x")]),
                "InvalidBatchEntryId",
                "at most 80 letters long".to_owned(),
            ),
        ] {
            let code = format!("AWS.SimpleQueueService.{code}");
            check(
                operation,
                json!({"QueueUrl": URL, "Entries": entries}),
                &code,
                &message,
            )
            .await;
        }
    }
    let half = "a".repeat(1 << 19);
    let entries = json!([entry("1", &half), entry("2", &half), entry("3", "x")]);
    let message =
        "Batch requests cannot be longer than 1048576 bytes. You have sent 1048577 bytes.";
    let code = "AWS.SimpleQueueService.BatchRequestTooLong";
    check(
        "SendMessageBatch",
        json!({"QueueUrl": URL, "Entries": entries}),
        code,
        message,
    )
    .await;
}
