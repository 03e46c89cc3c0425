"""Templates that break a rule, each by one edit; the rule named first must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Edit = Callable[[Any, Any], None]


def put(name: str, *path: Any, value: Any) -> Edit:
    """Sets what lies at a path of a resource's properties."""

    def edit(resources: Any, _: Any) -> None:
        place = resources[name]["Properties"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return edit


def drop(name: str, *path: Any) -> Edit:
    def edit(resources: Any, _: Any) -> None:
        place = resources[name]["Properties"]
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return edit


def remove(name: str) -> Edit:
    return lambda resources, _: resources.pop(name)


def parameter(name: str, key: str, value: Any) -> Edit:
    def edit(_: Any, template: Any) -> None:
        template["Parameters"][name][key] = value

    return edit


def allow(role: str, action: str, resource: Any) -> Edit:
    """Adds a statement to a role."""

    def edit(resources: Any, _: Any) -> None:
        statements = resources[role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
        statements.append({"Sid": "More", "Effect": "Allow", "Action": action, "Resource": resource})

    return edit


def forbid(role: str, sid: str, action: str) -> Edit:
    """Takes an action out of a statement."""

    def edit(resources: Any, _: Any) -> None:
        for statement in resources[role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]:
            if statement.get("Sid") == sid:
                statement["Action"] = [it for it in statement["Action"] if it != action]

    return edit


def log_the_path(resources: Any, _: Any) -> None:
    settings = resources["Api"]["Properties"]["AccessLogSettings"]
    settings["Format"] = settings["Format"].replace("$context.routeKey", "$context.path")


def log_a_broken_line(resources: Any, _: Any) -> None:
    settings = resources["Api"]["Properties"]["AccessLogSettings"]
    settings["Format"] = settings["Format"][:-1]


def grant_by_managed_policy(resources: Any, _: Any) -> None:
    resources["ScannerRole"]["Properties"]["ManagedPolicyArns"] = ["arn:aws:iam::aws:policy/AdministratorAccess"]


def forget_the_parameter(_: Any, template: Any) -> None:
    template["Parameters"]["Unused"] = {"Type": "String", "Default": "", "Description": "Something that nothing reads"}


def show_what_is_not_measured(resources: Any, _: Any) -> None:
    body = resources["Dashboard"]["Properties"]["DashboardBody"]
    body["Fn::Sub"] = body["Fn::Sub"].replace("scan_errors", "scan_failures")


HIDDEN = "messages_stay_hidden_six_times_as_long_as_a_scan_may_take"
OUTLIVE = "dead_letters_outlive_messages_and_their_reasons_outlive_them"
GIVE_UP = "the_queue_gives_up_after_as_many_receives_as_the_configuration_says"
BATCH = "failed_records_come_back_and_the_others_do_not"
RESERVED = "the_mapping_starts_no_more_scans_than_are_reserved"
VARIABLES = "each_variable_the_code_reads_is_set_and_no_other"
PERMISSIONS = "each_permission_the_code_needs_is_granted_and_no_other"
NARROW = "each_permission_is_for_one_resource"
LOGS = "functions_have_their_own_role_and_log"
TLS = "queues_speak_tls_only_and_are_encrypted"
ACCESS = "the_access_log_holds_no_path"
ROUTES = "the_routes_are_those_of_the_router"
TABLE = "the_table_is_the_one_the_ledger_uses"
ECR = "pushes_to_ecr_are_chosen_as_its_page_says"
PARAMETERS = "a_parameter_has_a_description_and_is_used"
IMAGE = "the_scanner_is_an_image_with_the_cli_in_it"
DASHBOARD = "the_dashboard_shows_every_metric_and_no_other"
ALARMS = "alarms_are_those_promised"

SCANNER_EVENT = ("ScannerFunction", "Events", "Messages", "Properties")

MUTANTS: dict[str, tuple[str, Edit]] = {
    "a visibility of one scan": (HIDDEN, put("Queue", "VisibilityTimeout", value=900)),
    "a batching window": (HIDDEN, put(*SCANNER_EVENT, "MaximumBatchingWindowInSeconds", value=60)),
    "a shorter time-out of the scanner": (HIDDEN, put("ScannerFunction", "Timeout", value=300)),
    "a webhook that outlasts API Gateway": (HIDDEN, put("WebhookFunction", "Timeout", value=60)),
    "dead letters kept as long as messages": (OUTLIVE, put("DeadLetterQueue", "MessageRetentionPeriod", value=345600)),
    "messages kept for an hour": (OUTLIVE, put("Queue", "MessageRetentionPeriod", value=3600)),
    "another count of receives": (GIVE_UP, parameter("Attempts", "Default", 5)),
    "one receive": (GIVE_UP, parameter("Attempts", "MinValue", 1)),
    "a dead-letter queue open to all": (GIVE_UP, put("DeadLetterQueue", "RedriveAllowPolicy", "redrivePermission", value="allowAll")),
    "a queue of another name": (GIVE_UP, put("Queue", "QueueName", value={"Fn::Sub": "${AWS::StackName}-other"})),
    "no partial responses": (BATCH, put(*SCANNER_EVENT, "FunctionResponseTypes", value=[])),
    "batches of ten": (BATCH, parameter("BatchSize", "Default", 10)),
    "more scans than reserved": (RESERVED, put(*SCANNER_EVENT, "ScalingConfig", value={"MaximumConcurrency": 1000})),
    "one scan at once": (RESERVED, parameter("ScannerConcurrency", "MinValue", 1)),
    "a variable less": (VARIABLES, drop("ScannerFunction", "Environment", "Variables", "SCANHOOK_LEDGER_TABLE")),
    "a variable more": (VARIABLES, put("WebhookFunction", "Environment", "Variables", "SCANHOOK_DEBUG", value="1")),
    "figures among those of other stacks": (
        VARIABLES, put("WebhookFunction", "Environment", "Variables", "AWS_EMF_NAMESPACE", value="scanhook"),
    ),
    "the wrong queue": (VARIABLES, put("ScannerFunction", "Environment", "Variables", "SCANHOOK_DLQ_URL", value={"Ref": "Queue"})),
    "a permission less": (PERMISSIONS, forbid("ScannerRole", "Queue", "sqs:ChangeMessageVisibility")),
    "a permission more": (PERMISSIONS, allow("WebhookRole", "sqs:PurgeQueue", {"Fn::GetAtt": ["Queue", "Arn"]})),
    "a webhook that receives": (PERMISSIONS, allow("WebhookRole", "sqs:ReceiveMessage", {"Fn::GetAtt": ["Queue", "Arn"]})),
    "a ledger that can't be updated": (PERMISSIONS, forbid("ScannerRole", "Ledger", "dynamodb:UpdateItem")),
    "every queue": (NARROW, allow("WebhookRole", "sqs:SendMessage", "*")),
    "a webhook that buries": (NARROW, allow("WebhookRole", "sqs:SendMessage", {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]})),
    "a webhook that reads the scanner's secrets": (
        NARROW,
        allow("WebhookRole", "secretsmanager:GetSecretValue", {"Fn::Sub": "arn:aws:secretsmanager:::secret:scanhook/scanner*"}),
    ),
    "a managed policy": (NARROW, grant_by_managed_policy),
    "the other's role": (LOGS, put("WebhookFunction", "Role", value={"Fn::GetAtt": ["ScannerRole", "Arn"]})),
    "logs for ever": (LOGS, drop("AccessLogs", "RetentionInDays")),
    "logs as text": (LOGS, put("ScannerFunction", "LoggingConfig", "LogFormat", value="Text")),
    "an alias": (LOGS, put("WebhookFunction", "AutoPublishAlias", value="live")),
    "no tracing": (LOGS, put("ScannerFunction", "Tracing", value="PassThrough")),
    "plain HTTP to the queue": (TLS, remove("QueuePolicy")),
    "TLS wanted only for sends": (
        TLS, put("DeadLetterQueuePolicy", "PolicyDocument", "Statement", 0, "Action", value="sqs:SendMessage"),
    ),
    "no encryption": (TLS, put("Queue", "SqsManagedSseEnabled", value=False)),
    "the path in the access log": (ACCESS, log_the_path),
    "an access log that is no JSON": (ACCESS, log_a_broken_line),
    "a stage in the path": (ACCESS, put("Api", "StageName", value="prod")),
    "a route less": (ROUTES, drop("WebhookFunction", "Events", "DeliverWithToken")),
    "every route": (ROUTES, put("WebhookFunction", "Events", "Health", "Properties", "Path", value="/{proxy+}")),
    "payloads of version 1": (ROUTES, put("WebhookFunction", "Events", "Deliver", "Properties", "PayloadFormatVersion", value="1.0")),
    "no throttle": (ROUTES, drop("Api", "DefaultRouteSettings", "ThrottlingRateLimit")),
    "a table without expiry": (TABLE, put("Ledger", "TimeToLiveSpecification", "Enabled", value=False)),
    "another sort key": (TABLE, put("Ledger", "KeySchema", 1, "AttributeName", value="sort")),
    "an index of keys only": (TABLE, put("Ledger", "GlobalSecondaryIndexes", 0, "Projection", "ProjectionType", value="KEYS_ONLY")),
    "no recovery": (TABLE, put("Ledger", "PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled", value=False)),
    "failed pushes too": (ECR, put("EcrRule", "EventPattern", "detail", "result", value=["SUCCESS", "FAILURE"])),
    "events that vanish": (ECR, drop("EcrRule", "Targets", 0, "DeadLetterConfig")),
    "a parameter that nothing reads": (PARAMETERS, forget_the_parameter),
    "a parameter without a description": (PARAMETERS, parameter("KmsKeyArn", "Description", "A key")),
    "one architecture written out": (IMAGE, put("WebhookFunction", "Architectures", value=["arm64"])),
    "no alarm on dead letters": (ALARMS, remove("DeadLettersAlarm")),
    "an alarm on the wrong queue": (
        ALARMS, put("DeadLettersAlarm", "Dimensions", 0, "Value", value={"Fn::GetAtt": ["Queue", "QueueName"]}),
    ),
    "an alarm that another stack rings": (ALARMS, put("LedgerAlarm", "Namespace", value="scanhook")),
    "an alarm at the limit itself": (ALARMS, put("ScannerDurationAlarm", "Threshold", value=900000)),
    "an alarm that tells nobody": (ALARMS, put("ThrottledAlarm", "AlarmActions", value=[])),
    "a filter on another status": (ALARMS, put("ThrottledFilter", "FilterPattern", value="{ $.status = 503 }")),
    "a metric that nobody writes": (DASHBOARD, show_what_is_not_measured),
}
