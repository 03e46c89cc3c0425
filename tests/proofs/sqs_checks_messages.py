"""Checks of messages: sent, received, hidden and deleted, one by one and in batches.

Python 3.11 and boto3.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from boto3_conformance import md5, md5_of_attributes
from sqs_checks import MEBIBYTE, Different, Queue, Target, check, expect, has, has_not, refused

GONE = "QueueDoesNotExist: Ensure that the QueueUrl is correct and that the queue has not been deleted"
SIZE = "The minimum size is one character. The maximum size is 1 MiB (1,048,576 bytes)"
CHARACTERS = "Only XML characters: #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF; InvalidMessageContents"
METADATA = "sqs-message-metadata"
QUOTAS = "quotas-messages"
FAIR = "sqs-fair-queues"

TEXT = {"DataType": "String", "StringValue": "äöü"}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "text": TEXT,
    "labelled": {"DataType": "String.json", "StringValue": "{}"},
    "number": {"DataType": "Number.float", "StringValue": "1.50"},
    "bytes": {"DataType": "Binary", "BinaryValue": bytes(range(256))},
}
TRACE = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5759e988-bd862e3fe1be46a994272793"}}


# SendMessage


@check(
    "SendMessage",
    "the id is a UUID",
    "MessageId: an attribute containing the MessageId of the message sent to the queue",
    "sqs-queue-message-identifiers",
)
def _(it: Target) -> None:
    expect(len(str(uuid.UUID(it.queue().send()["MessageId"]))), 36)


@check(
    "SendMessage",
    "the MD5 of the body is told",
    "MD5OfMessageBody: an MD5 digest of the non-URL-encoded message body string",
)
def _(it: Target) -> None:
    expect(it.queue().send("Grüße")["MD5OfMessageBody"], md5("Grüße".encode()))


@check(
    "SendMessage",
    "the MD5 of the attributes is told",
    "MD5OfMessageAttributes: an MD5 digest of the non-URL-encoded message attribute string",
    METADATA,
)
def _(it: Target) -> None:
    sent = it.queue().send(MessageAttributes=ATTRIBUTES)
    expect(sent["MD5OfMessageAttributes"], md5_of_attributes(ATTRIBUTES))


@check(
    "SendMessage",
    "the MD5 of the system attributes is told",
    "MD5OfMessageSystemAttributes: an MD5 digest of the non-URL-encoded message system attribute string",
)
def _(it: Target) -> None:
    sent = it.queue().send(MessageSystemAttributes=TRACE)
    expect(sent.get("MD5OfMessageSystemAttributes"), md5_of_attributes(TRACE))


@check(
    "SendMessage",
    "there is no sequence number on a standard queue",
    "SequenceNumber: this parameter applies only to FIFO queues",
)
def _(it: Target) -> None:
    has_not(it.queue().send(), "SequenceNumber")


@check("SendMessage", "any text that XML can hold comes back as it was", CHARACTERS)
def _(it: Target) -> None:
    queue = it.queue()
    body = 'Grüße, "Welt" <&> \U0001f40b\n\t\r\x7f\ufffd'
    queue.send(body)
    expect(queue.one()["Body"], body)


for _name, _character in (("#x0", "\x00"), ("#x1F", "\x1f"), ("#xFFFE", "\ufffe")):

    @check("SendMessage", f"a body with {_name} is refused", CHARACTERS)
    def _(it: Target, character: str = _character) -> None:
        queue = it.queue()
        refused(lambda: queue.send(f"a{character}b"), "InvalidMessageContents")


@check("SendMessage", "an empty body is refused", SIZE)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.send(""), "MissingParameter", "The request must contain the parameter MessageBody.")


@check("SendMessage", "1 MiB is taken", SIZE, QUOTAS)
def _(it: Target) -> None:
    it.queue().send("x" * MEBIBYTE)


@check("SendMessage", "a byte more is refused", SIZE, QUOTAS)
def _(it: Target) -> None:
    queue = it.queue()
    words = "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes."
    refused(lambda: queue.send("x" * (MEBIBYTE + 1)), "InvalidParameterValue", words)


@check(
    "SendMessage",
    "attributes count to the size",
    "A message attribute's name, type and value count towards the message size",
    METADATA,
)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.send("x" * MEBIBYTE, MessageAttributes={"a": TEXT}), "InvalidParameterValue")


@check(
    "SendMessage",
    "the queue's MaximumMessageSize holds",
    "MaximumMessageSize: the limit of how many bytes a message can contain before Amazon SQS rejects it",
    "API_SetQueueAttributes",
)
def _(it: Target) -> None:
    queue = it.queue(MaximumMessageSize="1024")
    queue.send("x" * 1024)
    words = "Message must be shorter than 1024 bytes."
    refused(lambda: queue.send("x" * 1025), "InvalidParameterValue", words)


@check(
    "SendMessage",
    "DelaySeconds hides the message",
    "DelaySeconds: the length of time, in seconds, for which to delay a specific message",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send(DelaySeconds=900)
    expect((queue.receive(), queue.depths()), ([], [0, 0, 1]))


@check(
    "SendMessage",
    "it appears when its delay ends",
    "Messages with a positive DelaySeconds value become available for processing after the delay period is finished",
)
def _(it: Target) -> None:
    queue = it.queue()
    began = time.monotonic()
    queue.send(DelaySeconds=1)
    queue.one()
    expect(time.monotonic() - began > 0.9, True)


@check(
    "SendMessage",
    "the queue's delay holds for a message without",
    "If you don't specify a value, the default value for the queue applies",
)
def _(it: Target) -> None:
    queue = it.queue(DelaySeconds="900")
    queue.send()
    expect(queue.depths(), [0, 0, 1])


@check(
    "SendMessage",
    "a delay of 0 overrides the queue's",
    "DelaySeconds of a message overrides the queue's",
    "sqs-message-timers",
)
def _(it: Target) -> None:
    queue = it.queue(DelaySeconds="900")
    queue.send(DelaySeconds=0)
    expect(queue.depths(), [1, 0, 0])


for _delay in (-1, 901):

    @check("SendMessage", f"a delay of {_delay} is refused", "DelaySeconds: valid values: 0 to 900")
    def _(it: Target, delay: int = _delay) -> None:
        queue = it.queue()
        words = f"Value {delay} for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and <= 900."
        refused(lambda: queue.send(DelaySeconds=delay), "InvalidParameterValue", words)


@check(
    "SendMessage",
    "attributes of each type come back",
    "Logical data types String, Number and Binary, with custom labels",
    METADATA,
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send(MessageAttributes=ATTRIBUTES)
    expect(queue.one()["MessageAttributes"], ATTRIBUTES)


@check("SendMessage", "ten attributes are taken", "Each message can have up to 10 attributes", METADATA)
def _(it: Target) -> None:
    it.queue().send(MessageAttributes={f"a{number}": TEXT for number in range(10)})


@check("SendMessage", "eleven are refused", "Each message can have up to 10 attributes", METADATA)
def _(it: Target) -> None:
    queue = it.queue()
    eleven = {f"a{number}": TEXT for number in range(11)}
    refused(lambda: queue.send(MessageAttributes=eleven), "InvalidParameterValue")


NAMES = "Names can contain A-Z, a-z, 0-9, _, - and .; must not start or end with a period, have periods in succession, or start with AWS. or Amazon.; up to 256 characters"
for _what, _bad in (
    ("beginning with AWS.", "AWS.a"),
    ("beginning with amazon.", "amazon.a"),
    ("with a space", "a b"),
    ("that starts with a period", ".a"),
    ("that ends with a period", "a."),
    ("with two periods in succession", "a..b"),
    ("of 257 characters", "a" * 257),
):

    @check("SendMessage", f"an attribute name {_what} is refused", NAMES, METADATA)
    def _(it: Target, bad: str = _bad) -> None:
        queue = it.queue()
        refused(lambda: queue.send(MessageAttributes={bad: TEXT}), "InvalidParameterValue")


for _what, _value in (
    ("of an unknown type", {"DataType": "Date", "StringValue": "x"}),
    ("of no type", {"DataType": "", "StringValue": "x"}),
    ("without a value", {"DataType": "String"}),
    ("with an empty value", {"DataType": "String", "StringValue": ""}),
    ("of type Number that is none", {"DataType": "Number", "StringValue": "one"}),
    ("of type Binary with a text", {"DataType": "Binary", "StringValue": "x"}),
):

    @check(
        "SendMessage",
        f"an attribute {_what} is refused",
        "DataType: String, Number or Binary, with an optional label; name, type and value must not be empty or null",
        METADATA,
    )
    def _(it: Target, value: dict[str, Any] = _value) -> None:
        queue = it.queue()
        refused(lambda: queue.send(MessageAttributes={"a": value}), "InvalidParameterValue")


@check(
    "SendMessage",
    "a system attribute other than AWSTraceHeader is refused",
    "Currently, the only supported message system attribute is AWSTraceHeader",
)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.send(MessageSystemAttributes={"Other": TEXT}), "InvalidParameterValue")


@check(
    "SendMessage",
    "AWSTraceHeader does not count to the size",
    "The size of a message system attribute doesn't count towards the total size of a message",
)
def _(it: Target) -> None:
    it.queue().send("x" * MEBIBYTE, MessageSystemAttributes=TRACE)


@check(
    "SendMessage",
    "MessageGroupId is taken on a standard queue, 128 characters",
    "MessageGroupId: 1 to 128 alphanumeric characters and punctuation; on standard queues it enables fair queues",
    FAIR,
)
def _(it: Target) -> None:
    queue = it.queue()
    group = "a-source!".ljust(128, "x")
    queue.send(MessageGroupId=group)
    expect(queue.one()["Attributes"].get("MessageGroupId"), group)


for _what, _group in (("of 129 characters", "x" * 129), ("with a space", "a b"), ("with an umlaut", "ä")):

    @check(
        "SendMessage",
        f"a MessageGroupId {_what} is refused",
        "MessageGroupId can contain 1 to 128 alphanumeric characters and punctuation",
    )
    def _(it: Target, group: str = _group) -> None:
        queue = it.queue()
        refused(lambda: queue.send(MessageGroupId=group), "InvalidParameterValue", "MessageGroupId")


@check(
    "SendMessage",
    "MessageDeduplicationId is refused on a standard queue",
    "MessageDeduplicationId: this parameter applies only to FIFO queues",
)
def _(it: Target) -> None:
    queue = it.queue()
    words = "The request include parameter that is not valid for this queue type"
    refused(lambda: queue.send(MessageDeduplicationId="a"), "InvalidParameterValue", words)


@check("SendMessage", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    url = it.nowhere()
    refused(Queue(it, "", url).send, "QueueDoesNotExist", "The specified queue does not exist")


@check("SendMessage", "no queue URL is refused", "QueueUrl is required", "CommonErrors")
def _(it: Target) -> None:
    refused(lambda: it.sqs.send_message(MessageBody="x"), "MissingParameter", "QueueUrl")


# Batches


def _entries(count: int) -> list[dict[str, Any]]:
    return [{"Id": f"e{number}", "MessageBody": f"message {number}"} for number in range(count)]


@check("SendMessageBatch", "ten are sent, each with its MD5", "You can use SendMessageBatch to send up to 10 messages")
def _(it: Target) -> None:
    queue = it.queue()
    sent = queue.send_batch(*_entries(10))["Successful"]
    told = {entry["Id"]: entry["MD5OfMessageBody"] for entry in sent}
    expect(told, {entry["Id"]: md5(entry["MessageBody"].encode()) for entry in _entries(10)})
    expect(queue.depths(), [10, 0, 0])


@check(
    "SendMessageBatch",
    "each entry has its own delay, group and attributes",
    "SendMessageBatchRequestEntry",
    "API_SendMessageBatchRequestEntry",
)
def _(it: Target) -> None:
    queue = it.queue()
    first, second = _entries(2)
    first |= {"MessageGroupId": "a", "MessageAttributes": {"text": TEXT}}
    sent = queue.send_batch(first, {**second, "DelaySeconds": 900})["Successful"]
    sums = [entry.get("MD5OfMessageAttributes") for entry in sorted(sent, key=lambda entry: entry["Id"])]
    expect(sums, [md5_of_attributes({"text": TEXT}), None])
    expect(queue.depths(), [1, 0, 1])
    message = queue.one()
    expect((message["Attributes"].get("MessageGroupId"), message["MessageAttributes"]), ("a", {"text": TEXT}))


@check(
    "SendMessageBatch",
    "a bad entry fails alone, by the sender's fault",
    "The result of sending each message is reported individually; BatchResultErrorEntry: Code, SenderFault",
)
def _(it: Target) -> None:
    queue = it.queue()
    entries = _entries(2)
    entries[1]["MessageBody"] = "\x00"
    answer = queue.send_batch(*entries)
    failed = [(entry["Id"], entry["Code"], entry["SenderFault"]) for entry in answer.get("Failed", [])]
    expect((len(answer["Successful"]), failed), (1, [("e1", "InvalidMessageContents", True)]))


@check(
    "SendMessageBatch",
    "an entry with a bad delay fails alone",
    "The result of sending each message is reported individually",
)
def _(it: Target) -> None:
    queue = it.queue()
    first, second = _entries(2)
    answer = queue.send_batch(first, {**second, "DelaySeconds": 901})
    failed = [(entry["Id"], entry["Code"]) for entry in answer.get("Failed", [])]
    expect((len(answer["Successful"]), failed), (1, [("e1", "InvalidParameterValue")]))


@check(
    "SendMessageBatch",
    "more than 1 MiB together is refused",
    "BatchRequestTooLong: The length of all the messages put together is more than the limit",
)
def _(it: Target) -> None:
    queue = it.queue()
    halves = [{"Id": name, "MessageBody": name * (MEBIBYTE // 2 + 1)} for name in "ab"]
    words = "Batch requests cannot be longer than 1048576 bytes. You have sent 1048578 bytes."
    refused(lambda: queue.send_batch(*halves), "BatchRequestTooLong", words)


Send = Callable[[Queue, list[dict[str, Any]]], Any]


def _send(queue: Queue, entries: list[dict[str, Any]]) -> Any:
    return queue.send_batch(*entries)


def _delete(queue: Queue, entries: list[dict[str, Any]]) -> Any:
    handles = [{"Id": entry["Id"], "ReceiptHandle": "x"} for entry in entries]
    return queue.sqs.delete_message_batch(QueueUrl=queue.url, Entries=handles)


def _change(queue: Queue, entries: list[dict[str, Any]]) -> Any:
    changes = [{"Id": entry["Id"], "ReceiptHandle": "x", "VisibilityTimeout": 0} for entry in entries]
    return queue.sqs.change_message_visibility_batch(QueueUrl=queue.url, Entries=changes)


for _operation, _act in (
    ("SendMessageBatch", _send),
    ("DeleteMessageBatch", _delete),
    ("ChangeMessageVisibilityBatch", _change),
):
    _entry = f"{_operation}RequestEntry"

    @check(_operation, "no entries are refused", "EmptyBatchRequest: The batch request doesn't contain any entries")
    def _(it: Target, act: Send = _act, entry: str = _entry) -> None:
        queue = it.queue()
        words = f"There should be at least one {entry} in the request."
        refused(lambda: act(queue, []), "EmptyBatchRequest", words)

    @check(
        _operation,
        "eleven entries are refused",
        "TooManyEntriesInBatchRequest: The batch request contains more entries than permissible",
    )
    def _(it: Target, act: Send = _act) -> None:
        queue = it.queue()
        words = "Maximum number of entries per request are 10. You have sent 11."
        refused(lambda: act(queue, _entries(11)), "TooManyEntriesInBatchRequest", words)

    @check(
        _operation,
        "an id that comes twice is refused",
        "BatchEntryIdsNotDistinct: Two or more batch entries in the request have the same Id",
    )
    def _(it: Target, act: Send = _act) -> None:
        queue = it.queue()
        refused(lambda: act(queue, _entries(1) * 2), "BatchEntryIdsNotDistinct", "Id e0 repeated.")

    @check(
        _operation,
        "an id with a space is refused",
        "InvalidBatchEntryId: The Id of a batch entry in a batch request doesn't abide by the specification",
    )
    def _(it: Target, act: Send = _act) -> None:
        queue = it.queue()
        words = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long."
        refused(lambda: act(queue, [{"Id": "a b", "MessageBody": "x"}]), "InvalidBatchEntryId", words)


# ReceiveMessage


@check(
    "ReceiveMessage",
    "nothing but id, handle, body and MD5 if nothing is asked for",
    "AttributeNames, MessageSystemAttributeNames and MessageAttributeNames are not required",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send(MessageAttributes=ATTRIBUTES)
    message = queue.one(MessageAttributeNames=[], MessageSystemAttributeNames=[])
    expect(sorted(message), ["Body", "MD5OfBody", "MessageId", "ReceiptHandle"])


@check(
    "ReceiveMessage",
    "an empty queue answers without a list",
    "The response leaves Messages out if there are none",
    "botocore and AWS CLI: `Messages` is absent",
)
def _(it: Target) -> None:
    has_not(it.sqs.receive_message(QueueUrl=it.queue().url), "Messages")


@check(
    "ReceiveMessage",
    "the MD5 of the body is told",
    "MD5OfBody: an MD5 digest of the non-URL-encoded message body string",
    "API_Message",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send("Grüße")
    expect(queue.one()["MD5OfBody"], md5("Grüße".encode()))


SYSTEM = (
    "MessageSystemAttributeNames: ApproximateReceiveCount, ApproximateFirstReceiveTimestamp, SenderId, SentTimestamp, …"
)


@check("ReceiveMessage", "all system attributes", SYSTEM)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send(MessageSystemAttributes=TRACE)
    attributes = queue.one()["Attributes"]
    has(attributes, "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SenderId", "SentTimestamp")
    expect(attributes.get("AWSTraceHeader"), TRACE["AWSTraceHeader"]["StringValue"])


@check("ReceiveMessage", "only the system attributes asked for", SYSTEM)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    message = queue.one(MessageSystemAttributeNames=["ApproximateReceiveCount"])
    expect(message["Attributes"], {"ApproximateReceiveCount": "1"})


@check(
    "ReceiveMessage",
    "AttributeNames does as MessageSystemAttributeNames",
    "AttributeNames has been deprecated; it is still taken",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    message = queue.one(MessageSystemAttributeNames=[], AttributeNames=["SentTimestamp"])
    expect(list(message["Attributes"]), ["SentTimestamp"])


@check(
    "ReceiveMessage",
    "times are in milliseconds of now",
    "SentTimestamp, ApproximateFirstReceiveTimestamp: epoch time in milliseconds",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    attributes = queue.one()["Attributes"]
    for name in ("SentTimestamp", "ApproximateFirstReceiveTimestamp"):
        expect(abs(int(attributes[name]) / 1000 - time.time()) < 60, True)


@check(
    "ReceiveMessage",
    "receives are counted, the first one's time stays",
    "ApproximateReceiveCount: the number of times a message has been received across all queues but not deleted",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    first, second = (queue.one(VisibilityTimeout=0)["Attributes"] for _ in range(2))
    expect((first["ApproximateReceiveCount"], second["ApproximateReceiveCount"]), ("1", "2"))
    name = "ApproximateFirstReceiveTimestamp"
    expect(second[name], first[name])


@check(
    "ReceiveMessage",
    "a system attribute that does not exist is refused",
    "MessageSystemAttributeNames: the valid values are listed",
)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.receive(MessageSystemAttributeNames=["Nothing"]), "InvalidAttributeName", "Nothing")


WILDCARD = "You can receive all of the attributes with All or .*, or all that start with a prefix, for example bar.*"
NAMED = {"foo": TEXT, "bar.a": TEXT, "bar.b": TEXT}
for _what, _names, _found in (
    ("All", ["All"], ["bar.a", "bar.b", "foo"]),
    (".*", [".*"], ["bar.a", "bar.b", "foo"]),
    ("a prefix, bar.*", ["bar.*"], ["bar.a", "bar.b"]),
    ("names", ["foo", "bar.a"], ["bar.a", "foo"]),
):

    @check("ReceiveMessage", f"message attributes by {_what}", WILDCARD)
    def _(it: Target, names: list[str] = _names, found: list[str] = _found) -> None:
        queue = it.queue()
        queue.send(MessageAttributes=NAMED)
        expect(sorted(queue.one(MessageAttributeNames=names).get("MessageAttributes", {})), found)


@check("ReceiveMessage", "a message attribute that is not there is left out", WILDCARD)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send(MessageAttributes=NAMED)
    has_not(queue.one(MessageAttributeNames=["other"]), "MessageAttributes", "MD5OfMessageAttributes")


@check(
    "ReceiveMessage",
    "the MD5 covers the attributes that are told",
    "MD5OfMessageAttributes: use this to verify that Amazon SQS returned the message correctly",
    "API_Message",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send(MessageAttributes=NAMED)
    message = queue.one(MessageAttributeNames=["bar.*"], VisibilityTimeout=0)
    expect(message["MD5OfMessageAttributes"], md5_of_attributes({"bar.a": TEXT, "bar.b": TEXT}))


@check(
    "ReceiveMessage", "one message unless more are asked for", "MaxNumberOfMessages: valid values: 1 to 10. Default: 1"
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send_batch(*_entries(3))
    expect(len(queue.receive()), 1)


@check(
    "ReceiveMessage", "never more than asked for, each once", "Amazon SQS never returns more messages than this value"
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send_batch(*_entries(10))
    queue.send()
    seen: list[str] = []

    def all_eleven() -> bool:
        messages = queue.receive(MaxNumberOfMessages=10)
        if len(messages) > 10:
            raise Different(f"{len(messages)} at once")
        seen.extend(message["MessageId"] for message in messages)
        return len(seen) >= 11

    it.until("all messages", all_eleven)
    expect(len(set(seen)), 11)


for _count in (0, 11):

    @check(
        "ReceiveMessage", f"MaxNumberOfMessages of {_count} is refused", "MaxNumberOfMessages: valid values: 1 to 10"
    )
    def _(it: Target, count: int = _count) -> None:
        queue = it.queue()
        words = f"Value {count} for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10, if provided."
        refused(lambda: queue.receive(MaxNumberOfMessages=count), "InvalidParameterValue", words)


for _wait in (-1, 21):

    @check(
        "ReceiveMessage",
        f"WaitTimeSeconds of {_wait} is refused",
        "ReceiveMessageWaitTimeSeconds: an integer from 0 to 20 (seconds)",
        "sqs-short-and-long-polling",
    )
    def _(it: Target, wait: int = _wait) -> None:
        queue = it.queue()
        words = f"Value {wait} for parameter WaitTimeSeconds is invalid. Reason: Must be >= 0 and <= 20, if provided."
        refused(lambda: queue.receive(WaitTimeSeconds=wait), "InvalidParameterValue", words)


for _timeout in (-1, 43_201):

    @check(
        "ReceiveMessage",
        f"VisibilityTimeout of {_timeout} is refused",
        "The visibility timeout is from 0 seconds to 12 hours",
        "sqs-visibility-timeout",
    )
    def _(it: Target, timeout: int = _timeout) -> None:
        queue = it.queue()
        words = f"Value {timeout} for parameter VisibilityTimeout is invalid."
        refused(lambda: queue.receive(VisibilityTimeout=timeout), "InvalidParameterValue", words)


@check(
    "ReceiveMessage",
    "a received message is hidden",
    "The duration that received messages are hidden from subsequent retrieve requests",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    queue.one()
    expect((queue.receive(), queue.depths()), ([], [0, 1, 0]))


@check(
    "ReceiveMessage",
    "it is back when its visibility timeout ends",
    "VisibilityTimeout of the receive overrides the queue's",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    queue.one(VisibilityTimeout=1)
    began = time.monotonic()
    expect(queue.one()["Attributes"]["ApproximateReceiveCount"], "2")
    expect(time.monotonic() - began > 0.7, True)


@check(
    "ReceiveMessage",
    "the queue's visibility timeout holds if none is given",
    "If not specified, the default visibility timeout for the queue is used",
)
def _(it: Target) -> None:
    queue = it.queue(VisibilityTimeout="0")
    queue.send()
    queue.one()
    expect(queue.one()["Attributes"]["ApproximateReceiveCount"], "2")


@check(
    "ReceiveMessage",
    "each receive has its own handle",
    "If you receive a message more than once, each time you receive a message, you get a different receipt handle",
    "sqs-queue-message-identifiers",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    first, second = (queue.one(VisibilityTimeout=0)["ReceiptHandle"] for _ in range(2))
    expect(first == second, False)


LONG = "The duration for which the call waits for a message to arrive in the queue before returning"


@check("ReceiveMessage", "a long poll wakes when a message is sent", LONG)
def _(it: Target) -> None:
    queue = it.queue()
    arrived: list[dict[str, Any]] = []
    poll = threading.Thread(target=lambda: arrived.extend(queue.receive(WaitTimeSeconds=20)))
    poll.start()
    began = time.monotonic()
    queue.send()
    poll.join(timeout=30)
    took = time.monotonic() - began
    expect((len(arrived), took < 10), (1, True))


@check("ReceiveMessage", "a long poll without a message ends empty when its time is up", LONG)
def _(it: Target) -> None:
    queue = it.queue()
    began = time.monotonic()
    expect(queue.receive(WaitTimeSeconds=1), [])
    expect(0.9 < time.monotonic() - began < 10, True)


@check(
    "ReceiveMessage",
    "the queue's wait time holds if none is given",
    "ReceiveMessageWaitTimeSeconds: the length of time for which a ReceiveMessage action waits",
    "sqs-short-and-long-polling",
)
def _(it: Target) -> None:
    queue = it.queue(ReceiveMessageWaitTimeSeconds="1")
    began = time.monotonic()
    expect(queue.receive(), [])
    expect(time.monotonic() - began > 0.9, True)


@check(
    "ReceiveMessage",
    "a wait of 0 overrides the queue's",
    "A WaitTimeSeconds of the call takes precedence over the queue's",
    "sqs-short-and-long-polling",
)
def _(it: Target) -> None:
    queue = it.queue(ReceiveMessageWaitTimeSeconds="20")
    began = time.monotonic()
    expect(queue.receive(WaitTimeSeconds=0), [])
    expect(time.monotonic() - began < 10, True)


@check("ReceiveMessage", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    url = it.nowhere()
    refused(Queue(it, "", url).receive, "QueueDoesNotExist")


# DeleteMessage


@check("DeleteMessage", "the message is gone", "Deletes the specified message from the specified queue")
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    queue.delete(queue.one())
    expect(queue.depths(), [0, 0, 0])


@check(
    "DeleteMessage",
    "deleting it twice is no error",
    "ReceiptHandleIsInvalid is for a handle that is none; with a used one the request succeeds",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    message = queue.one()
    queue.delete(message)
    queue.delete(message)


@check(
    "DeleteMessage",
    "an earlier receive's handle is no error",
    "If you use an old ReceiptHandle, the request will succeed, but the message might not be deleted",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    stale = queue.one(VisibilityTimeout=0)
    queue.one()
    queue.delete(stale)


@check(
    "DeleteMessage",
    "the last handle deletes even when the message is visible again",
    "The handle of the most recent receive deletes the message",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    queue.delete(queue.one(VisibilityTimeout=0))
    expect(queue.depths(), [0, 0, 0])


@check(
    "DeleteMessage",
    "a handle that is none is refused",
    "ReceiptHandleIsInvalid: The specified receipt handle isn't valid",
)
def _(it: Target) -> None:
    queue = it.queue()
    words = 'The input receipt handle "x" is not a valid receipt handle.'
    refused(lambda: queue.delete({"ReceiptHandle": "x"}), "ReceiptHandleIsInvalid", words)


@check("DeleteMessage", "no handle is refused", "ReceiptHandle is required", "CommonErrors")
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: it.sqs.delete_message(QueueUrl=queue.url), "MissingParameter", "ReceiptHandle")


@check("DeleteMessage", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    url = it.nowhere()
    refused(lambda: it.sqs.delete_message(QueueUrl=url, ReceiptHandle="x"), "QueueDoesNotExist")


@check(
    "DeleteMessageBatch",
    "a false handle fails alone, the rest is deleted",
    "The result of the action on each message is reported individually in the response",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    entries = [
        {"Id": "good", "ReceiptHandle": queue.one()["ReceiptHandle"]},
        {"Id": "bad", "ReceiptHandle": "x"},
    ]
    answer = it.sqs.delete_message_batch(QueueUrl=queue.url, Entries=entries)
    failed = [(entry["Id"], entry["Code"], entry["SenderFault"]) for entry in answer.get("Failed", [])]
    expect([entry["Id"] for entry in answer["Successful"]], ["good"])
    expect(failed, [("bad", "ReceiptHandleIsInvalid", True)])
    expect(queue.depths(), [0, 0, 0])


# ChangeMessageVisibility


@check(
    "ChangeMessageVisibility",
    "0 shows the message at once",
    "Set to 0 to make the message immediately available for other consumers",
    "sqs-visibility-timeout",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    queue.hide(queue.one(), 0)
    expect(queue.depths(), [1, 0, 0])


@check(
    "ChangeMessageVisibility",
    "the new timeout counts from the call",
    "The new timeout period starts from the time you call the ChangeMessageVisibility action",
    "sqs-visibility-timeout",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    queue.hide(queue.one(VisibilityTimeout=600), 1)
    began = time.monotonic()
    queue.one()
    expect(time.monotonic() - began > 0.7, True)


@check(
    "ChangeMessageVisibility",
    "it is not kept for the next receive",
    "The next time the message is received, the visibility timeout reverts to the original value",
    "API_ChangeMessageVisibility",
)
def _(it: Target) -> None:
    queue = it.queue(VisibilityTimeout="600")
    queue.send()
    queue.hide(queue.one(), 0)
    queue.one()
    expect(queue.depths(), [0, 1, 0])


for _timeout in (-1, 43_201):

    @check(
        "ChangeMessageVisibility",
        f"a timeout of {_timeout} is refused",
        "VisibilityTimeout: values range: 0 to 43200. Maximum: 12 hours",
    )
    def _(it: Target, timeout: int = _timeout) -> None:
        queue = it.queue()
        queue.send()
        message = queue.one()
        words = f"Value {timeout} for parameter VisibilityTimeout is invalid."
        refused(lambda: queue.hide(message, timeout), "InvalidParameterValue", words)


@check(
    "ChangeMessageVisibility",
    "a message that is visible again is not in flight",
    "MessageNotInflight: The specified message isn't in flight",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    message = queue.one(VisibilityTimeout=0)
    refused(lambda: queue.hide(message, 10), "MessageNotInflight")


@check(
    "ChangeMessageVisibility",
    "a message that is deleted is refused",
    "InvalidParameterValue, as AWS answers it; the reference names no code for this",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    message = queue.one()
    queue.delete(message)
    words = "Message does not exist or is not available for visibility timeout change."
    refused(lambda: queue.hide(message, 10), "InvalidParameterValue", words)


@check(
    "ChangeMessageVisibility",
    "a handle that is none is refused",
    "ReceiptHandleIsInvalid: The specified receipt handle isn't valid",
)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.hide({"ReceiptHandle": "x"}, 10), "ReceiptHandleIsInvalid")


@check("ChangeMessageVisibility", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    url = it.nowhere()
    refused(lambda: Queue(it, "", url).hide({"ReceiptHandle": "x"}, 10), "QueueDoesNotExist")


@check(
    "ChangeMessageVisibilityBatch",
    "a false handle fails alone, the rest is changed",
    "The result of the action on each message is reported individually in the response",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    entries = [
        {"Id": "good", "ReceiptHandle": queue.one()["ReceiptHandle"], "VisibilityTimeout": 0},
        {"Id": "bad", "ReceiptHandle": "x", "VisibilityTimeout": 0},
    ]
    answer = it.sqs.change_message_visibility_batch(QueueUrl=queue.url, Entries=entries)
    failed = [(entry["Id"], entry["Code"]) for entry in answer.get("Failed", [])]
    expect([entry["Id"] for entry in answer["Successful"]], ["good"])
    expect((failed, queue.depths()), ([("bad", "ReceiptHandleIsInvalid")], [1, 0, 0]))
