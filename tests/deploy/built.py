#!/usr/bin/env python3
"""Writes the template that `sam build` leaves behind: artifacts in the place of sources. Besides, the mapping's numbers are
written out: CloudFormation hands parameters on as text, which ministack compares with numbers, and its poller dies of it.

Usage: built.py WEBHOOK_DIRECTORY IMAGE TEMPLATE. Run by the SAM CLI's Python, whose YAML it is.
"""

import sys
from pathlib import Path

from samcli.yamlhelper import parse_yaml_file, yaml_dump

ROOT = Path(__file__).resolve().parents[2]

webhook, image, target = sys.argv[1:]
template = parse_yaml_file(str(ROOT / "template.yaml"))
resources = template["Resources"]
resources["WebhookFunction"]["Properties"]["CodeUri"] = webhook
resources["ScannerFunction"]["Properties"]["ImageUri"] = image
resources["SysdigCliLayer"]["Properties"]["ContentUri"] = str(ROOT / "layer")
mapping = resources["ScannerFunction"]["Properties"]["Events"]["Messages"]["Properties"]
mapping["BatchSize"] = template["Parameters"]["BatchSize"]["Default"]
mapping["ScalingConfig"]["MaximumConcurrency"] = template["Parameters"]["ScannerConcurrency"]["Default"]
Path(target).write_text(yaml_dump(template))
