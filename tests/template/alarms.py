"""What is promised to be noticed, and the alarm that notices it. docs/deploying.md tells what to do at each."""

from __future__ import annotations

import json
import re

from model import ROOT, Json, Model

OWN = "scanhook/${AWS::StackName}"
"""The namespace of this stack alone: what its functions count, and what is counted of its logs."""

PROMISED = {
    "DeadLettersAlarm": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "DeadLetterQueue"),
    "QueueAgeAlarm": ("AWS/SQS", "ApproximateAgeOfOldestMessage", "Queue"),
    "WebhookErrorsAlarm": ("AWS/Lambda", "Errors", "WebhookFunction"),
    "ScannerErrorsAlarm": ("AWS/Lambda", "Errors", "ScannerFunction"),
    "WebhookThrottlesAlarm": ("AWS/Lambda", "Throttles", "WebhookFunction"),
    "ScannerThrottlesAlarm": ("AWS/Lambda", "Throttles", "ScannerFunction"),
    "WebhookDurationAlarm": ("AWS/Lambda", "Duration", "WebhookFunction"),
    "ScannerDurationAlarm": ("AWS/Lambda", "Duration", "ScannerFunction"),
    "UnauthorizedAlarm": (OWN, "unauthorized", None),
    "ThrottledAlarm": (OWN, "throttled", None),
    "TooLargeAlarm": (OWN, "too_large", None),
    "TooManyImagesAlarm": (OWN, "too_many_images", None),
    "UnavailableAlarm": ("AWS/ApiGateway", "5xx", "Api"),
    "LedgerAlarm": (OWN, "ledger_unavailable", None),
    "ConfigurationAlarm": (OWN, "configuration_stale", None),
    "EcrDeadLettersAlarm": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "EcrDeadLetterQueue"),
}
"""Namespace, metric, and the resource whose metric it is."""

FILTERS = {
    "unauthorized": ("AccessLogs", "{ $.status = 401 }"),
    "throttled": ("AccessLogs", "{ $.status = 429 }"),
    "too_large": ("AccessLogs", "{ $.status = 413 }"),
    "too_many_images": ("WebhookLogs", '{ $.event = "delivery.too_many_images" }'),
}
"""Metrics that are made of a log: which log, and which of its lines they count."""


def watched(alarm: Json) -> tuple[str, str, str | None]:
    namespace = alarm["Namespace"]
    dimensions = alarm.get("Dimensions", [])
    resource = None
    if dimensions:
        (value,) = [it["Value"] for it in dimensions]
        resource = value.get("Ref") or value["Fn::GetAtt"][0]
    return namespace if isinstance(namespace, str) else namespace["Fn::Sub"], alarm["MetricName"], resource


def alarms_are_those_promised(model: Model) -> None:
    alarms = model.of_type("AWS::CloudWatch::Alarm")
    there = {name: watched(alarm) for name, alarm in alarms.items()}
    assert there == PROMISED, f"alarms: expected {PROMISED!r}, but they are {there!r}"
    for name, (namespace, _, resource) in there.items():
        assert resource or namespace == OWN, f"{name} rings for another stack"
    for name, alarm in alarms.items():
        assert alarm["TreatMissingData"] == "notBreaching", f"{name} rings when nothing happens"
        topic = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
        assert alarm["AlarmActions"] == topic, f"{name} tells nobody"
        assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold", f"{name} compares otherwise"
        assert alarm["EvaluationPeriods"] == 1, f"{name} waits"
    for name, function in (("WebhookDurationAlarm", "WebhookFunction"), ("ScannerDurationAlarm", "ScannerFunction")):
        limit = model.properties(function)["Timeout"] * 1000
        assert alarms[name]["ExtendedStatistic"] == "p99", f"{name} looks at another statistic"
        assert alarms[name]["Threshold"] == 0.8 * limit, f"{name} is not at 80 % of {limit} ms"
    for filter_ in model.of_type("AWS::Logs::MetricFilter").values():
        (made,) = filter_["MetricTransformations"]
        log, pattern = FILTERS[made["MetricName"]]
        assert filter_["FilterPattern"] == pattern, "a filter counts other lines"
        assert filter_["LogGroupName"] == {"Ref": log}, "a filter reads another log"
    page = (ROOT / "docs/deploying.md").read_text()
    told = set(re.findall(r"^\| `(\w+Alarm)` \|", page, flags=re.MULTILINE))
    assert told == set(PROMISED), f"docs/deploying.md tells of {sorted(told)}"


def the_dashboard_shows_every_metric_and_no_other(model: Model) -> None:
    source = (ROOT / "functions/telemetry/src/metrics.rs").read_text().split("#[cfg(test)]")[0]
    ours = set(re.findall(r'\bname: "([a-z_]+)"', source))
    text = model.properties("Dashboard")["DashboardBody"]["Fn::Sub"]
    widgets = json.loads(re.sub(r"\$\{[^}]+\}", "x", text))["widgets"]
    text = json.dumps(widgets)
    shown = set(re.findall(r'Namespace=\\"scanhook/x\\" MetricName=\\"([a-z_]+)', text))
    assert text.count("SEARCH(") == text.count('Namespace=\\"scanhook/x\\"'), "the dashboard shows what another stack counts"
    assert shown == ours, f"the dashboard shows {sorted(shown)}, but the metrics are {sorted(ours)}"
    watched_ours = {metric for namespace, metric, _ in PROMISED.values() if namespace.startswith("scanhook")} - FILTERS.keys()
    assert watched_ours <= ours, f"alarms watch {sorted(watched_ours - ours)}, which are no metrics of ours"
