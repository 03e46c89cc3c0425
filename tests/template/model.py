"""template.yaml as it is written, and as AWS deploys it: after the SAM transform, run here by AWS's own library."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]

Json = Any

# It warns that nobody collects its measurements.
logging.getLogger("samtranslator").setLevel(logging.ERROR)


def read_template() -> Json:
    """The template, with every short form (`!Ref`) as its long one."""
    return yaml_parse((ROOT / "template.yaml").read_text())


class Model:
    """A template before and after the transform."""

    def __init__(self, written: Json) -> None:
        self.written = written
        self.deployed = transform(written)

    def of_type(self, kind: str) -> dict[str, Json]:
        return {name: it["Properties"] for name, it in self.deployed["Resources"].items() if it["Type"] == kind}

    def properties(self, name: str) -> Json:
        return self.deployed["Resources"][name]["Properties"]

    def variables(self, function: str) -> Json:
        return self.properties(function)["Environment"]["Variables"]

    def statements(self, role: str) -> list[Json]:
        """All statements of a role, those under a condition too."""
        found = []
        for policy in self.properties(role)["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                branches = statement["Fn::If"][1:] if "Fn::If" in statement else [statement]
                found += [it for it in branches if it != {"Ref": "AWS::NoValue"}]
        return found


def transform(written: Json) -> Json:
    template = copy.deepcopy(written)
    for resource in template["Resources"].values():
        properties = resource.get("Properties", {})
        # What `sam build` and `sam package` would have made.
        if resource["Type"] == "AWS::Serverless::Function":
            if properties.get("PackageType") == "Image":
                properties["ImageUri"] = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/scanner:built"
            else:
                properties["CodeUri"] = "s3://bucket/webhook.zip"
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            properties["ContentUri"] = "s3://bucket/layer.zip"
    session = boto3.session.Session(region_name="eu-west-1")
    translator = Translator({}, Parser(), boto_session=session)
    defaults = {name: it["Default"] for name, it in template["Parameters"].items()}
    return translator.translate(template, defaults)


def listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


def default(written: Json, value: Json) -> Json:
    """A value, or the default of the parameter that it refers to."""
    if isinstance(value, dict) and set(value) == {"Ref"}:
        return written["Parameters"][value["Ref"]]["Default"]
    return value
