# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook usage on a lab, with a real Prometheus that holds what the platform's parts would have told it."""

from __future__ import annotations

import csv
import io
import json
import time
import urllib.request
from pathlib import Path

from tests import prometheus
from tests.ports import free_port
from tests.scenarios import evidence
from tests.scenarios.conftest import REPO, kubectl, playbook

# The lab's own address, as seen from its hosts.
HERE = "10.77.255.254"
MODEL = "nvidia/Llama-3.1-Nemotron-Nano-8B-v1"


def recorded() -> str:
    """An hour of a tenant, a sample a minute."""
    now, lines = int(time.time()) // 60 * 60, ["# TYPE gen_ai unknown"]
    told = f'tenant_id="demo-pro",tenant_tier="pro",gen_ai_original_model="{MODEL}"'
    for name, more, step in (
        ("gen_ai_client_token_usage_token_sum", ',gen_ai_token_type="input"', 100),
        ("gen_ai_client_token_usage_token_sum", ',gen_ai_token_type="output"', 20),
        ("gen_ai_server_request_duration_seconds_count", "", 1),
    ):
        lines += [f"{name}{{{told}{more}}} {step * minute} {now - (90 - minute) * 60}" for minute in range(91)]
    return "\n".join([*lines, "# EOF"]) + "\n"


def ask_for_models(times: int) -> None:
    """Requests that count for the tenant's limit."""
    path = "jsonpath={.status.addresses[0].value}"
    address = kubectl("-n", "token-labs", "get", "gateway", "token-labs-gateway", "-o", path)
    key = (evidence.state() / "credentials/demo-pro.key").read_text()
    for _ in range(times):
        request = urllib.request.Request(f"http://{address}/v1/models", headers={"Authorization": f"Bearer {key}"})
        urllib.request.urlopen(request, timeout=10).close()


def test_the_report_and_its_files(tmp_path: Path) -> None:
    began = time.time()
    ask_for_models(3)
    with prometheus.running(tmp_path, recorded(), free_port(), HERE) as url:
        chosen = {"tokenlabs_observability": {"prometheus": "existing", "url": url, "namespace": "monitoring"}}
        asked = playbook("usage", "-e", json.dumps(chosen), "-e", "period=1h", "--tags", "files")
    assert asked.code == 0, asked.text
    (row,) = csv.DictReader(io.StringIO((REPO / "reports/usage.csv").read_text()))
    assert (row["tenant"], row["tier"], row["model"]) == ("demo-pro", "pro", MODEL)
    assert abs(int(row["tokens_in"]) - 6000) < 300 and abs(int(row["requests"]) - 60) < 4
    assert f"demo-pro  pro   {MODEL}" in asked.text
    assert "<svg" in (REPO / "reports/usage.html").read_text()
    told = json.loads((REPO / "reports/usage.json").read_text())
    left = {(each["what"], each["window"]): each for each in told["left"] if each["tenant"] == "demo-pro"}
    tokens, requests = left["tokens", 86400], left["requests", 86400]
    assert 0 < tokens["left"] <= tokens["limit"] == 500000
    assert requests["left"] <= 4997 < requests["limit"] == 5000, told["notes"]
    assert asked.changed == 0, asked.text
    assert evidence.writes(began) == []


def test_without_a_prometheus_it_says_what_to_do() -> None:
    refused = playbook("usage")
    assert refused.code != 0
    assert "Nobody has counted: the inventory names no Prometheus" in refused.text
