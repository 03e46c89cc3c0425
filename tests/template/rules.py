#!/usr/bin/env python3
"""Our rules for template.yaml: what cfn-lint, SAM and checkov miss. Most are derived from the source, so that a variable,
a permission or a route that comes or goes there must come or go here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

import source
from alarms import OWN, alarms_are_those_promised, the_dashboard_shows_every_metric_and_no_other
from model import ROOT, Json, Model, default, listed, read_template

FUNCTIONS = {"webhook": "WebhookFunction", "scanner": "ScannerFunction"}
ROLES = {"webhook": "WebhookRole", "scanner": "ScannerRole"}
QUEUES = ("Queue", "DeadLetterQueue", "EcrDeadLetterQueue")

READ_BY_DEPENDENCIES = {
    "webhook": {"AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH", "SSL_CERT_FILE"},  # lambda_http, rustls-native-certs
    "scanner": {"SSL_CERT_FILE"},
}

RUNTIME_PERMISSIONS = {"logs:CreateLogStream", "logs:PutLogEvents", "xray:PutTraceSegments", "xray:PutTelemetryRecords"}
MAPPING_PERMISSIONS = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
REFERENCE_PERMISSIONS = {"ssm:GetParameter", "secretsmanager:GetSecretValue"}
CLI_PERMISSIONS = {
    # What ECR wants of who pulls, besides the token; granted with EcrPullRepositories only.
    "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer",
    "ecr:BatchGetImage",
}
KEY_PERMISSIONS = {"kms:Decrypt", "kms:GenerateDataKey"}  # with KmsKeyArn only

STARS = {"Trace", "EcrToken"}
"""Statements on every resource, because the service knows no narrower one."""


def same(what: str, actual: Json, expected: Json) -> None:
    if actual != expected:
        raise AssertionError(f"{what}: expected {expected!r}, but it is {actual!r}")


def true(what: str, holds: bool) -> None:
    if not holds:
        raise AssertionError(what)


def messages_stay_hidden_six_times_as_long_as_a_scan_may_take(model: Model) -> None:
    (mapping,) = model.of_type("AWS::Lambda::EventSourceMapping").values()
    timeout = model.properties("ScannerFunction")["Timeout"]
    window = mapping.get("MaximumBatchingWindowInSeconds", 0)
    visibility = model.properties("Queue")["VisibilityTimeout"]
    true(f"{visibility} s is less than 6 × {timeout} s + {window} s", visibility >= 6 * timeout + window)
    longest = source.number("functions/scanner/src/invocation.rs", r"LONGEST_INVOCATION: Duration = Duration::from_mins\((\d+)\)")
    same("the scanner's time-out", timeout, longest * 60)
    true("API Gateway gives up before the webhook does", model.properties("WebhookFunction")["Timeout"] < 30)


def dead_letters_outlive_messages_and_their_reasons_outlive_them(model: Model) -> None:
    kept = model.properties("Queue")["MessageRetentionPeriod"]
    dead = model.properties("DeadLetterQueue")["MessageRetentionPeriod"]
    true("a dead letter counts from its first send", dead > kept)
    days = source.number("functions/core/src/retry.rs", r"DEAD_LETTERS_KEPT: Duration = Duration::from_hours\((\d+) \* 24\)")
    same("how long the ledger is sure to remember a dead letter", days * 86400, dead)
    # Ten receives, an hour between two at most, 15 minutes for each.
    attempts = default(model.written, model.properties("Queue")["RedrivePolicy"]["maxReceiveCount"])
    true("retries last longer than messages are kept", attempts * (3600 + 900) < kept)


def the_queue_gives_up_after_as_many_receives_as_the_configuration_says(model: Model) -> None:
    policy = model.properties("Queue")["RedrivePolicy"]
    ours = source.number("functions/config/src/config.rs", r"wire\.attempts\.map_or\((\d+),")
    same("maxReceiveCount", default(model.written, policy["maxReceiveCount"]), ours)
    true("AWS advises 5 and more", model.written["Parameters"]["Attempts"]["MinValue"] >= 5)
    same("where it gives up to", policy["deadLetterTargetArn"], {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]})
    allowed = model.properties("DeadLetterQueue")["RedriveAllowPolicy"]
    same("who may give up to it", allowed["redrivePermission"], "byQueue")
    (arn,) = allowed["sourceQueueArns"]
    name = model.properties("Queue")["QueueName"]["Fn::Sub"]
    true("the dead-letter queue allows another queue", arn["Fn::Sub"].endswith(":" + name))


def failed_records_come_back_and_the_others_do_not(model: Model) -> None:
    (mapping,) = model.of_type("AWS::Lambda::EventSourceMapping").values()
    same("FunctionResponseTypes", mapping["FunctionResponseTypes"], ["ReportBatchItemFailures"])
    same("BatchSize", default(model.written, mapping["BatchSize"]), 1)
    same("the mapping reads", mapping["EventSourceArn"], {"Fn::GetAtt": ["Queue", "Arn"]})
    true("a filter deletes what does not match", "FilterCriteria" not in mapping)


def the_mapping_starts_no_more_scans_than_are_reserved(model: Model) -> None:
    (mapping,) = model.of_type("AWS::Lambda::EventSourceMapping").values()
    concurrency = mapping["ScalingConfig"]["MaximumConcurrency"]
    reserved = model.properties("ScannerFunction")["ReservedConcurrentExecutions"]
    same("what is reserved", reserved, {"Fn::If": ["ReservesConcurrency", concurrency, {"Ref": "AWS::NoValue"}]})
    bounds = model.written["Parameters"][concurrency["Ref"]]
    true("Lambda takes 2 to 1000", bounds["MinValue"] >= 2 and bounds["MaxValue"] <= 1000)


def each_variable_the_code_reads_is_set_and_no_other(model: Model) -> None:
    for function, name in FUNCTIONS.items():
        expected = source.variables(function) | READ_BY_DEPENDENCIES[function] | {"OTEL_EXPORTER_OTLP_ENDPOINT", "AWS_EMF_NAMESPACE"}
        same(f"variables of the {function}", sorted(model.variables(name)), sorted(expected))
    scanner = model.variables("ScannerFunction")
    same("SCANHOOK_QUEUE_URL", scanner["SCANHOOK_QUEUE_URL"], {"Ref": "Queue"})
    same("SCANHOOK_DLQ_URL", scanner["SCANHOOK_DLQ_URL"], {"Ref": "DeadLetterQueue"})
    same("SCANHOOK_LEDGER_TABLE", scanner["SCANHOOK_LEDGER_TABLE"], {"Ref": "Ledger"})
    for name in FUNCTIONS.values():
        same("SCANHOOK_CONFIG", model.variables(name)["SCANHOOK_CONFIG"], {"Fn::Sub": "${ConfigStore}:${ConfigName}"})
        # Of OpenTelemetry's variables, which the code reads too, the one without which there are no traces.
        same("OTEL_EXPORTER_OTLP_ENDPOINT", model.variables(name)["OTEL_EXPORTER_OTLP_ENDPOINT"], {"Ref": "OtlpEndpoint"})
        same("the namespace of its metrics", model.variables(name)["AWS_EMF_NAMESPACE"], {"Fn::Sub": OWN})
    same("the webhook's queue", model.variables("WebhookFunction")["SCANHOOK_QUEUE_URL"], {"Ref": "Queue"})


def each_permission_the_code_needs_is_granted_and_no_other(model: Model) -> None:
    beside = {
        "webhook": RUNTIME_PERMISSIONS | KEY_PERMISSIONS,
        "scanner": RUNTIME_PERMISSIONS | KEY_PERMISSIONS | MAPPING_PERMISSIONS | CLI_PERMISSIONS,
    }
    for function, role in ROLES.items():
        granted = set()
        for statement in model.statements(role):
            same("Effect", statement["Effect"], "Allow")
            granted |= set(listed(statement["Action"]))
        same(f"permissions of the {function}", sorted(granted), sorted(source.permissions(function) | beside[function]))


def each_permission_is_for_one_resource(model: Model) -> None:
    for role in ROLES.values():
        for statement in model.statements(role):
            true(f"{statement} has a star among its actions", not any("*" in it for it in listed(statement["Action"])))
            same(f"{statement['Sid']} is on every resource", statement["Resource"] == "*", statement["Sid"] in STARS)
    prefixes = {"WebhookRole": "scanhook/webhook*", "ScannerRole": "scanhook/scanner*"}
    for role, prefix in prefixes.items():
        patterns = [
            it["Resource"]["Fn::Sub"] for it in model.statements(role)
            if set(listed(it["Action"])) <= REFERENCE_PERMISSIONS and it["Sid"] != "Configuration"
        ]
        same(f"secrets of {role}", sorted(it.split(":")[-1].removeprefix("parameter/") for it in patterns), [prefix] * 2)
    own = {"Queue": "WebhookRole", "DeadLetterQueue": "ScannerRole"}
    for queue, role in own.items():
        senders = [
            name for name in ROLES.values() for it in model.statements(name)
            if "sqs:SendMessage" in listed(it["Action"]) and it["Resource"] == {"Fn::GetAtt": [queue, "Arn"]}
        ]
        same(f"who may send to {queue}", senders, [role])
    for name, role in model.of_type("AWS::IAM::Role").items():
        true(f"{name} has managed policies", "ManagedPolicyArns" not in role)


def functions_have_their_own_role_and_no_alias(model: Model) -> None:
    for function, name in FUNCTIONS.items():
        properties = model.properties(name)
        same("its role", properties["Role"], {"Fn::GetAtt": [ROLES[function], "Arn"]})
        same("tracing", properties["TracingConfig"], {"Mode": "Active"})
        same("the format of its log", properties["LoggingConfig"]["LogFormat"], "JSON")
        # SAM publishes a version when the template's text changes, and not when a parameter's value does: behind an alias, a
        # new value of a parameter would be deployed and never take effect.
        true(f"{name} has an alias", "AutoPublishAlias" not in model.written["Resources"][name]["Properties"])
        same("architectures", properties["Architectures"], [{"Ref": "Architecture"}])


def queues_speak_tls_only_and_are_encrypted(model: Model) -> None:
    same("queues", sorted(model.of_type("AWS::SQS::Queue")), sorted(QUEUES))
    for queue in QUEUES:
        arn = {"Fn::GetAtt": [queue, "Arn"]}
        denied = [
            it for policy in model.of_type("AWS::SQS::QueuePolicy").values() if policy["Queues"] == [{"Ref": queue}]
            for it in policy["PolicyDocument"]["Statement"] if it["Effect"] == "Deny"
        ]
        expected = {
            "Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": arn,
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
        same(f"what is denied at {queue}", denied, [expected])
        properties, none = model.properties(queue), {"Ref": "AWS::NoValue"}
        same("its own key", properties["KmsMasterKeyId"], {"Fn::If": ["HasKey", {"Ref": "KmsKeyArn"}, none]})
        same("without one", properties["SqsManagedSseEnabled"], {"Fn::If": ["HasKey", none, True]})


def the_access_log_holds_no_path(model: Model) -> None:
    (stage,) = model.of_type("AWS::ApiGatewayV2::Stage").values()
    text = stage["AccessLogSettings"]["Format"]
    allowed = {
        "requestTimeEpoch", "requestId", "routeKey", "status", "identity.sourceIp", "identity.userAgent", "protocol",
        "responseLength", "responseLatency", "integrationLatency", "integrationErrorMessage",
    }
    same("its variables", set(re.findall(r"\$context\.([A-Za-z.]+)", text)), allowed)
    line = json.loads(re.sub(r"\$context\.[A-Za-z.]+", "0", text))
    same("what the metric filters look at", line["status"], 0)
    true("API Gateway takes 3 KB", len(text) <= 3072)
    same("the stage", stage["StageName"], "$default")


def the_routes_are_those_of_the_router(model: Model) -> None:
    (api,) = model.of_type("AWS::ApiGatewayV2::Api").values()
    there = {f"{method.upper()} {path}" for path, methods in api["Body"]["paths"].items() for method in methods}
    same("routes", sorted(there), sorted(source.routes()))
    throttle = model.of_type("AWS::ApiGatewayV2::Stage").popitem()[1]["DefaultRouteSettings"]
    same("throttled by", sorted(throttle), ["DetailedMetricsEnabled", "ThrottlingBurstLimit", "ThrottlingRateLimit"])
    formats = re.findall(r'"payloadFormatVersion": "([0-9.]+)"', json.dumps(api["Body"]))
    same("payloads", set(formats), {"2.0"})


def the_table_is_the_one_the_ledger_uses(model: Model) -> None:
    table = model.properties("Ledger")
    same("key", [it["AttributeName"] for it in table["KeySchema"]], ["pk", "sk"])
    (index,) = table["GlobalSecondaryIndexes"]
    same("index", index["IndexName"], "by_time")
    same("its key", [it["AttributeName"] for it in index["KeySchema"]], ["list_shard", "listed_at"])
    same("projection", index["Projection"], {"ProjectionType": "ALL"})
    same("expiry", table["TimeToLiveSpecification"], {"AttributeName": "expires_at", "Enabled": True})
    code = (ROOT / "functions/scanner/src/dynamodb.rs").read_text()
    for name in ("pk", "sk", "by_time", "list_shard", "listed_at", "expires_at"):
        true(f"the ledger knows no {name}", f'"{name}"' in code)
    same("billing", table["BillingMode"], "PAY_PER_REQUEST")
    same("when the stack goes", model.deployed["Resources"]["Ledger"]["DeletionPolicy"], "Retain")


def pushes_to_ecr_are_chosen_as_its_page_says(model: Model) -> None:
    page = (ROOT / "docs/registries/ecr.md").read_text()
    (pattern,) = re.findall(r'^\{"source":\["aws\.ecr"\].*$', page, flags=re.MULTILINE)
    rule = model.properties("EcrRule")
    same("the rule's pattern", rule["EventPattern"], json.loads(pattern))
    (target,) = rule["Targets"]
    same("what can't be delivered", target["DeadLetterConfig"], {"Arn": {"Fn::GetAtt": ["EcrDeadLetterQueue", "Arn"]}})
    allowed = model.properties("EcrDeadLetterQueuePolicy")["PolicyDocument"]["Statement"][1]
    same("who puts it there", allowed["Principal"], {"Service": "events.amazonaws.com"})
    same("by which rule", allowed["Condition"], {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["EcrRule", "Arn"]}}})


def a_parameter_has_a_description_and_is_used(model: Model) -> None:
    text = json.dumps({name: it for name, it in model.written.items() if name != "Parameters"}, default=str)
    groups = model.written["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    same("the groups", sorted(grouped), sorted(model.written["Parameters"]))
    for name, parameter in model.written["Parameters"].items():
        true(f"{name} has no default", "Default" in parameter)
        true(f"{name} has no description", len(parameter["Description"]) > 20)
        # cfn-lint does not say so where there is a transform.
        true(f"{name} is used nowhere", f'{{"Ref": "{name}"}}' in text or f"${{{name}}}" in text)


RULES: list[Callable[[Model], None]] = [
    messages_stay_hidden_six_times_as_long_as_a_scan_may_take,
    dead_letters_outlive_messages_and_their_reasons_outlive_them,
    the_queue_gives_up_after_as_many_receives_as_the_configuration_says,
    failed_records_come_back_and_the_others_do_not,
    the_mapping_starts_no_more_scans_than_are_reserved,
    each_variable_the_code_reads_is_set_and_no_other,
    each_permission_the_code_needs_is_granted_and_no_other,
    each_permission_is_for_one_resource,
    functions_have_their_own_role_and_no_alias,
    queues_speak_tls_only_and_are_encrypted,
    the_access_log_holds_no_path,
    the_routes_are_those_of_the_router,
    the_table_is_the_one_the_ledger_uses,
    pushes_to_ecr_are_chosen_as_its_page_says,
    a_parameter_has_a_description_and_is_used,
    alarms_are_those_promised,
    the_dashboard_shows_every_metric_and_no_other,
]


def main() -> int:
    model = Model(read_template())
    passed = failed = 0
    for rule in RULES:
        try:
            rule(model)
            passed += 1
            print(f"  ok {passed:3} {rule.__name__.replace('_', ' ')}")
        except (AssertionError, KeyError, ValueError) as err:
            failed += 1
            print(f"not ok     {rule.__name__.replace('_', ' ')}: {err!r}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
