# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One helm release: what helm remembers of it, what speaks for a change, and the commands.

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._charts import Chart
from ansible_collections.tokenlabs.platform.plugins.module_utils._drift import Drift
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import Kube
from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import certificate_end

HISTORY = 5


@dataclass(frozen=True)
class Record:
    """What helm remembers of a release (helm/helm v3.19.5 pkg/release/release.go)."""

    name: str
    namespace: str
    revision: int
    status: str
    chart: str = ""
    version: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: str = field(default="", repr=False)


def payload(secret: Mapping[str, Any]) -> dict[str, Any]:
    """What a revision's Secret holds: JSON, compressed, in base64 twice; KeyError, ValueError or OSError if not."""
    raw = base64.b64decode(base64.b64decode(secret["data"]["release"]))
    found: dict[str, Any] = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    return found


def parse_record(secret: Mapping[str, Any]) -> Record:
    """The Secret in which helm 3 keeps a revision."""
    told = payload(secret)
    about = (told.get("chart") or {}).get("metadata") or {}
    return Record(
        told["name"],
        told.get("namespace") or secret["metadata"]["namespace"],
        int(told.get("version") or 0),
        told["info"]["status"],
        about.get("name", ""),
        about.get("version", ""),
        told.get("config") or {},
        told.get("manifest") or "",
    )


def newest(kube: Kube, namespace: str, name: str) -> Record | None:
    """The last revision of a release, in whatever state; None where there is none, or it was uninstalled."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    secrets = kube.list(path, label_selector=f"owner=helm,name={name}", field_selector="type=helm.sh/release.v1")
    if not secrets:
        return None
    last = max(secrets, key=lambda secret: int(secret["metadata"]["labels"]["version"]))
    record = parse_record(last)
    return None if record.status == "uninstalled" else record


@dataclass(frozen=True)
class Wanted:
    """A release as it shall be."""

    name: str
    namespace: str
    chart: Chart
    values: Mapping[str, Any] = field(default_factory=dict)
    skip_crds: bool = False
    timeout: int = 300

    def upgrade(self, chart: str, values: str) -> list[str]:
        """Install, or bring to exactly this; values of earlier times are forgotten."""
        command = ["upgrade", self.name, chart, "--install", "--namespace", self.namespace, "--create-namespace"]
        command += [
            "--reset-values",
            "--values",
            values,
            "--history-max",
            str(HISTORY),
            "--timeout",
            f"{self.timeout}s",
        ]
        return command + (["--skip-crds"] if self.skip_crds else [])

    def diff(self, chart: str, values: str) -> list[str]:
        """Against what is there. It takes dry-run writes, so it is only asked when something speaks for a change."""
        command = ["diff", "upgrade", self.name, chart, "--namespace", self.namespace, "--reset-values"]
        command += ["--values", values, "--three-way-merge", "--detailed-exitcode", "--suppress-secrets"]
        return [*command, "--no-color", "--context", "3", "--allow-unreleased"]


def differences(record: Record | None, wanted: Wanted) -> list[str]:
    """What of the record is other than wanted, for people."""
    if record is None:
        return ["it is not installed"]
    found = []
    chart = wanted.chart
    if (record.chart, record.version) != (chart.name, chart.version):
        found.append(f"chart {record.chart} {record.version} -> {chart.name} {chart.version}")
    if _plain(record.config) != _plain(wanted.values):
        found.append("other values")
    if record.status != "deployed":
        found.append(f"its last change ended as {record.status}")
    return found


def _plain(value: Any) -> Any:
    """As helm's JSON has it: no empty maps by null, numbers alike."""
    return json.loads(json.dumps(value or {}, sort_keys=True))


def told(found: Drift) -> list[str]:
    return [f"{name} is gone" for name in found.missing] + [f"{name} was changed" for name in found.other]


def ends_soon(pem: str, days: int, now: datetime) -> str:
    """Why a certificate has to be renewed; empty when it has not."""
    try:
        told = certificate_end(pem)
    except ValueError:
        told = None
    if told is None:
        return "its certificate cannot be read"
    end = datetime.fromisoformat(told)
    return f"its certificate ends {end:%Y-%m-%d}" if end - now < timedelta(days=days) else ""
