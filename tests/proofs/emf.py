"""CloudWatch's embedded metric format: what a line must be like, and what it counts.

The rules are those of "Specification: Embedded metric format" in the documentation of Amazon CloudWatch, and of the JSON
schema there, written down one by one. Where CloudWatch is milder (other members of the root, a number for the time), the
rule is still that of the schema.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

MAX_LINE = 1 << 20
MAX_DIMENSIONS = 30
MAX_DIMENSION_NAME = 250
MAX_DIMENSION_VALUE = 1024
MAX_NAME = 1024
MAX_METRICS = 100
MAX_VALUES = 100
OLDEST_MS, NEWEST_MS = 14 * 86_400_000, 2 * 3_600_000

_RATES = "Bytes Kilobytes Megabytes Gigabytes Terabytes Bits Kilobits Megabits Gigabits Terabits Count".split()
UNITS = {"Seconds", "Microseconds", "Milliseconds", "Percent", "None", *_RATES, *(f"{it}/Second" for it in _RATES)}

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A metric and its labels."""


def lines_of(output: str) -> list[str]:
    """The lines of a log that CloudWatch takes for metrics."""
    return [it for it in output.splitlines() if '"_aws"' in it]


def faults_of(line: str) -> list[str]:
    """What of the format a line does not keep to."""
    faults = []

    def rule(text: str, holds: bool) -> None:
        if not holds:
            faults.append(text)

    if len(line.encode()) > MAX_LINE:
        return ["a line has at most 1 MiB"]
    try:
        root = json.loads(line)
        aws = root["_aws"]
        stamp, directives = aws["Timestamp"], aws["CloudWatchMetrics"]
    except (ValueError, KeyError, TypeError):
        return ["the root is an object with _aws, which has Timestamp and CloudWatchMetrics"]
    rule("the time is an integer", type(stamp) is int)
    age = time.time() * 1000 - stamp
    rule("it is not older than two weeks and not two hours ahead", -NEWEST_MS < age < OLDEST_MS)
    rule("there are directives", isinstance(directives, list) and bool(directives))
    for directive in directives:
        if not {"Namespace", "Dimensions", "Metrics"} <= set(directive):
            return [*faults, "a directive has Namespace, Dimensions and Metrics"]
        rule("a directive has nothing else", set(directive) == {"Namespace", "Dimensions", "Metrics"})
        rule("a namespace is of 1 to 1024 characters", is_text(directive["Namespace"], MAX_NAME))
        rule("there is a set of dimensions", bool(directive["Dimensions"]))
        for dimensions in directive["Dimensions"]:
            rule("a set has at most 30 dimensions", len(dimensions) <= MAX_DIMENSIONS)
            rule("each is there once", len(set(dimensions)) == len(dimensions))
            for name in dimensions:
                rule("a dimension's name is of 1 to 250 characters", is_text(name, MAX_DIMENSION_NAME))
                rule("its value is a member of the root, of 1 to 1024 characters", is_text(root.get(name), MAX_DIMENSION_VALUE))
                rule("in ASCII, without control characters", str(root.get(name)).isascii() and str(root.get(name)).isprintable())
        rule("a directive has at most 100 metrics", len(directive["Metrics"]) <= MAX_METRICS)
        for metric in directive["Metrics"]:
            rule("a metric has a name, a unit and a resolution at most", set(metric) <= {"Name", "Unit", "StorageResolution"})
            rule("its name is of 1 to 1024 characters", is_text(metric.get("Name"), MAX_NAME))
            rule("its unit is one of CloudWatch's", metric.get("Unit", "None") in UNITS)
            rule("its resolution is 1 or 60 seconds", metric.get("StorageResolution", 60) in (1, 60))
            value = root.get(metric.get("Name"))
            values = value if isinstance(value, list) else [value]
            rule("it has at most 100 values", 1 <= len(values) <= MAX_VALUES)
            rule("which are numbers", all(type(it) in (int, float) and abs(it) < 2**360 for it in values))
    return faults


def is_text(value: Any, longest: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= longest


def figures(lines: list[str]) -> Counter[Series]:
    """What lines tell, summed up: counts, and of what has several values how many there are."""
    told: Counter[Series] = Counter()
    for line in lines:
        root = json.loads(line)
        for directive in root["_aws"]["CloudWatchMetrics"]:
            for dimensions in directive["Dimensions"]:
                labels = tuple(sorted((name, root[name]) for name in dimensions))
                for metric in directive["Metrics"]:
                    value = root[metric["Name"]]
                    told[metric["Name"], labels] += len(value) if isinstance(value, list) else value
    return told
