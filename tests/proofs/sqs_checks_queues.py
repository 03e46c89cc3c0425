"""Checks of queues: created, found, changed, tagged, purged and deleted; and of the protocol itself.

Python 3.11 and boto3.
"""

from __future__ import annotations

import json
import time
from typing import Any

from sqs_checks import Queue, Target, check, expect, fresh_name, has, has_not, refused

NAME = "A queue name can have up to 80 characters: alphanumeric ones, hyphens and underscores"
GONE = "QueueDoesNotExist: Ensure that the QueueUrl is correct and that the queue has not been deleted"
ATTRIBUTES = "API_SetQueueAttributes"


# CreateQueue


@check("CreateQueue", "a name of 80 characters is taken", NAME)
def _(it: Target) -> None:
    name = fresh_name().ljust(80, "_")
    expect(it.queue_named(name).url.endswith(f"/{name}"), True)


for _what, _bad in (("of 81 characters", "x" * 81), ("with a dot", "a.b"), ("with a space", "a b")):

    @check("CreateQueue", f"a name {_what} is refused", NAME)
    def _(it: Target, bad: str = _bad) -> None:
        words = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
        refused(lambda: it.sqs.create_queue(QueueName=bad), "InvalidParameterValue", words)


@check("CreateQueue", "no name is refused", "QueueName is required", "CommonErrors")
def _(it: Target) -> None:
    refused(lambda: it.sqs.create_queue(), "MissingParameter", "QueueName")


@check(
    "CreateQueue",
    "creating it again tells the same URL",
    "If you provide the name of an existing queue along with the exact names and values of all its attributes, CreateQueue returns the queue URL for the existing queue",
)
def _(it: Target) -> None:
    queue = it.queue(VisibilityTimeout="7")
    expect(it.queue_named(queue.name, VisibilityTimeout="7").url, queue.url)


@check(
    "CreateQueue",
    "creating it again without attributes tells the same URL",
    "QueueNameExists is for a request that includes attributes whose values differ from those of the existing queue",
)
def _(it: Target) -> None:
    queue = it.queue(VisibilityTimeout="7")
    expect(it.queue_named(queue.name).url, queue.url)


@check(
    "CreateQueue",
    "with another value it is refused, and the attribute named",
    "QueueNameExists: the request includes attributes whose values differ from those of the existing queue",
)
def _(it: Target) -> None:
    queue = it.queue()
    words = "A queue already exists with the same name and a different value for attribute VisibilityTimeout"
    refused(lambda: it.queue_named(queue.name, VisibilityTimeout="7"), "QueueNameExists", words)


@check(
    "CreateQueue",
    "a name just deleted is refused for 60 seconds",
    "QueueDeletedRecently: You must wait 60 seconds after deleting a queue before you can create another queue with the same name",
)
def _(it: Target) -> None:
    queue = it.queue()
    it.sqs.delete_queue(QueueUrl=queue.url)
    refused(lambda: it.queue_named(queue.name), "QueueDeletedRecently", "You must wait 60 seconds")


@check(
    "CreateQueue",
    "an attribute that does not exist is refused",
    "InvalidAttributeName: The specified attribute doesn't exist",
)
def _(it: Target) -> None:
    refused(lambda: it.queue(Nothing="1"), "InvalidAttributeName", "Unknown Attribute Nothing.")


@check(
    "CreateQueue",
    "attributes and tags are taken with it",
    "Attributes: a map of attributes; tags: add cost allocation tags to the specified queue",
)
def _(it: Target) -> None:
    url = it.sqs.create_queue(QueueName=fresh_name(), Attributes={"DelaySeconds": "3"}, tags={"team": "a"})["QueueUrl"]
    expect(Queue(it, "", url).attribute("DelaySeconds"), "3")
    expect(it.sqs.list_queue_tags(QueueUrl=url)["Tags"], {"team": "a"})


DEFAULTS = {
    "DelaySeconds": "0",
    "MaximumMessageSize": "1048576",
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "VisibilityTimeout": "30",
    "SqsManagedSseEnabled": "true",
}
for _name, _value in DEFAULTS.items():

    @check("CreateQueue", f"{_name} is {_value} by default", f"{_name}: default {_value}")
    def _(it: Target, name: str = _name, value: str = _value) -> None:
        expect(it.queue().attribute(name), value)


RANGES = {
    "DelaySeconds": (0, 900),
    "MaximumMessageSize": (1024, 1_048_576),
    "MessageRetentionPeriod": (60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, 20),
    "VisibilityTimeout": (0, 43_200),
}
for _name, (_least, _most) in RANGES.items():
    _documented = f"{_name}: an integer from {_least} to {_most}"

    @check("SetQueueAttributes", f"{_name} may be {_least} and {_most}", _documented)
    def _(it: Target, name: str = _name, least: int = _least, most: int = _most) -> None:
        queue = it.queue(**{name: str(least)})
        expect(queue.attribute(name), str(least))
        queue.set(**{name: str(most)})
        expect(queue.attribute(name), str(most))

    @check("SetQueueAttributes", f"{_name} of {_least - 1} is refused", _documented)
    def _(it: Target, name: str = _name, value: int = _least - 1) -> None:
        queue = it.queue()
        words = f"Invalid value for the parameter {name}."
        refused(lambda: queue.set(**{name: str(value)}), "InvalidAttributeValue", words)

    @check("CreateQueue", f"{_name} of {_most + 1} is refused", _documented)
    def _(it: Target, name: str = _name, value: int = _most + 1) -> None:
        words = f"Invalid value for the parameter {name}."
        refused(lambda: it.queue(**{name: str(value)}), "InvalidAttributeValue", words)


# GetQueueUrl, ListQueues


@check("GetQueueUrl", "it finds a queue by its name", "Returns the URL of an existing queue")
def _(it: Target) -> None:
    queue = it.queue()
    expect(it.sqs.get_queue_url(QueueName=queue.name)["QueueUrl"], queue.url)


@check(
    "GetQueueUrl",
    "the owner's account may be named",
    "QueueOwnerAWSAccountId: the account ID of the account that created the queue",
)
def _(it: Target) -> None:
    queue = it.queue()
    account = queue.arn.split(":")[4]
    found = it.sqs.get_queue_url(QueueName=queue.name, QueueOwnerAWSAccountId=account)["QueueUrl"]
    expect(found, queue.url)


@check("GetQueueUrl", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    words = "The specified queue does not exist"
    refused(lambda: it.sqs.get_queue_url(QueueName=fresh_name()), "QueueDoesNotExist", words)


def _three(it: Target) -> tuple[str, list[str]]:
    prefix = fresh_name()
    return prefix, [it.queue_named(f"{prefix}-{number}").url for number in range(3)]


@check(
    "ListQueues",
    "by prefix",
    "QueueNamePrefix: only those queues whose name begins with the specified string are returned",
)
def _(it: Target) -> None:
    prefix, urls = _three(it)
    expect(sorted(it.sqs.list_queues(QueueNamePrefix=prefix)["QueueUrls"]), urls)


@check(
    "ListQueues",
    "without a match there is no list",
    "The response leaves QueueUrls out if there are none",
    "botocore and AWS CLI: `QueueUrls` is absent",
)
def _(it: Target) -> None:
    has_not(it.sqs.list_queues(QueueNamePrefix=fresh_name()), "QueueUrls")


@check(
    "ListQueues",
    "in pages of MaxResults",
    "NextToken: value to use for the next request if there are more results than MaxResults",
)
def _(it: Target) -> None:
    prefix, urls = _three(it)
    first = it.sqs.list_queues(QueueNamePrefix=prefix, MaxResults=2)
    expect(len(first["QueueUrls"]), 2)
    rest = it.sqs.list_queues(QueueNamePrefix=prefix, MaxResults=2, NextToken=first["NextToken"])
    expect(sorted(first["QueueUrls"] + rest["QueueUrls"]), urls)
    has_not(rest, "NextToken")


@check(
    "ListQueues",
    "without MaxResults there is no NextToken",
    "You must set MaxResults to receive a value for NextToken in the response",
)
def _(it: Target) -> None:
    prefix, _ = _three(it)
    has_not(it.sqs.list_queues(QueueNamePrefix=prefix), "NextToken")


# GetQueueAttributes, SetQueueAttributes


@check("GetQueueAttributes", "All tells every attribute", "All: returns all values")
def _(it: Target) -> None:
    counts = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    names = [*DEFAULTS, *counts, "QueueArn", "CreatedTimestamp", "LastModifiedTimestamp"]
    has(it.queue().attributes("All"), *names)


@check(
    "GetQueueAttributes",
    "policies that are not set are not in it",
    "RedrivePolicy, RedriveAllowPolicy and Policy return what was set",
)
def _(it: Target) -> None:
    queue = it.queue()
    has_not(queue.attributes("All"), "RedrivePolicy", "RedriveAllowPolicy", "Policy")
    expect(queue.attributes("RedrivePolicy"), {})


@check(
    "GetQueueAttributes",
    "only those asked for are told",
    "AttributeNames: a list of attributes for which to retrieve information",
)
def _(it: Target) -> None:
    expect(sorted(it.queue().attributes("DelaySeconds", "VisibilityTimeout")), ["DelaySeconds", "VisibilityTimeout"])


@check(
    "GetQueueAttributes",
    "none is told if none is asked for",
    "AttributeNames is not required; the response holds the respective attributes",
)
def _(it: Target) -> None:
    expect(it.sqs.get_queue_attributes(QueueUrl=it.queue().url).get("Attributes"), None)


@check(
    "GetQueueAttributes",
    "an attribute that does not exist",
    "InvalidAttributeName: The specified attribute doesn't exist",
)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.attributes("Nothing"), "InvalidAttributeName", "Unknown Attribute Nothing.")


@check(
    "GetQueueAttributes",
    "the ARN names service, region and queue",
    "QueueArn: arn:aws:sqs:region:account:name",
    "API_GetQueueAttributes",
)
def _(it: Target) -> None:
    queue = it.queue()
    parts = queue.arn.split(":")
    expect([*parts[:4], parts[5]], ["arn", "aws", "sqs", "us-east-1", queue.name])


@check(
    "GetQueueAttributes",
    "times are in seconds of now",
    "CreatedTimestamp, LastModifiedTimestamp: epoch time in seconds",
)
def _(it: Target) -> None:
    attributes = it.queue().attributes("CreatedTimestamp", "LastModifiedTimestamp")
    times = [int(value) for value in attributes.values()]
    expect([abs(value - time.time()) < 60 for value in times], [True, True])


@check(
    "GetQueueAttributes",
    "visible, in flight and delayed messages are counted",
    "ApproximateNumberOfMessages, …NotVisible, …Delayed",
)
def _(it: Target) -> None:
    queue = it.queue()
    for delay in (0, 0, 900):
        queue.send(DelaySeconds=delay)
    queue.one()
    expect(queue.depths(), [1, 1, 1])


@check("GetQueueAttributes", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    url = it.nowhere()
    refused(lambda: Queue(it, "", url).attributes("All"), "QueueDoesNotExist", "The specified queue does not exist")


@check("SetQueueAttributes", "others keep their values", "Sets the value of one or more queue attributes")
def _(it: Target) -> None:
    queue = it.queue(DelaySeconds="3")
    queue.set(VisibilityTimeout="7")
    expect(queue.attributes("DelaySeconds", "VisibilityTimeout"), {"DelaySeconds": "3", "VisibilityTimeout": "7"})


@check("SetQueueAttributes", "one bad value sets none", "InvalidAttributeValue: A queue attribute value is invalid")
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.set(DelaySeconds="3", VisibilityTimeout="43201"), "InvalidAttributeValue")
    expect(queue.attribute("DelaySeconds"), "0")


@check(
    "SetQueueAttributes", "text for a number is refused", "InvalidAttributeValue: A queue attribute value is invalid"
)
def _(it: Target) -> None:
    queue = it.queue()
    words = "Invalid value for the parameter VisibilityTimeout."
    refused(lambda: queue.set(VisibilityTimeout="soon"), "InvalidAttributeValue", words)


@check(
    "SetQueueAttributes",
    "an attribute that does not exist is refused",
    "InvalidAttributeName: The specified attribute doesn't exist",
)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.set(Nothing="1"), "InvalidAttributeName", "Unknown Attribute Nothing.")


@check(
    "SetQueueAttributes",
    "a computed attribute cannot be set",
    "QueueArn and the counts are attributes of GetQueueAttributes only",
)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.set(QueueArn="arn:aws:sqs:us-east-1:1:x"), "InvalidAttributeName")


@check("SetQueueAttributes", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    url = it.nowhere()
    refused(lambda: Queue(it, "", url).set(DelaySeconds="1"), "QueueDoesNotExist")


def policy_of(queue: Queue) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": queue.arn}
    return {"Version": "2012-10-17", "Statement": [statement]}


@check(
    "SetQueueAttributes",
    "a policy is kept, and removed by an empty text",
    "Policy: the queue's policy, a valid AWS policy",
    ATTRIBUTES,
)
def _(it: Target) -> None:
    queue = it.queue()
    policy = policy_of(queue)
    queue.set(Policy=json.dumps(policy))
    expect(json.loads(queue.attribute("Policy")), policy)
    queue.set(Policy="")
    expect(queue.attribute("Policy"), None)


@check(
    "SetQueueAttributes",
    "a policy that is no JSON is refused",
    "Policy: a valid AWS policy; InvalidAttributeValue",
    ATTRIBUTES,
)
def _(it: Target) -> None:
    queue = it.queue()
    refused(lambda: queue.set(Policy="{"), "InvalidAttributeValue")


@check(
    "SetQueueAttributes",
    "a KMS key ends the encryption by SQS's own",
    "Only one server-side encryption option is supported per queue (for example, SSE-KMS or SSE-SQS)",
    ATTRIBUTES,
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.set(KmsMasterKeyId="alias/aws/sqs")
    told = queue.attributes("KmsMasterKeyId", "SqsManagedSseEnabled")
    expect(told, {"KmsMasterKeyId": "alias/aws/sqs", "SqsManagedSseEnabled": "false"})


@check(
    "SetQueueAttributes",
    "encryption by SQS can be switched off",
    "SqsManagedSseEnabled: enables server-side queue encryption using SQS owned encryption keys",
    ATTRIBUTES,
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.set(SqsManagedSseEnabled="false")
    expect(queue.attribute("SqsManagedSseEnabled"), "false")


# Tags


@check(
    "TagQueue",
    "tags are added, overwritten and listed",
    "A new tag with a key identical to that of an existing tag overwrites the existing tag",
)
def _(it: Target) -> None:
    url = it.queue().url
    it.sqs.tag_queue(QueueUrl=url, Tags={"team": "a", "stage": "b"})
    it.sqs.tag_queue(QueueUrl=url, Tags={"stage": "c"})
    expect(it.sqs.list_queue_tags(QueueUrl=url)["Tags"], {"team": "a", "stage": "c"})


@check("UntagQueue", "tags are removed", "Remove cost allocation tags from the specified queue")
def _(it: Target) -> None:
    url = it.queue().url
    it.sqs.tag_queue(QueueUrl=url, Tags={"team": "a", "stage": "b"})
    it.sqs.untag_queue(QueueUrl=url, TagKeys=["stage", "none"])
    expect(it.sqs.list_queue_tags(QueueUrl=url)["Tags"], {"team": "a"})


# PurgeQueue, DeleteQueue


@check(
    "PurgeQueue",
    "visible, in flight and delayed messages are gone",
    "Deletes available messages in a queue, including in-flight messages",
)
def _(it: Target) -> None:
    queue = it.queue()
    for delay in (0, 0, 900):
        queue.send(DelaySeconds=delay)
    queue.one()
    it.sqs.purge_queue(QueueUrl=queue.url)
    it.until("an empty queue", lambda: queue.depths() == [0, 0, 0])


@check(
    "PurgeQueue",
    "a second one within 60 seconds is refused",
    "PurgeQueueInProgress: the specified queue previously received a PurgeQueue request within the last 60 seconds",
)
def _(it: Target) -> None:
    queue = it.queue()
    it.sqs.purge_queue(QueueUrl=queue.url)
    words = f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds."
    refused(lambda: it.sqs.purge_queue(QueueUrl=queue.url), "PurgeQueueInProgress", words)


@check("PurgeQueue", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    url = it.nowhere()
    refused(lambda: it.sqs.purge_queue(QueueUrl=url), "QueueDoesNotExist")


@check(
    "DeleteQueue",
    "the queue is gone",
    "Deletes the queue specified by the QueueUrl, regardless of the queue's contents",
)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    it.sqs.delete_queue(QueueUrl=queue.url)
    refused(lambda: it.sqs.get_queue_url(QueueName=queue.name), "QueueDoesNotExist")
    refused(queue.send, "QueueDoesNotExist")
    refused(queue.receive, "QueueDoesNotExist")


@check("DeleteQueue", "a queue that does not exist", GONE)
def _(it: Target) -> None:
    url = it.nowhere()
    refused(lambda: it.sqs.delete_queue(QueueUrl=url), "QueueDoesNotExist")


# The protocol

JSON_PROTOCOL = "sqs-making-api-requests-json"
SMITHY = "Smithy, AWS JSON 1.0 protocol"


@check(
    "Protocol",
    "answers are AWS JSON 1.0 with a request id",
    "Content-Type: application/x-amz-json-1.0; x-amzn-RequestId",
    JSON_PROTOCOL,
)
def _(it: Target) -> None:
    answer = it.post("ListQueues", b"{}")
    expect((answer.status, answer.headers["content-type"]), (200, "application/x-amz-json-1.0"))
    has(answer.headers, "x-amzn-requestid")


@check(
    "Protocol",
    "an error names its shape, and the older protocol's code in a header",
    "__type com.amazonaws.sqs#QueueDoesNotExist; x-amzn-query-error AWS.SimpleQueueService.NonExistentQueue;Sender",
    JSON_PROTOCOL,
)
def _(it: Target) -> None:
    answer = it.post("GetQueueUrl", json.dumps({"QueueName": fresh_name()}).encode())
    told = (answer.status, answer.json()["__type"], answer.headers.get("x-amzn-query-error"))
    code = "AWS.SimpleQueueService.NonExistentQueue;Sender"
    expect(told, (400, "com.amazonaws.sqs#QueueDoesNotExist", code))


@check(
    "Protocol",
    "a body that is no JSON is a SerializationException",
    "SerializationException, HTTP status code 400",
    SMITHY,
)
def _(it: Target) -> None:
    answer = it.post("ListQueues", b"{")
    expect((answer.status, answer.json()["__type"].rpartition("#")[2]), (400, "SerializationException"))


@check(
    "Protocol",
    "a text for a number is a SerializationException",
    "SerializationException, HTTP status code 400",
    SMITHY,
)
def _(it: Target) -> None:
    body = json.dumps({"QueueUrl": it.queue().url, "MaxNumberOfMessages": "many"}).encode()
    answer = it.post("ReceiveMessage", body)
    expect((answer.status, answer.json()["__type"].rpartition("#")[2]), (400, "SerializationException"))


# The AWS CLI


@check("AWS CLI", "create-queue, get-queue-url, list-queues", "aws sqs create-queue", "AWS CLI Command Reference, sqs")
def _(it: Target) -> None:
    name = fresh_name()
    url = it.cli_json("create-queue", "--queue-name", name, "--attributes", "VisibilityTimeout=60")["QueueUrl"]
    expect(it.cli_json("get-queue-url", "--queue-name", name)["QueueUrl"], url)
    expect(it.cli_json("list-queues", "--queue-name-prefix", name)["QueueUrls"], [url])


@check(
    "AWS CLI", "send-message, receive-message, delete-message", "aws sqs send-message", "AWS CLI Command Reference, sqs"
)
def _(it: Target) -> None:
    queue = it.queue()
    colour = json.dumps({"colour": {"DataType": "String", "StringValue": "grün"}})
    at = ("--queue-url", queue.url)
    sent = it.cli_json("send-message", *at, "--message-body", "Grüße", "--message-attributes", colour)
    [message] = it.cli_json("receive-message", *at, "--message-attribute-names", "All")["Messages"]
    told = (message["MessageId"], message["Body"], message["MessageAttributes"]["colour"]["StringValue"])
    expect(told, (sent["MessageId"], "Grüße", "grün"))
    it.cli_json("delete-message", *at, "--receipt-handle", message["ReceiptHandle"])
    expect(queue.depths(), [0, 0, 0])


@check(
    "AWS CLI",
    "receive-message from an empty queue prints nothing",
    "aws sqs receive-message",
    "AWS CLI Command Reference, sqs",
)
def _(it: Target) -> None:
    expect(it.cli_json("receive-message", "--queue-url", it.queue().url), None)


@check(
    "AWS CLI",
    "a queue that does not exist ends with the older protocol's code",
    "AWS.SimpleQueueService.NonExistentQueue",
    "AWS CLI Command Reference, sqs",
)
def _(it: Target) -> None:
    done = it.cli("receive-message", "--queue-url", it.nowhere())
    expect((done.returncode != 0, "(AWS.SimpleQueueService.NonExistentQueue)" in done.stderr), (True, True))
