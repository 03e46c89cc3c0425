// AWS's SDK for JavaScript and sqs-consumer, on the SQS endpoint whose address is the argument. Prints each claim as a line of JSON, with
// whether it holds.
import { isDeepStrictEqual } from "node:util";
import * as aws from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";

const sqs = new aws.SQSClient({
  endpoint: process.argv[2],
  region: "us-east-1",
  credentials: { accessKeyId: "fake-access-key", secretAccessKey: "fake-secret-key" },
});

function equal(claim, actual, expected) {
  console.log(JSON.stringify({ claim, holds: isDeepStrictEqual(actual, expected), actual }));
}

async function create(QueueName, Attributes) {
  return (await sqs.send(new aws.CreateQueueCommand({ QueueName, Attributes }))).QueueUrl;
}

async function attributes(QueueUrl) {
  return (await sqs.send(new aws.GetQueueAttributesCommand({ QueueUrl, AttributeNames: ["All"] }))).Attributes;
}

// Visible, and in flight.
async function depth(queueUrl) {
  const told = await attributes(queueUrl);
  return [told.ApproximateNumberOfMessages, told.ApproximateNumberOfMessagesNotVisible].map(Number);
}

const dead = await create("js-dlq");
const policy = { deadLetterTargetArn: (await attributes(dead)).QueueArn, maxReceiveCount: 3 };
const url = await create("js", { VisibilityTimeout: "3", RedrivePolicy: JSON.stringify(policy) });
const pages = [];
for await (const page of aws.paginateListQueues({ client: sqs, pageSize: 1 }, { QueueNamePrefix: "js" })) {
  pages.push(...page.QueueUrls);
}
equal("its paginator lists the queues", pages, [url, dead]);

const MessageAttributes = {
  colour: { DataType: "String", StringValue: "grün" },
  count: { DataType: "Number", StringValue: "7" },
  raw: { DataType: "Binary", BinaryValue: new Uint8Array([0, 255]) },
};
// The SDK checks the sums of bodies and of batches itself.
const sent = await sqs.send(new aws.SendMessageCommand({ QueueUrl: url, MessageBody: "Grüße", MessageAttributes }));
const [received] = (await sqs.send(new aws.ReceiveMessageCommand({ QueueUrl: url, MessageAttributeNames: ["All"] }))).Messages;
const { MessageId, Body } = received;
equal("a message comes as it was sent", { MessageId, Body }, { MessageId: sent.MessageId, Body: "Grüße" });
const values = Object.values(received.MessageAttributes).map((it) => it.StringValue ?? [...it.BinaryValue]);
equal("  with attributes of each type", values.sort(), ["7", "grün", [0, 255]].sort());
await sqs.send(new aws.DeleteMessageCommand({ QueueUrl: url, ReceiptHandle: received.ReceiptHandle }));
const names = [];
for (const command of [new aws.GetQueueUrlCommand({ QueueName: "none" }), new aws.SendMessageCommand({ QueueUrl: url, MessageBody: "" })]) {
  await sqs.send(command).catch((err) => names.push(err.name));
}
equal("its errors have their names", names, ["QueueDoesNotExist", "MissingParameter"]);

const Entries = [...Array(10).keys()].map((it) => ({ Id: `${it}`, MessageBody: `message ${it}` }));
await sqs.send(new aws.SendMessageBatchCommand({ QueueUrl: url, Entries }));
const handled = {};
const consumer = Consumer.create({
  sqs,
  queueUrl: url,
  batchSize: 10,
  waitTimeSeconds: 2,
  visibilityTimeout: 3,
  heartbeatInterval: 1,
  terminateVisibilityTimeout: true,
  async handleMessage(message) {
    const times = (handled[message.Body] = (handled[message.Body] ?? 0) + 1);
    if (message.Body === "slow") await new Promise((resolve) => setTimeout(resolve, 6000));
    if (message.Body === "always fails" || (message.Body === "fails once" && times === 1)) throw new Error("on purpose");
    return message;
  },
});
consumer.on("processing_error", () => {});
consumer.on("error", () => {});
consumer.start();
for (const MessageBody of ["fails once", "always fails", "slow"]) {
  await sqs.send(new aws.SendMessageCommand({ QueueUrl: url, MessageBody }));
}
for (let looks = 0; looks < 300; looks++) {
  if (handled.slow && isDeepStrictEqual([await depth(url), await depth(dead)], [[0, 0], [1, 0]])) break;
  await new Promise((resolve) => setTimeout(resolve, 100));
}
const stopped = new Promise((resolve) => consumer.once("stopped", resolve));
consumer.stop();
await stopped;
const once = Entries.map((it) => handled[it.MessageBody]);
equal("sqs-consumer handles each message of a batch once", once, Array(10).fill(1));
equal("one that failed is handled again", handled["fails once"], 2);
equal("one that is slower than it is hidden is handled once, by heartbeats", handled.slow, 1);
equal("one that always fails is in the dead-letter queue after three receives", handled["always fails"], 3);
equal("  and nothing else is in either queue", [await depth(url), await depth(dead)], [[0, 0], [1, 0]]);
