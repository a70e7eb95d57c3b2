# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts fire when they should and not otherwise, as Prometheus itself evaluates them; every runbook exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _dashboards, _observability

from tests import prometheus
from tests.unit.plugins.catalog.test_catalog import derive, model

REPO = Path(__file__).resolve().parents[2]
TIERS = {"free": {"requests": {"1m": 10, "24h": 100}, "tokens": {"1m": 50, "24h": 5000}}}
SIMULATOR = "ghcr.io/llm-d/llm-d-inference-sim:v0.7.1"


def catalog(way: str = "envoy") -> dict[str, Any]:
    return derive(
        [model("a"), model("b", engine="sim", image=SIMULATOR)],
        tokenlabs_token_limits=way,
        tokenlabs_observability={"prometheus": "stack"},
        tokenlabs_tiers=TIERS,
    )


def alerts(way: str = "envoy") -> list[dict[str, Any]]:
    return [rule for group in _observability.rules(catalog(way))["spec"]["groups"] for rule in group["rules"]]


NODE = 'kube_node_status_condition{condition="Ready",status="true",node="spark-01"}'
WORKER = 'kube_deployment_status_replicas_available{namespace="token-labs",deployment="ms-a-decode"}'
POD = 'namespace="token-labs",pod="ms-a-decode-7d9-x"'
TOKENS = "gen_ai_client_token_usage_token_sum"
BY = 'tenant_id="acme",tenant_tier="free"'
REQUESTS = 'authorized_hits{user="acme",tier="free",limitador_namespace="token-labs/llm-inference"}'
# Alert -> series by which it fires in the end, series by which it does not, minutes until then.
CASES: dict[str, tuple[dict[str, str], dict[str, str], int]] = {
    "NodeNotReady": ({NODE: "1 0x10"}, {NODE: "1 0x1 1x10"}, 6),
    "GpuHot": (
        {'DCGM_FI_DEV_GPU_TEMP{Hostname="spark-01",gpu="0"}': "91x20"},
        {'DCGM_FI_DEV_GPU_TEMP{Hostname="spark-01",gpu="0"}': "84x20"},
        10,
    ),
    "RedisDown": (
        {'kube_statefulset_status_replicas_ready{namespace="redis-system",statefulset="redis"}': "0x10"},
        {'kube_statefulset_status_replicas_ready{namespace="redis-system",statefulset="redis"}': "1x10"},
        5,
    ),
    "PolicyNotEnforced": (
        {'kuadrant_policies_enforced{kind="AuthPolicy",status="false"}': "1x20"},
        {
            'kuadrant_policies_enforced{kind="AuthPolicy",status="false"}': "0x20",
            'kuadrant_policies_enforced{kind="AuthPolicy",status="true"}': "1x20",
        },
        10,
    ),
    "RequestsWithoutPolicy": ({"kuadrant_misses": "0x5 3x10"}, {"kuadrant_misses": "3x20"}, 8),
    "LimitadorDown": ({"limitador_up": "0x10"}, {"limitador_up": "1x10"}, 5),
    "CertificateExpiring": (
        {"envoy_server_days_until_first_cert_expiring": "12x90"},
        {"envoy_server_days_until_first_cert_expiring": "40x90"},
        80,
    ),
    "GatewayErrors": (
        {
            'envoy_http_downstream_rq_xx{envoy_response_code_class="5"}': "0+10x20",
            'envoy_http_downstream_rq_xx{envoy_response_code_class="2"}': "0+90x20",
        },
        {
            'envoy_http_downstream_rq_xx{envoy_response_code_class="5"}': "0x20",
            'envoy_http_downstream_rq_xx{envoy_response_code_class="2"}': "0+90x20",
        },
        15,
    ),
    "ModelDown": ({WORKER: "0x10"}, {WORKER: "1x10"}, 5),
    "ModelQueue": (
        {f"vllm:num_requests_waiting{{{POD}}}": "9x30"},
        {f"vllm:num_requests_waiting{{{POD}}}": "2x30"},
        20,
    ),
    "ModelCacheFull": (
        {f"vllm:kv_cache_usage_perc{{{POD}}}": "0.97x20"},
        {f"vllm:kv_cache_usage_perc{{{POD}}}": "0.5x20"},
        10,
    ),
    "QuotaNearlyUsed": (
        {
            f'{TOKENS}{{{BY},gen_ai_token_type="input"}}': "0+20x120",
            f'{TOKENS}{{{BY},gen_ai_token_type="output"}}': "0+20x120",
        },
        # Cached tokens are a part of the input, and another tier has another limit.
        {
            f'{TOKENS}{{{BY},gen_ai_token_type="cached_input"}}': "0+50x120",
            f'{TOKENS}{{tenant_id="acme",tenant_tier="pro",gen_ai_token_type="output"}}': "0+50x120",
        },
        110,
    ),
}


def test_every_alert_has_a_case() -> None:
    assert {f"TokenLabs{name}" for name in CASES} == {rule["alert"] for rule in alerts()}


def fires(name: str, series: dict[str, str], minutes: int, expected: bool, way: str = "envoy") -> dict[str, Any]:
    """A promtool test that an alert fires, by how often ALERTS says so."""
    expr = f'min(ALERTS{{alertname="TokenLabs{name}",alertstate="firing"}}) or vector(0)'
    return {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{minutes}m", "exp_samples": [{"labels": "{}", "value": int(expected)}]}
        ],
    }


def test_each_alert_fires_for_its_cause_alone(tmp_path: Path) -> None:
    tests = []
    for name, (bad, good, minutes) in CASES.items():
        # Without any series Limitador is as good as down; it is not what the other cases are about.
        up = {} if name == "LimitadorDown" else {"limitador_up": f"1x{minutes}"}
        tests += [fires(name, {**up, **bad}, minutes, True), fires(name, {**up, **good}, minutes, False)]
    tests.append(fires("LimitadorDown", {"up": "1x10"}, 5, True))
    prometheus.check_alerts(tmp_path, _observability.rules(catalog())["spec"], tests)


@pytest.mark.parametrize("way", ["envoy", "kuadrant"])
def test_requests_count_for_the_quota_and_kuadrants_tokens_do_not_count_as_requests(way: str, tmp_path: Path) -> None:
    tokens = REQUESTS.replace("}", ',model="org/a"}')
    tests = [
        fires("QuotaNearlyUsed", {REQUESTS: "0+1x120"}, 110, True),
        fires("QuotaNearlyUsed", {REQUESTS: "0+1x60"}, 59, False),
        # 11,900 tokens are over 80 % of 5,000, where Kuadrant counts tokens; they are never requests.
        fires("QuotaNearlyUsed", {tokens: "0+100x120"}, 110, way == "kuadrant"),
        fires("QuotaNearlyUsed", {tokens: "0+10x120"}, 110, False),
    ]
    prometheus.check_alerts(tmp_path, _observability.rules(catalog(way))["spec"], tests)


def test_windows_of_a_minute_raise_no_alarm() -> None:
    assert {rule["labels"]["limit"] for rule in alerts() if "limit" in rule["labels"]} == {"requests/24h", "tokens/24h"}


def anchors(text: str) -> set[str]:
    """The anchors that a forge makes of headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower().strip()).replace(" ", "-") for heading in headings}


def test_every_runbook_exists() -> None:
    known = anchors((REPO / "docs/troubleshooting.md").read_text())
    for rule in alerts():
        page, _separator, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page.endswith("/docs/troubleshooting.md")
        assert anchor in known, rule["alert"]


@pytest.mark.parametrize("way", ["envoy", "kuadrant"])
def test_every_line_of_a_dashboard_is_an_expression(way: str, tmp_path: Path) -> None:
    found = [json.loads(text) for each in _dashboards.config_maps(catalog(way)) for text in each["data"].values()]
    panels = [panel for board in found for panel in board["panels"]]
    expressions = [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel["targets"]]
    assert len(expressions) > 30
    prometheus.check_expressions(tmp_path, expressions)


def test_dashboards_have_names_of_their_own_and_panels_lie_side_by_side() -> None:
    found = [json.loads(text) for each in _dashboards.config_maps(catalog()) for text in each["data"].values()]
    assert len({board["uid"] for board in found}) == len({board["title"] for board in found}) == 4
    for board in found:
        places = [panel["gridPos"] for panel in board["panels"]]
        cells = [(place["x"], place["y"]) for place in places]
        assert len(set(cells)) == len(cells)
        assert all(place["x"] + place["w"] <= 24 for place in places)
        assert len({panel["id"] for panel in board["panels"]}) == len(places)
