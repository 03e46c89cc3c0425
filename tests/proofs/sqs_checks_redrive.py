"""Checks of dead letters: the two policies, where messages go, and how they come back.

Python 3.11 and boto3.
"""

from __future__ import annotations

import json
from typing import Any

from sqs_checks import Queue, Target, check, expect, fresh_name, has, has_not, refused

POLICY = "RedrivePolicy: deadLetterTargetArn and maxReceiveCount"
LETTERS = "sqs-dead-letter-queues"
ALLOW = "RedriveAllowPolicy: redrivePermission allowAll, denyAll or byQueue with up to 10 sourceQueueArns"
ATTRIBUTES = "API_SetQueueAttributes"

INVALID, ALSO = "InvalidParameterValue", "InvalidAttributeValue"
"""What AWS answers to a bad policy, and what its reference names."""


def redrive(letters: Queue, receives: int | str = 1) -> str:
    return json.dumps({"deadLetterTargetArn": letters.arn, "maxReceiveCount": receives})


def pair(it: Target, receives: int = 1, **attributes: str) -> tuple[Queue, Queue]:
    """A queue and its dead-letter queue."""
    letters = it.queue(**attributes)
    return it.queue(RedrivePolicy=redrive(letters, receives)), letters


def exhaust(queue: Queue, receives: int = 1) -> list[dict[str, Any]]:
    """Receives a message until it is moved."""
    received = [queue.one(VisibilityTimeout=0) for _ in range(receives)]
    expect(queue.receive(), [])
    return received


# RedrivePolicy


@check("RedrivePolicy", "it is read as it was set", POLICY, ATTRIBUTES)
def _(it: Target) -> None:
    queue, letters = pair(it, 2)
    policy = json.loads(queue.attribute("RedrivePolicy"))
    told = (policy["deadLetterTargetArn"], int(policy["maxReceiveCount"]))
    expect(told, (letters.arn, 2))


@check("RedrivePolicy", "an empty text removes it", POLICY, ATTRIBUTES)
def _(it: Target) -> None:
    queue, letters = pair(it)
    queue.set(RedrivePolicy="")
    expect(queue.attribute("RedrivePolicy"), None)
    expect(it.sqs.list_dead_letter_source_queues(QueueUrl=letters.url)["queueUrls"], [])


@check("RedrivePolicy", "maxReceiveCount may be a text, 1 and 1000", "maxReceiveCount: 1 to 1,000", LETTERS)
def _(it: Target) -> None:
    letters = it.queue()
    for receives in ("1", "1000"):
        it.queue(RedrivePolicy=redrive(letters, receives))


for _receives in (0, 1001):

    @check("RedrivePolicy", f"a maxReceiveCount of {_receives} is refused", "maxReceiveCount: 1 to 1,000", LETTERS)
    def _(it: Target, receives: int = _receives) -> None:
        queue, letters = it.queue(), it.queue()
        refused(lambda: queue.set(RedrivePolicy=redrive(letters, receives)), INVALID, also=ALSO)


@check(
    "RedrivePolicy",
    "a dead-letter queue that does not exist is refused",
    "deadLetterTargetArn: the ARN of the dead-letter queue",
    ATTRIBUTES,
)
def _(it: Target) -> None:
    queue = it.queue()
    arn = queue.arn.replace(queue.name, fresh_name())
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    refused(lambda: queue.set(RedrivePolicy=policy), INVALID, also=ALSO)


for _what, _policy in (
    ("without maxReceiveCount", '{"deadLetterTargetArn": "%s"}'),
    ("without deadLetterTargetArn", '{"maxReceiveCount": 1}'),
    ("that is no JSON", "{"),
):

    @check("RedrivePolicy", f"one {_what} is refused", POLICY, ATTRIBUTES)
    def _(it: Target, policy: str = _policy) -> None:
        queue, letters = it.queue(), it.queue()
        text = policy.replace("%s", letters.arn)
        refused(lambda: queue.set(RedrivePolicy=text), INVALID, also=ALSO)


@check(
    "RedrivePolicy",
    "a message is moved when it would be received once more",
    "When the ReceiveCount for a message exceeds the maxReceiveCount for a queue, Amazon SQS moves the message to the dead-letter-queue",
    LETTERS,
)
def _(it: Target) -> None:
    queue, letters = pair(it, 2)
    queue.send()
    counts = [message["Attributes"]["ApproximateReceiveCount"] for message in exhaust(queue, 2)]
    expect((counts, queue.depths(), letters.depths()), (["1", "2"], [0, 0, 0], [1, 0, 0]))


@check("RedrivePolicy", "it keeps id, body, attributes and group", "The message is moved, not sent anew", LETTERS)
def _(it: Target) -> None:
    queue, letters = pair(it)
    attributes = {"a": {"DataType": "String", "StringValue": "b"}}
    sent = queue.send("body", MessageAttributes=attributes, MessageGroupId="group")
    exhaust(queue)
    letter = letters.one()
    told = (letter["MessageId"], letter["Body"], letter["MessageAttributes"], letter["Attributes"]["MessageGroupId"])
    expect(told, (sent["MessageId"], "body", attributes, "group"))


@check(
    "RedrivePolicy",
    "it keeps the time at which it was sent",
    "For standard queues, the expiration of a message is always based on its original enqueue timestamp",
    LETTERS,
)
def _(it: Target) -> None:
    queue, letters = pair(it)
    queue.send()
    [received] = exhaust(queue)
    expect(letters.one()["Attributes"]["SentTimestamp"], received["Attributes"]["SentTimestamp"])


@check(
    "RedrivePolicy",
    "its receives go on being counted",
    "ApproximateReceiveCount: the number of times a message has been received across all queues but not deleted",
    "API_ReceiveMessage",
)
def _(it: Target) -> None:
    queue, letters = pair(it, 2)
    queue.send()
    exhaust(queue, 2)
    expect(letters.one()["Attributes"]["ApproximateReceiveCount"], "3")


@check(
    "RedrivePolicy",
    "DeadLetterQueueSourceArn tells where it came from",
    "DeadLetterQueueSourceArn: a system attribute of messages that were moved",
    "API_ReceiveMessage",
)
def _(it: Target) -> None:
    queue, letters = pair(it)
    queue.send()
    exhaust(queue)
    expect(letters.one()["Attributes"].get("DeadLetterQueueSourceArn"), queue.arn)


@check(
    "RedrivePolicy",
    "a message sent to the dead-letter queue has no such attribute",
    "DeadLetterQueueSourceArn: a system attribute of messages that were moved",
    "API_ReceiveMessage",
)
def _(it: Target) -> None:
    _, letters = pair(it)
    letters.send()
    has_not(letters.one()["Attributes"], "DeadLetterQueueSourceArn")


@check("RedrivePolicy", "without one a message is received on and on", POLICY, LETTERS)
def _(it: Target) -> None:
    queue = it.queue()
    queue.send()
    counts = [queue.one(VisibilityTimeout=0)["Attributes"]["ApproximateReceiveCount"] for _ in range(4)]
    expect(counts, ["1", "2", "3", "4"])


# RedriveAllowPolicy


def allow(permission: str, *arns: str) -> str:
    policy: dict[str, Any] = {"redrivePermission": permission}
    return json.dumps({**policy, "sourceQueueArns": arns} if arns else policy)


@check("RedriveAllowPolicy", "it is read as it was set", ALLOW, ATTRIBUTES)
def _(it: Target) -> None:
    queue, letters = it.queue(), it.queue()
    policy = allow("byQueue", queue.arn)
    letters.set(RedriveAllowPolicy=policy)
    expect(json.loads(letters.attribute("RedriveAllowPolicy")), json.loads(policy))


@check(
    "RedriveAllowPolicy",
    "denyAll keeps every queue off",
    "denyAll: no source queues can specify this queue as the dead-letter queue",
    ATTRIBUTES,
)
def _(it: Target) -> None:
    queue, letters = it.queue(), it.queue(RedriveAllowPolicy=allow("denyAll"))
    refused(lambda: queue.set(RedrivePolicy=redrive(letters)), INVALID, also=ALSO)


@check(
    "RedriveAllowPolicy",
    "allowAll lets every queue",
    "allowAll: any source queues in this account in the same Region can specify this queue",
    ATTRIBUTES,
)
def _(it: Target) -> None:
    queue, letters = it.queue(), it.queue(RedriveAllowPolicy=allow("allowAll"))
    queue.set(RedrivePolicy=redrive(letters))


@check(
    "RedriveAllowPolicy",
    "byQueue lets those it names",
    "byQueue: only queues specified by the sourceQueueArns parameter can specify this queue",
    ATTRIBUTES,
)
def _(it: Target) -> None:
    queue, other = it.queue(), it.queue()
    letters = it.queue(RedriveAllowPolicy=allow("byQueue", queue.arn))
    queue.set(RedrivePolicy=redrive(letters))
    refused(lambda: other.set(RedrivePolicy=redrive(letters)), INVALID, also=ALSO)


for _what, _permission, _count, _documented in (
    ("with an unknown permission", "some", 0, ALLOW),
    ("by queue without queues", "byQueue", 0, "sourceQueueArns is required if redrivePermission is byQueue"),
    ("with eleven queues", "byQueue", 11, "You can specify up to 10 source queue ARNs"),
    (
        "of all with queues",
        "allowAll",
        1,
        "You can specify sourceQueueArns only when redrivePermission is set to byQueue",
    ),
):

    @check("RedriveAllowPolicy", f"one {_what} is refused", _documented, ATTRIBUTES)
    def _(it: Target, permission: str = _permission, count: int = _count) -> None:
        queue = it.queue()
        arns = [f"{queue.arn}-{number}" for number in range(count)]
        refused(lambda: queue.set(RedriveAllowPolicy=allow(permission, *arns)), INVALID, also=ALSO)


# ListDeadLetterSourceQueues


@check(
    "ListDeadLetterSourceQueues",
    "the sources of a dead-letter queue, in pages",
    "Returns a list of your queues that have the RedrivePolicy queue attribute configured with a dead-letter queue",
)
def _(it: Target) -> None:
    first, letters = pair(it)
    second = it.queue(RedrivePolicy=redrive(letters))
    ask = it.sqs.list_dead_letter_source_queues
    expect(sorted(ask(QueueUrl=letters.url)["queueUrls"]), sorted([first.url, second.url]))
    page = ask(QueueUrl=letters.url, MaxResults=1)
    rest = ask(QueueUrl=letters.url, MaxResults=1, NextToken=page["NextToken"])
    expect(sorted(page["queueUrls"] + rest["queueUrls"]), sorted([first.url, second.url]))


@check("ListDeadLetterSourceQueues", "an empty list for a queue that is none", "queueUrls is in every response")
def _(it: Target) -> None:
    expect(it.sqs.list_dead_letter_source_queues(QueueUrl=it.queue().url)["queueUrls"], [])


@check("ListDeadLetterSourceQueues", "a queue that does not exist", "QueueDoesNotExist")
def _(it: Target) -> None:
    url = it.nowhere()
    refused(lambda: it.sqs.list_dead_letter_source_queues(QueueUrl=url), "QueueDoesNotExist")


# Message move tasks


def start(letters: Queue, **parameters: Any) -> str:
    return letters.sqs.start_message_move_task(SourceArn=letters.arn, **parameters)["TaskHandle"]


def tasks(letters: Queue, **parameters: Any) -> list[dict[str, Any]]:
    return letters.sqs.list_message_move_tasks(SourceArn=letters.arn, **parameters).get("Results", [])


def ended(letters: Queue) -> dict[str, Any]:
    """The last task of a queue, once it has ended."""

    def look() -> Any:
        found = tasks(letters)
        return found[0] if found and found[0]["Status"] not in ("RUNNING", "CANCELLING") else None

    return letters.target.until("the task's end", look)


def dead(it: Target, count: int = 1) -> tuple[Queue, Queue]:
    """A queue whose messages lie in its dead-letter queue."""
    queue, letters = pair(it)
    for number in range(count):
        queue.send(f"message {number}")
    it.until("moved messages", lambda: queue.receive(VisibilityTimeout=0) == [] and letters.depths()[0] == count)
    return queue, letters


@check(
    "StartMessageMoveTask",
    "dead letters go back where they came from",
    "If DestinationArn is left blank, the messages are redriven back to their respective original source queues",
)
def _(it: Target) -> None:
    queue, letters = dead(it, 3)
    start(letters)
    expect(ended(letters)["Status"], "COMPLETED")
    expect((queue.depths(), letters.depths()), ([3, 0, 0], [0, 0, 0]))


@check(
    "StartMessageMoveTask",
    "or to the queue that is named",
    "DestinationArn: the ARN of the queue that receives the moved messages",
)
def _(it: Target) -> None:
    queue, letters = dead(it)
    other = it.queue()
    start(letters, DestinationArn=other.arn)
    expect(ended(letters)["Status"], "COMPLETED")
    expect((queue.depths(), other.depths()), ([0, 0, 0], [1, 0, 0]))


@check(
    "StartMessageMoveTask",
    "a moved message is a new one: id, and receives from 1",
    "Redriven messages are considered new messages with a new messageID and enqueueTime",
    "sqs-configure-dead-letter-queue-redrive",
)
def _(it: Target) -> None:
    queue, letters = dead(it)
    letter = letters.one(VisibilityTimeout=0)
    start(letters)
    ended(letters)
    message = queue.one()
    told = (message["MessageId"] == letter["MessageId"], message["Attributes"]["ApproximateReceiveCount"])
    expect((told, message["Body"]), ((False, "1"), letter["Body"]))
    has_not(message["Attributes"], "DeadLetterQueueSourceArn")


@check(
    "StartMessageMoveTask",
    "a message sent to the queue directly can't go back",
    "FailureReason CouldNotDetermineMessageSource",
    "API_ListMessageMoveTasksResultEntry",
)
def _(it: Target) -> None:
    _, letters = pair(it)
    letters.send()
    start(letters)
    task = ended(letters)
    told = (task["Status"], task.get("FailureReason"), letters.depths()[0])
    expect(told, ("FAILED", "CouldNotDetermineMessageSource", 1))


@check(
    "StartMessageMoveTask",
    "a queue that is no dead-letter queue is refused",
    "SourceArn: only ARNs of dead-letter queues (DLQs) whose sources are other Amazon SQS queues are accepted",
)
def _(it: Target) -> None:
    queue = it.queue()
    words = "Source queue must be configured as a Dead Letter Queue."
    refused(lambda: start(queue), "InvalidParameterValue", words)


@check(
    "StartMessageMoveTask",
    "a source that does not exist",
    "ResourceNotFoundException: One or more specified resources don't exist",
)
def _(it: Target) -> None:
    arn = it.queue().arn.replace("probe-", "none-")
    refused(lambda: it.sqs.start_message_move_task(SourceArn=arn), "ResourceNotFoundException")


@check(
    "StartMessageMoveTask",
    "a destination that does not exist",
    "ResourceNotFoundException: One or more specified resources don't exist",
)
def _(it: Target) -> None:
    _, letters = pair(it)
    arn = letters.arn.replace("probe-", "none-")
    refused(lambda: start(letters, DestinationArn=arn), "ResourceNotFoundException")


for _rate in (0, 501):

    @check(
        "StartMessageMoveTask",
        f"a rate of {_rate} is refused",
        "MaxNumberOfMessagesPerSecond: the maximum value is 500",
    )
    def _(it: Target, rate: int = _rate) -> None:
        _, letters = pair(it)
        refused(lambda: start(letters, MaxNumberOfMessagesPerSecond=rate), "InvalidParameterValue")


@check(
    "StartMessageMoveTask",
    "a second one at a time is refused",
    "Only one active message movement task is supported per queue at any given time",
)
def _(it: Target) -> None:
    _, letters = dead(it, 5)
    start(letters, MaxNumberOfMessagesPerSecond=1)
    words = "There is already a task running. Only one active task is allowed for a source queue arn at a given time."
    refused(lambda: start(letters), "InvalidParameterValue", words)


@check(
    "StartMessageMoveTask",
    "a rate is kept",
    "MaxNumberOfMessagesPerSecond: the number of messages to be moved per second",
)
def _(it: Target) -> None:
    queue, letters = dead(it, 5)
    start(letters, MaxNumberOfMessagesPerSecond=1)
    it.until("a moved message", lambda: queue.depths()[0])
    expect((tasks(letters)[0]["Status"], letters.depths()[0] > 0), ("RUNNING", True))


@check(
    "ListMessageMoveTasks",
    "what a running task tells",
    "TaskHandle, Status, SourceArn, DestinationArn, MaxNumberOfMessagesPerSecond, ApproximateNumberOfMessagesMoved, …ToMove, StartedTimestamp",
    "API_ListMessageMoveTasksResultEntry",
)
def _(it: Target) -> None:
    queue, letters = dead(it, 5)
    handle = start(letters, MaxNumberOfMessagesPerSecond=1, DestinationArn=queue.arn)
    [task] = tasks(letters)
    has(task, "ApproximateNumberOfMessagesMoved", "StartedTimestamp")
    names = (
        "TaskHandle",
        "Status",
        "SourceArn",
        "DestinationArn",
        "MaxNumberOfMessagesPerSecond",
        "ApproximateNumberOfMessagesToMove",
    )
    expect([task.get(name) for name in names], [handle, "RUNNING", letters.arn, queue.arn, 1, 5])


@check(
    "ListMessageMoveTasks",
    "a task that has ended has no handle",
    "TaskHandle: this field is only populated if the status of the message movement task is RUNNING",
    "API_ListMessageMoveTasksResultEntry",
)
def _(it: Target) -> None:
    _, letters = dead(it)
    start(letters)
    task = ended(letters)
    has_not(task, "TaskHandle")
    expect(task["ApproximateNumberOfMessagesMoved"], 1)


@check(
    "ListMessageMoveTasks",
    "one unless more are asked for, the newest first",
    "MaxResults: the default is 1, which provides the most recent message movement task",
)
def _(it: Target) -> None:
    _, letters = dead(it)
    start(letters)
    ended(letters)
    start(letters)
    ended(letters)
    moved = [task["ApproximateNumberOfMessagesMoved"] for task in tasks(letters, MaxResults=10)]
    expect((len(tasks(letters)), moved), (1, [0, 1]))


@check(
    "ListMessageMoveTasks",
    "a source that does not exist",
    "ResourceNotFoundException: One or more specified resources don't exist",
)
def _(it: Target) -> None:
    arn = it.queue().arn.replace("probe-", "none-")
    refused(lambda: it.sqs.list_message_move_tasks(SourceArn=arn), "ResourceNotFoundException")


@check(
    "CancelMessageMoveTask",
    "a running task stops, and what it moved stays moved",
    "Cancels a specified message movement task; messages that were already moved to the destination queue are not reverted",
)
def _(it: Target) -> None:
    queue, letters = dead(it, 5)
    handle = start(letters, MaxNumberOfMessagesPerSecond=1)
    it.until("a moved message", lambda: queue.depths()[0])
    moved = it.sqs.cancel_message_move_task(TaskHandle=handle)["ApproximateNumberOfMessagesMoved"]
    expect(moved >= 1, True)
    task = ended(letters)
    expect((task["Status"], queue.depths()[0] + letters.depths()[0]), ("CANCELLED", 5))


@check(
    "CancelMessageMoveTask",
    "a task that has ended can't be cancelled",
    "A message movement task can only be cancelled when the current status is RUNNING",
)
def _(it: Target) -> None:
    _, letters = dead(it)
    handle = start(letters)
    ended(letters)
    refused(lambda: it.sqs.cancel_message_move_task(TaskHandle=handle), "InvalidParameterValue")


@check(
    "CancelMessageMoveTask",
    "a handle that is none is refused",
    "TaskHandle: an identifier associated with a message movement task",
)
def _(it: Target) -> None:
    refused(lambda: it.sqs.cancel_message_move_task(TaskHandle="x"), "InvalidParameterValue")
