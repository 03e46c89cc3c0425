#!/usr/bin/env python3
"""The recipes of docs/deploying.md: each, merged into template.yaml, must pass the SAM transform and cfn-lint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from model import ROOT, Json, Model, read_template
from samtranslator.yaml_helper import yaml_parse

WANTED = {"Custom domain", "VPC", "Canary"}


def recipes() -> dict[str, Json]:
    page = (ROOT / "docs/deploying.md").read_text()
    section = page.split("\n## Recipes\n")[1].split("\n## ")[0]
    found = re.findall(r"^\*\*([^*.]+)\.?\*\*.*?^```yaml\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return {name: yaml_parse(text) for name, text in found}


def merge(into: Json, more: Json) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def fault(recipe: Json) -> str | None:
    """What is wrong with the template that a recipe makes, if anything is."""
    template = read_template()
    merge(template, recipe)
    try:
        deployed = Model(template).deployed
    except Exception as err:
        return str(err)
    absent = [name for name in recipe["Resources"] if name not in deployed["Resources"]]
    if absent:
        return f"{absent} are gone after the transform"
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "template.json")
        file.write_text(json.dumps(template, default=str))
        lint = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(file)]
        done = subprocess.run(lint, capture_output=True, text=True)
        return done.stdout + done.stderr if done.returncode else None


def main() -> int:
    found = recipes()
    if set(found) != WANTED:
        print(f"not ok: the page has recipes for {sorted(found)}, not for {sorted(WANTED)}")
        return 1
    for name, recipe in found.items():
        wrong = fault(recipe)
        if wrong:
            print(f"not ok: {name}: {wrong}")
            return 1
    spoilt = yaml_parse("Resources: { Domain: { Type: AWS::ApiGatewayV2::DomainName, Properties: { Name: x } } }")
    if not fault(spoilt):
        print("not ok: a recipe with a misspelt property is not noticed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
