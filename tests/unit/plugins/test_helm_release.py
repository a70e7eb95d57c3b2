# SPDX-License-Identifier: GPL-3.0-or-later
"""What helm remembers, what speaks for a change, and the ends of certificates."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _helm_release as releases
from ansible_collections.tokenlabs.platform.plugins.module_utils._charts import Chart

CHART = Chart("oci://docker.io/envoyproxy/gateway-helm", "v1.7.5")
WANTED = releases.Wanted("eg", "ns", CHART, {"a": {"b": 1}})


def secret(**changes: Any) -> dict[str, Any]:
    told = {
        "name": "eg",
        "namespace": "ns",
        "version": 3,
        "info": {"status": "deployed"},
        "chart": {"metadata": {"name": "gateway-helm", "version": "v1.7.5"}},
        "config": {"a": {"b": 1}},
        "manifest": "kind: X\n",
        **changes,
    }
    data = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(told).encode()))).decode()
    return {"metadata": {"namespace": "ns", "labels": {"version": "3"}}, "data": {"release": data}}


def test_a_record() -> None:
    record = releases.parse_record(secret())
    assert (record.name, record.revision, record.status, record.chart, record.version) == (
        "eg", 3, "deployed", "gateway-helm", "v1.7.5")  # fmt: skip
    assert releases.differences(record, WANTED) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chart": {"metadata": {"name": "gateway-helm", "version": "v1.6.7"}}}, "v1.6.7 -> gateway-helm v1.7.5"),
        ({"config": {"a": {"b": 2}}}, "other values"),
        ({"config": None}, "other values"),
        ({"info": {"status": "failed"}}, "ended as failed"),
    ],
)
def test_what_speaks_for_a_change(change: dict[str, Any], reason: str) -> None:
    (told,) = releases.differences(releases.parse_record(secret(**change)), WANTED)
    assert reason in told


def test_a_chart_from_another_source_is_another_file() -> None:
    other = Chart("oci://mirror/gateway-helm", "v1.7.5")
    assert CHART.name == other.name == "gateway-helm"
    assert CHART.file != other.file and CHART.file.startswith("gateway-helm-v1.7.5-")


def certificate(folder: Path, days: int) -> str:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(folder / "key"), "-subj", "/CN=x", "-days", str(days)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("days", [10, 365, 36500])
def test_the_end_of_a_certificate(tmp_path: Path, days: int) -> None:
    """36,500 days lead beyond 2049, where X.509 writes the year in another form."""
    pem, now = certificate(tmp_path, days), datetime.now(UTC)
    told = releases.certificate_end(pem)
    assert told and abs(datetime.fromisoformat(told) - now - timedelta(days=days)) < timedelta(minutes=5)
    assert releases.ends_soon(pem, days - 1, now) == ""
    assert releases.ends_soon(pem, days + 1, now).startswith("its certificate ends 2")


def test_what_is_no_certificate_is_renewed() -> None:
    assert releases.ends_soon("", 30, datetime.now(UTC)) == "its certificate cannot be read"
