"""What SQS promises, asked of the local endpoint through boto3, which checks AWS's model of each answer.

Python 3.11 and boto3.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

from harness import Proof, until

ALL = {"MessageAttributeNames": ["All"], "MessageSystemAttributeNames": ["All"]}
MEBIBYTE = 1 << 20
LONG = "AWS.SimpleQueueService."


def prove(proof: Proof, sqs: Any) -> None:
    queues(proof, sqs)
    url = sqs.create_queue(QueueName="probe", Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
    one_message(proof, sqs, url)
    batches(proof, sqs, url)
    waiting(proof, sqs, url)
    limits(proof, sqs, url)
    errors(proof, sqs, url)
    receives_end_in_a_dead_letter_queue(proof, sqs)
    resource(proof)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def md5_of_attributes(attributes: dict[str, dict[str, Any]]) -> str:
    """The sum of message attributes, as the SQS developer guide defines it."""

    def sized(content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + content

    encoded = b""
    for name, value in sorted(attributes.items()):
        encoded += sized(name.encode()) + sized(value["DataType"].encode())
        is_binary = "BinaryValue" in value
        content = value["BinaryValue"] if is_binary else value["StringValue"].encode()
        encoded += (b"\x02" if is_binary else b"\x01") + sized(content)
    return md5(encoded)


def depths(sqs: Any, url: str) -> list[int]:
    """Visible, in flight, delayed."""
    names = [f"ApproximateNumberOfMessages{it}" for it in ("", "NotVisible", "Delayed")]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return [int(attributes[it]) for it in names]


def receive(sqs: Any, url: str, **parameters: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = sqs.receive_message(QueueUrl=url, **ALL, **parameters).get("Messages", [])
    return messages


def refusal(act: Callable[[], Any]) -> tuple[str, str]:
    """The class and the code of the error that a call ends in."""
    try:
        act()
    except ClientError as err:
        return type(err).__name__, err.response["Error"]["Code"]
    return "no error", ""


def queues(proof: Proof, sqs: Any) -> None:
    proof.part("boto3: queues")
    created = [sqs.create_queue(QueueName=f"page-{it}")["QueueUrl"] for it in "abc"]
    pages = sqs.get_paginator("list_queues").paginate(QueueNamePrefix="page-", PaginationConfig={"PageSize": 2})
    listed = [it["QueueUrls"] for it in pages]
    proof.equal("created queues are listed, page by page", listed, [created[:2], created[2:]])
    again = sqs.create_queue(QueueName="page-a")["QueueUrl"]
    proof.equal("creating one again tells the same", again, created[0])
    other = {"VisibilityTimeout": "7"}
    refused = refusal(lambda: sqs.create_queue(QueueName="page-a", Attributes=other))
    proof.equal("with another attribute it is refused", refused[0], "QueueNameExists")
    sqs.set_queue_attributes(QueueUrl=again, Attributes={"MessageRetentionPeriod": "3600"})
    names = ["MessageRetentionPeriod", "QueueArn"]
    attributes = sqs.get_queue_attributes(QueueUrl=again, AttributeNames=names)["Attributes"]
    expected = {"MessageRetentionPeriod": "3600", "QueueArn": "arn:aws:sqs:us-east-1:000000000000:page-a"}
    proof.equal("attributes are set, and those read that are asked for", attributes, expected)
    sqs.tag_queue(QueueUrl=again, Tags={"team": "a", "stage": "b"})
    sqs.untag_queue(QueueUrl=again, TagKeys=["stage"])
    proof.equal("a queue has tags", sqs.list_queue_tags(QueueUrl=again)["Tags"], {"team": "a"})
    letters = sqs.get_queue_url(QueueName="scanhook-dlq")["QueueUrl"]
    [source] = sqs.list_dead_letter_source_queues(QueueUrl=letters)["queueUrls"]
    proof.equal("the dead-letter queue knows its source", source, sqs.get_queue_url(QueueName="scanhook")["QueueUrl"])
    for url in created:
        sqs.delete_queue(QueueUrl=url)
    proof.true("deleted queues are gone", "QueueUrls" not in sqs.list_queues(QueueNamePrefix="page-"))


def one_message(proof: Proof, sqs: Any, url: str) -> None:
    proof.part("boto3: one message")
    body = 'Grüße, "Welt" \U0001f40b\n\t\x7f'
    attributes: dict[str, dict[str, Any]] = {
        "text": {"DataType": "String", "StringValue": "äöü"},
        "number": {"DataType": "Number.float", "StringValue": "1.50"},
        "bytes": {"DataType": "Binary", "BinaryValue": bytes(range(256))},
    }
    sent = sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes, MessageGroupId="a-source")
    proof.equal("the sum of its body is told", sent["MD5OfMessageBody"], md5(body.encode()))
    proof.equal("so is that of its attributes", sent["MD5OfMessageAttributes"], md5_of_attributes(attributes))
    [message] = receive(sqs, url)
    proof.equal("it comes as it was sent", (message["MessageId"], message["Body"]), (sent["MessageId"], body))
    proof.equal("with its attributes, of each type", message["MessageAttributes"], attributes)
    system = message["Attributes"]
    told = (system["ApproximateReceiveCount"], system["MessageGroupId"])
    proof.equal("received once, in its group", told, ("1", "a-source"))
    times = [int(system[it]) / 1000 for it in ("SentTimestamp", "ApproximateFirstReceiveTimestamp")]
    proof.true("its times are milliseconds of now", all(abs(it - time.time()) < 60 for it in times), system)
    proof.equal("it is hidden while in flight", (receive(sqs, url), depths(sqs, url)), ([], [0, 1, 0]))
    stale = message["ReceiptHandle"]
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=stale, VisibilityTimeout=0)
    proof.equal("with visibility 0 it is back", depths(sqs, url), [1, 0, 0])
    [message] = receive(sqs, url)
    first = message["Attributes"]["ApproximateFirstReceiveTimestamp"]
    told = (message["Attributes"]["ApproximateReceiveCount"], first)
    proof.equal("received twice, first when it was", told, ("2", system["ApproximateFirstReceiveTimestamp"]))
    sqs.delete_message(QueueUrl=url, ReceiptHandle=stale)
    proof.equal("the first receive's handle deletes nothing", depths(sqs, url), [0, 1, 0])
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    proof.equal("the last one's does", depths(sqs, url), [0, 0, 0])
    again = refusal(lambda: sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"]))
    proof.equal("deleting it twice is no error", again, ("no error", ""))


def batches(proof: Proof, sqs: Any, url: str) -> None:
    proof.part("boto3: batches")
    entries = [{"Id": f"e{it}", "MessageBody": "\x00" if it == 4 else f"message {it}"} for it in range(10)]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    proof.equal("nine of ten are sent", len(answer["Successful"]), 9)
    failed = [(it["Id"], it["Code"], it["SenderFault"]) for it in answer["Failed"]]
    proof.equal("the one that XML could not hold fails alone", failed, [("e4", "InvalidMessageContents", True)])
    received: dict[str, str] = {}

    def nine() -> bool:
        received.update({it["MessageId"]: it["ReceiptHandle"] for it in receive(sqs, url, MaxNumberOfMessages=10)})
        return len(received) == 9

    until("nine different messages", nine)
    handles = [{"Id": str(it), "ReceiptHandle": handle} for it, handle in enumerate(received.values())]
    changes = [{**it, "VisibilityTimeout": 0} for it in handles[:4]]
    changes.append({"Id": "bad", "ReceiptHandle": "x", "VisibilityTimeout": 0})
    changed = sqs.change_message_visibility_batch(QueueUrl=url, Entries=changes)
    invalid = [(it["Id"], it["Code"]) for it in changed["Failed"]]
    proof.equal("a false handle fails alone", invalid, [("bad", "ReceiptHandleIsInvalid")])
    proof.equal("four are made visible, five stay in flight", depths(sqs, url), [4, 5, 0])
    deleted = sqs.delete_message_batch(QueueUrl=url, Entries=handles[4:])
    proof.equal("five are deleted", (len(deleted["Successful"]), depths(sqs, url)), (5, [4, 0, 0]))
    sqs.purge_queue(QueueUrl=url)
    proof.equal("the others purged", depths(sqs, url), [0, 0, 0])
    refused = refusal(lambda: sqs.purge_queue(QueueUrl=url))
    proof.equal("a second purge within a minute is refused", refused[0], "PurgeQueueInProgress")


def waiting(proof: Proof, sqs: Any, url: str) -> None:
    proof.part("boto3: delay and long poll")
    began = time.monotonic()
    sqs.send_message(QueueUrl=url, MessageBody="later", DelaySeconds=1)
    proof.equal("a delayed message is not visible yet", (receive(sqs, url), depths(sqs, url)), ([], [0, 0, 1]))
    [message] = receive(sqs, url, WaitTimeSeconds=20)
    took = time.monotonic() - began
    proof.true("a long poll gets it when its delay ends", 0.9 < took < 5, took)
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    poll = threading.Thread(target=lambda: arrived.extend(receive(sqs, url, WaitTimeSeconds=20)))
    arrived: list[dict[str, Any]] = []
    began = time.monotonic()
    poll.start()
    sqs.send_message(QueueUrl=url, MessageBody="now")
    poll.join(timeout=10)
    took = time.monotonic() - began
    proof.true("one that is sent meanwhile wakes it", len(arrived) == 1 and took < 5, took)
    sqs.delete_message(QueueUrl=url, ReceiptHandle=arrived[0]["ReceiptHandle"])
    began = time.monotonic()
    empty = receive(sqs, url, WaitTimeSeconds=1)
    took = time.monotonic() - began
    proof.true("without one it ends empty when its time is up", empty == [] and 0.9 < took < 5, took)


def limits(proof: Proof, sqs: Any, url: str) -> None:
    proof.part("boto3: limits")

    def size(length: int, **parameters: Any) -> str:
        return refusal(lambda: sqs.send_message(QueueUrl=url, MessageBody="x" * length, **parameters))[0]

    proof.equal("256 KiB and a byte are taken", size((256 << 10) + 1), "no error")
    proof.equal("1 MiB is taken", size(MEBIBYTE), "no error")
    proof.equal("a byte more is refused", size(MEBIBYTE + 1), "ClientError")
    attribute = {"a": {"DataType": "String", "StringValue": "b"}}
    proof.equal("attributes count", size(MEBIBYTE, MessageAttributes=attribute), "ClientError")
    proof.equal("an empty body is refused", size(0), "ClientError")
    halves = [{"Id": it, "MessageBody": it * (MEBIBYTE // 2 + 1)} for it in "ab"]
    refused = refusal(lambda: sqs.send_message_batch(QueueUrl=url, Entries=halves))
    proof.equal("a batch of more than 1 MiB is refused", refused[0], "BatchRequestTooLong")
    for message in receive(sqs, url, MaxNumberOfMessages=10):
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def errors(proof: Proof, sqs: Any, url: str) -> None:
    proof.part("boto3: errors, by the classes that programs catch")
    nobody = f"{url}-of-nobody"
    entry = {"Id": "a", "MessageBody": "x"}
    twice, eleven, misnamed = [entry, entry], [{**entry, "Id": str(it)} for it in range(11)], [{**entry, "Id": "a b"}]

    def batch(entries: list[dict[str, str]]) -> Any:
        return sqs.send_message_batch(QueueUrl=url, Entries=entries)

    # By the class that boto3 raises; the code is the older protocol's, with or without its prefix.
    cases: list[tuple[str, str, Callable[[], Any]]] = [
        ("QueueDoesNotExist", LONG + "NonExistentQueue", lambda: sqs.send_message(QueueUrl=nobody, MessageBody="x")),
        ("QueueDoesNotExist", LONG + "NonExistentQueue", lambda: sqs.get_queue_url(QueueName="nobody")),
        ("EmptyBatchRequest", LONG + "EmptyBatchRequest", lambda: batch([])),
        ("BatchEntryIdsNotDistinct", LONG + "BatchEntryIdsNotDistinct", lambda: batch(twice)),
        ("TooManyEntriesInBatchRequest", LONG + "TooManyEntriesInBatchRequest", lambda: batch(eleven)),
        ("InvalidBatchEntryId", LONG + "InvalidBatchEntryId", lambda: batch(misnamed)),
        ("ReceiptHandleIsInvalid", "", lambda: sqs.delete_message(QueueUrl=url, ReceiptHandle="x")),
        ("InvalidAttributeName", "", lambda: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Nothing"])),
        ("InvalidMessageContents", "", lambda: sqs.send_message(QueueUrl=url, MessageBody="\x01")),
        ("ClientError", "InvalidParameterValue", lambda: sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=11)),
        ("ClientError", "InvalidParameterValue", lambda: sqs.create_queue(QueueName="a.b")),
    ]
    for name, code, act in cases:
        expected = (name, code or name)
        proof.equal(", ".join(expected), refusal(act), expected)


def receives_end_in_a_dead_letter_queue(proof: Proof, sqs: Any) -> None:
    proof.part("boto3: a redrive policy")
    letters = sqs.create_queue(QueueName="probe-dlq")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"})
    url = sqs.create_queue(QueueName="probe-source", Attributes={"RedrivePolicy": policy})["QueueUrl"]
    sent = sqs.send_message(QueueUrl=url, MessageBody="x")
    counts = [receive(sqs, url, VisibilityTimeout=0)[0]["Attributes"]["ApproximateReceiveCount"] for _ in range(2)]
    proof.equal("a message is received as often as the policy says", counts, ["1", "2"])
    proof.equal("and not again", receive(sqs, url), [])
    [letter] = receive(sqs, letters)
    proof.equal("it lies in the dead-letter queue, with its id", letter["MessageId"], sent["MessageId"])
    source = letter["Attributes"]["DeadLetterQueueSourceArn"].rsplit(":", 1)[1]
    proof.equal("and knows where it came from", source, "probe-source")


def resource(proof: Proof) -> None:
    proof.part("boto3: its resource interface")
    queue = boto3.resource("sqs").create_queue(QueueName="resource")
    queue.send_message(MessageBody="x", MessageAttributes={"a": {"DataType": "String", "StringValue": "b"}})
    [message] = queue.receive_messages(MessageAttributeNames=["a"])
    proof.equal("it sends and receives", (message.body, message.message_attributes["a"]["StringValue"]), ("x", "b"))
    message.change_visibility(VisibilityTimeout=5)
    message.delete()
    queue.reload()
    proof.equal("it deletes", queue.attributes["ApproximateNumberOfMessagesNotVisible"], "0")
    queue.delete()
