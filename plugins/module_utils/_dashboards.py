# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Grafana's dashboards of the platform, derived from the catalog. Pure, and private to the collection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._observability import counted

Data = dict[str, Any]
Catalog = Mapping[str, Any]

SPAN = "[$__rate_interval]"
COLUMNS, HEIGHT = 24, 8
# By this label Grafana's sidecar finds dashboards (prometheus-community/helm-charts charts/kube-prometheus-stack).
LABEL = {"grafana_dashboard": "1"}


@dataclass(frozen=True)
class Panel:
    """One graph: its lines, each an expression with what it is called."""

    title: str
    lines: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12


def boards(catalog: Catalog) -> dict[str, tuple[str, Sequence[Panel]]]:
    """Name -> title and panels."""
    return {
        "tenants": ("TokenLabs: tenants and tokens", _tenants(catalog)),
        "models": ("TokenLabs: models and latency", _models(catalog)),
        "gpu": ("TokenLabs: GPU and memory", _gpu()),
        "gateway": ("TokenLabs: gateway and policies", _gateway()),
    }


def _tenants(catalog: Catalog) -> list[Panel]:
    way = catalog["token_limits"]
    requests, tokens = counted("requests", way, SPAN), counted("tokens", way, SPAN)
    day = counted("tokens", way, "[1d]")
    kinds = 'gen_ai_token_type=~"input|output"'
    rate = f"rate(gen_ai_client_token_usage_token_sum{{{kinds}}}{SPAN})"
    return [
        Panel("Requests by tenant", ((f"sum by (tenant) ({requests})", "{{tenant}}"),)),
        Panel("Requests over a limit, by tenant", ((f"sum by (user) (increase(limited_calls{SPAN}))", "{{user}}"),)),
        Panel("Tokens by tenant", ((f"sum by (tenant) ({tokens})", "{{tenant}}"),)),
        Panel("Tokens by tier", ((f"sum by (tier) ({tokens})", "{{tier}}"),)),
        Panel("Tokens in and out, a second", ((f"sum by (gen_ai_token_type) ({rate})", "{{gen_ai_token_type}}"),)),
        Panel(
            "Ten tenants with most tokens in a day",
            ((f"topk(10, sum by (tenant) ({day}))", "{{tenant}}"),),
            kind="bargauge",
        ),
    ]


def _models(catalog: Catalog) -> list[Panel]:
    space = catalog["gateway"]["namespace"]

    def quantile(metric: str, share: float, by: str = "model_name") -> str:
        return f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{SPAN})))"

    ready = f'kube_deployment_status_replicas_available{{namespace="{space}",deployment=~"ms-.+"}}'
    first, whole = "vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds"
    return [
        Panel("Workers that can be used", ((ready, "{{deployment}}"),), kind="stat"),
        Panel("Pods that pickers know", (("inference_pool_ready_pods", "{{name}}"),), kind="stat"),
        Panel(
            "Time to the first token",
            tuple((quantile(first, share), f"{{{{model_name}}}} {share:.0%}") for share in (0.5, 0.99)),
            "s",
        ),
        Panel(
            "Time of a whole request",
            tuple((quantile(whole, share), f"{{{{model_name}}}} {share:.0%}") for share in (0.5, 0.99)),
            "s",
        ),
        Panel(
            "Requests that run and wait",
            (
                ("sum by (model_name) (vllm:num_requests_running)", "{{model_name}} running"),
                ("sum by (model_name) (vllm:num_requests_waiting)", "{{model_name}} waiting"),
            ),
        ),
        Panel(
            "KV cache in use",
            (("max by (model_name, pod) (vllm:kv_cache_usage_perc)", "{{model_name}} {{pod}}"),),
            "percentunit",
        ),
        Panel(
            "Tokens a second",
            (
                (f"sum by (model_name) (rate(vllm:prompt_tokens_total{SPAN}))", "{{model_name}} read"),
                (f"sum by (model_name) (rate(vllm:generation_tokens_total{SPAN}))", "{{model_name}} written"),
            ),
        ),
        Panel(
            "Requests that ended, by reason",
            (
                (
                    f"sum by (model_name, finished_reason) (rate(vllm:request_success_total{SPAN}))",
                    "{{model_name}} {{finished_reason}}",
                ),
            ),
        ),
    ]


def _gpu() -> list[Panel]:
    # The memory of a GB10 is the host's: the GPU's own gauges of it say nothing.
    memory = "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"
    return [
        Panel("GPU in use", (("max by (Hostname) (DCGM_FI_DEV_GPU_UTIL)", "{{Hostname}}"),), "percent"),
        Panel("Temperature", (("max by (Hostname) (DCGM_FI_DEV_GPU_TEMP)", "{{Hostname}}"),), "celsius"),
        Panel("Power", (("sum by (Hostname) (DCGM_FI_DEV_POWER_USAGE)", "{{Hostname}}"),), "watt"),
        Panel("Clock", (("max by (Hostname) (DCGM_FI_DEV_SM_CLOCK)", "{{Hostname}}"),), "mhz"),
        Panel("Memory of hosts in use (GB10: also the GPU's)", ((memory, "{{instance}}"),), "percentunit"),
        Panel(
            "Nodes that are Ready",
            (('sum by (node) (kube_node_status_condition{condition="Ready",status="true"})', "{{node}}"),),
            kind="stat",
        ),
    ]


def _gateway() -> list[Panel]:
    classes = f"sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx{SPAN}))"
    slow = f"histogram_quantile(0.99, sum by (le) (rate(envoy_http_downstream_rq_time_bucket{SPAN})))"
    wasm = '{__name__=~"(envoy_)?(wasmcustom_)?kuadrant_(allowed|denied|errors|misses)"}'
    return [
        Panel("Answers a second, by class", ((classes, "{{envoy_response_code_class}}xx"),)),
        Panel("Time of 99 % of the answers", ((slow, "99%"),), "ms"),
        Panel(
            "Policies that are enforced, or not",
            (("sum by (kind, status) (kuadrant_policies_enforced)", "{{kind}} {{status}}"),),
            kind="stat",
        ),
        Panel("What Kuadrant's filter did", ((f"sum by (__name__) (increase({wasm}{SPAN}))", "{{__name__}}"),)),
        Panel(
            "Keys checked, by outcome", ((f"sum by (status) (rate(auth_server_response_status{SPAN}))", "{{status}}"),)
        ),
        Panel(
            "Limitador",
            (
                ("min(limitador_up)", "up"),
                (f"sum(rate(authorized_calls{SPAN}))", "let in"),
                (f"sum(rate(limited_calls{SPAN}))", "over a limit"),
            ),
        ),
        Panel(
            "Certificate that ends first", (("min(envoy_server_days_until_first_cert_expiring)", "days"),), "d", "stat"
        ),
        Panel(
            "Redis",
            (('kube_statefulset_status_replicas_ready{namespace="redis-system",statefulset="redis"}', "ready"),),
            kind="stat",
        ),
    ]


def _panel(number: int, panel: Panel) -> Data:
    across = COLUMNS // panel.width
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {
            "h": HEIGHT,
            "w": panel.width,
            "x": number % across * panel.width,
            "y": number // across * HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend}
            for index, (expr, legend) in enumerate(panel.lines)
        ],
    }


def dashboard(name: str, title: str, panels: Sequence[Panel]) -> Data:
    """A dashboard as Grafana loads it."""
    return {
        "uid": f"tokenlabs-{name}",
        "title": title,
        "tags": ["tokenlabs"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def config_maps(catalog: Catalog) -> list[Data]:
    """One ConfigMap for each dashboard."""
    labels = {"app.kubernetes.io/managed-by": "tokenlabs", **LABEL}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"tokenlabs-dashboard-{name}",
                "namespace": catalog["observability"]["namespace"],
                "labels": labels,
            },
            "data": {f"tokenlabs-{name}.json": json.dumps(dashboard(name, title, panels), indent=1)},
        }
        for name, (title, panels) in boards(catalog).items()
    ]
