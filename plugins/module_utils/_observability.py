# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus reads of the platform, and when it raises an alarm, derived from the catalog. Pure, and private to
the collection.

Names, labels and ports of others' objects are those of Kuadrant/limitador-operator v0.17.1 and
Kuadrant/authorino-operator v0.26 (pkg), envoyproxy/gateway v1.7.5 (internal/infrastructure/kubernetes/proxy),
envoyproxy/ai-gateway v0.5.0 (internal/controller/gateway_mutator.go), NVIDIA/gpu-operator v25.10.1 (assets) and
kubernetes-sigs/gateway-api-inference-extension v1.3.0 (config/charts/inferencepool).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._limits import window_seconds

Data = dict[str, Any]
Catalog = Mapping[str, Any]

MONITORING = "monitoring.coreos.com/v1"
ENVOY_SYSTEM, KUADRANT_SYSTEM, GPU_SYSTEM = "envoy-gateway-system", "kuadrant-system", "gpu-operator"
AI_GATEWAY_SYSTEM = "envoy-ai-gateway-system"
# Pickers ask the API server who reads their metrics, and whether he may.
READER = "tokenlabs-metrics-reader"
DOCUMENTS = "https://github.com/tokenlabs/platform/blob/main/docs/troubleshooting.md"
INTERVAL = "30s"
# For each tenant and model, which nobody asks for: the sums are enough.
HEAVY = "gen_ai_client_token_usage_token_bucket|gen_ai_server_time_per_output_token_seconds_bucket"
QUOTA_SHARE = 0.8
# A tenant that uses up a limit of a minute is what such a limit is for.
SHORTEST_WINDOW = 3600
GPU_HOT = 85
CERTIFICATE_DAYS = 30


# --- What is read -----------------------------------------------------------------------------------------------------


def monitors(catalog: Catalog) -> list[Data]:
    """ServiceMonitors and PodMonitors of everything that the platform has."""
    gateway = catalog["gateway"]
    models = catalog["models"]
    found = [
        _services("limitador", KUADRANT_SYSTEM, {"app": "limitador", "limitador-resource": "limitador"}, "http"),
        _services(
            "authorino",
            KUADRANT_SYSTEM,
            {"authorino-resource": "authorino", "app.kubernetes.io/component": "metrics"},
            "http",
            ("/metrics", "/server-metrics"),
        ),
        # Of three Services with these labels, one has this port.
        _services(
            "kuadrant-operator", KUADRANT_SYSTEM, {"app": "kuadrant", "control-plane": "controller-manager"}, "metrics"
        ),
        _services("envoy-gateway", ENVOY_SYSTEM, {"control-plane": "envoy-gateway"}, "metrics"),
        _services("ai-gateway", AI_GATEWAY_SYSTEM, {"app.kubernetes.io/instance": "aieg"}, "http-metrics"),
        _services("gpu", GPU_SYSTEM, {"app": "nvidia-dcgm-exporter"}, "gpu-metrics"),
        _pods(
            "envoy",
            ENVOY_SYSTEM,
            _labelled(
                {
                    "app.kubernetes.io/name": "envoy",
                    "app.kubernetes.io/component": "proxy",
                    "gateway.envoyproxy.io/owning-gateway-name": gateway["name"],
                    "gateway.envoyproxy.io/owning-gateway-namespace": gateway["namespace"],
                }
            ),
            [
                _endpoint("metrics", "/stats/prometheus"),
                {
                    **_endpoint("aigw-admin", "/metrics"),
                    "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": HEAVY, "action": "drop"}],
                },
            ],
        ),
    ]
    if catalog["token_limits"] == "envoy":
        found.append(
            _services("envoy-ratelimit", ENVOY_SYSTEM, {"app.kubernetes.io/name": "envoy-ratelimit"}, "metrics")
        )
    for path in dict.fromkeys(_path(model) for model in models):
        names = sorted(model["label"] for model in models if _path(model) == path)
        suffix = "" if path == "/metrics" else path.removesuffix("/metrics").replace("/", "-")
        found.append(
            _pods(f"models{suffix}", gateway["namespace"], _one_of("llm-d.ai/model", names), [_endpoint("http", path)])
        )
    if models:
        names = [model["picker"] for model in models]
        token = {"type": "Bearer", "credentials": {"name": READER, "key": "token"}}
        found.append(
            _monitor(
                "ServiceMonitor",
                "pickers",
                gateway["namespace"],
                _one_of("app.kubernetes.io/name", names),
                {"endpoints": [{**_endpoint("http-metrics", "/metrics"), "authorization": token}]},
            )
        )
    return [_placed(each, catalog) for each in found]


def gone(catalog: Catalog) -> list[Data]:
    """Monitors that another catalog would have and this one has not."""
    kinds = {
        "envoy-ratelimit": "ServiceMonitor",
        "pickers": "ServiceMonitor",
        "models": "PodMonitor",
        "models-prometheus": "PodMonitor",
    }
    present = {each["metadata"]["name"] for each in monitors(catalog)}
    namespace = catalog["observability"]["namespace"]
    return [
        {
            "apiVersion": MONITORING,
            "kind": kind,
            "metadata": {"name": f"tokenlabs-{name}", "namespace": namespace},
        }
        for name, kind in kinds.items()
        if f"tokenlabs-{name}" not in present
    ]


def _path(model: Mapping[str, Any]) -> str:
    return str(model.get("metrics_path") or "/metrics")


def _labelled(labels: Mapping[str, str]) -> Data:
    return {"matchLabels": dict(labels)}


def _one_of(label: str, values: Iterable[str]) -> Data:
    return {"matchExpressions": [{"key": label, "operator": "In", "values": list(values)}]}


def _endpoint(port: str, path: str) -> Data:
    return {"port": port, "path": path, "interval": INTERVAL}


def _services(
    name: str, namespace: str, labels: Mapping[str, str], port: str, paths: Iterable[str] = ("/metrics",)
) -> Data:
    endpoints = {"endpoints": [_endpoint(port, path) for path in paths]}
    return _monitor("ServiceMonitor", name, namespace, _labelled(labels), endpoints)


def _pods(name: str, namespace: str, selector: Data, endpoints: list[Data]) -> Data:
    return _monitor("PodMonitor", name, namespace, selector, {"podMetricsEndpoints": endpoints})


def _monitor(kind: str, name: str, namespace: str, selector: Data, endpoints: Data) -> Data:
    return {
        "apiVersion": MONITORING,
        "kind": kind,
        "metadata": {"name": f"tokenlabs-{name}"},
        "spec": {"namespaceSelector": {"matchNames": [namespace]}, "selector": selector, **endpoints},
    }


def _placed(item: Data, catalog: Catalog) -> Data:
    """In the namespace, and under the labels, by which Prometheus finds it."""
    chosen = catalog["observability"]
    labels = {"app.kubernetes.io/managed-by": "tokenlabs", **chosen["labels"]}
    return {**item, "metadata": {**item["metadata"], "namespace": chosen["namespace"], "labels": labels}}


def access(catalog: Catalog) -> list[Data]:
    """Who may read the pickers' metrics, and that pickers may ask about it."""
    chosen, labels = catalog["observability"], {"app.kubernetes.io/managed-by": "tokenlabs"}
    role, subject = (
        "rbac.authorization.k8s.io",
        {"kind": "ServiceAccount", "namespace": catalog["gateway"]["namespace"]},
    )
    account = {"name": READER, "namespace": chosen["namespace"], "labels": labels}

    def binding(name: str, to: str, subjects: list[Data]) -> Data:
        return {
            "apiVersion": f"{role}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name, "labels": labels},
            "roleRef": {"apiGroup": role, "kind": "ClusterRole", "name": to},
            "subjects": subjects,
        }

    pickers = [{**subject, "name": model["picker"]} for model in catalog["models"]]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {**account, "annotations": {"kubernetes.io/service-account.name": READER}},
        },
        {
            "apiVersion": f"{role}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": READER, "labels": labels},
            "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
        },
        binding(READER, READER, [{**subject, "name": READER, "namespace": chosen["namespace"]}]),
        binding("tokenlabs-pickers", "system:auth-delegator", pickers),
    ]


# --- When it raises an alarm ------------------------------------------------------------------------------------------


def rules(catalog: Catalog) -> Data:
    """One PrometheusRule with all alerts of the platform."""
    groups = {
        "tokenlabs-cluster": _cluster_alerts(),
        "tokenlabs-gateway": _gateway_alerts(),
        "tokenlabs-models": [alert for model in catalog["models"] for alert in _model_alerts(model, catalog)],
        "tokenlabs-tenants": _quota_alerts(catalog),
    }
    spec = {"groups": [{"name": name, "rules": alerts} for name, alerts in groups.items() if alerts]}
    metadata = {"name": "tokenlabs"}
    return _placed({"apiVersion": MONITORING, "kind": "PrometheusRule", "metadata": metadata, "spec": spec}, catalog)


def _alert(name: str, expr: str, lasting: str, severity: str, anchor: str, summary: str, **labels: str) -> Data:
    return {
        "alert": f"TokenLabs{name}",
        "expr": expr,
        "for": lasting,
        "labels": {"severity": severity, **labels},
        "annotations": {"summary": summary, "runbook_url": f"{DOCUMENTS}#{anchor}"},
    }


def _cluster_alerts() -> list[Data]:
    return [
        _alert(
            "NodeNotReady",
            'kube_node_status_condition{condition="Ready",status="true"} == 0',
            "2m",
            "critical",
            "a-node-is-not-ready",
            "Node {{ $labels.node }} is not Ready",
        ),
        _alert(
            "GpuHot",
            f"max by (Hostname, gpu) (DCGM_FI_DEV_GPU_TEMP) > {GPU_HOT}",
            "5m",
            "warning",
            "a-gpu-is-hot",
            "GPU {{ $labels.gpu }} of {{ $labels.Hostname }} has {{ $value }} degrees",
        ),
        _alert(
            "RedisDown",
            'kube_statefulset_status_replicas_ready{namespace="redis-system",statefulset="redis"} < 1',
            "1m",
            "critical",
            "redis-is-down",
            "Redis is down: limits are not enforced",
        ),
    ]


def _gateway_alerts() -> list[Data]:
    return [
        _alert(
            "PolicyNotEnforced",
            'sum by (kind) (kuadrant_policies_enforced{status="false"}) > 0',
            "5m",
            "critical",
            "a-policy-is-not-enforced",
            "{{ $value }} {{ $labels.kind }} not enforced",
        ),
        # Envoy writes counters of filters with or without a prefix of its own, by version.
        _alert(
            "RequestsWithoutPolicy",
            'sum(increase({__name__=~"(envoy_)?(wasmcustom_)?kuadrant_misses"}[5m])) > 0',
            "0m",
            "critical",
            "requests-that-no-policy-saw",
            "{{ $value }} requests matched no policy in five minutes",
        ),
        _alert(
            "LimitadorDown",
            "min(limitador_up) == 0 or absent(limitador_up)",
            "2m",
            "critical",
            "limitador-is-down",
            "Limitador is down: limits are not enforced",
        ),
        _alert(
            "CertificateExpiring",
            f"min(envoy_server_days_until_first_cert_expiring) < {CERTIFICATE_DAYS}",
            "1h",
            "warning",
            "a-certificate-ends-soon",
            "A certificate of the gateway ends in {{ $value }} days",
        ),
        _alert(
            "GatewayErrors",
            'sum(rate(envoy_http_downstream_rq_xx{envoy_response_code_class="5"}[5m])) '
            "/ sum(rate(envoy_http_downstream_rq_xx[5m])) > 0.01",
            "5m",
            "critical",
            "the-gateway-answers-with-errors",
            "{{ $value | humanizePercentage }} of the gateway's answers are errors",
        ),
    ]


def _model_alerts(model: Mapping[str, Any], catalog: Catalog) -> list[Data]:
    name, space = model["name"], catalog["gateway"]["namespace"]
    pods = f'namespace="{space}",pod=~"{model["deployment"]}-.+"'
    down = f'kube_deployment_status_replicas_available{{namespace="{space}",deployment="{model["deployment"]}"}} < 1'
    found = [
        _alert("ModelDown", down, "2m", "critical", "a-model-is-down", f"Model {name} has no worker", model=name),
    ]
    queue, cache = METRICS.get(model["engine"], METRICS["vllm"])
    found += [
        _alert(
            "ModelQueue",
            f"sum({queue}{{{pods}}}) > 5",
            "10m",
            "warning",
            "a-model-is-overloaded",
            f"{{{{ $value }}}} requests wait for model {name}",
            model=name,
        ),
        _alert(
            "ModelCacheFull",
            f"max({cache}{{{pods}}}) > 0.9",
            "5m",
            "warning",
            "a-model-is-overloaded",
            f"The KV cache of model {name} is {{{{ $value | humanizePercentage }}}} full",
            model=name,
        ),
    ]
    return found if model["engine"] in METRICS else found[:1]


# What each engine calls the requests that wait, and the share of its cache in use
# (vllm-project/vllm v0.13 vllm/v1/metrics/loggers.py; sgl-project/sglang python/sglang/srt/metrics/collector.py).
METRICS = {
    "vllm": ("vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    "sim": ("vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    "sglang": ("sglang:num_queue_reqs", "sglang:token_usage"),
}


def used(what: str, tier: str, token_limits: str, window: int) -> str:
    """What each tenant of a tier has used in the last seconds, as ``tenant``."""
    return f"sum by (tenant) ({counted(what, token_limits, f'[{window}s]', tier)})"


def counted(what: str, token_limits: str, span: str, tier: str = "") -> str:
    """How often requests or tokens were counted, with the labels ``tenant`` and ``tier``.

    Limitador counts a hit for each request that it let in. With Kuadrant's token limits it also counts tokens as hits,
    which alone have a model. Envoy's tokens are those of the AI gateway.
    """
    where = f'tier="{tier}",' if tier else ""
    if what == "requests":
        inner = f'increase(authorized_hits{{{where}model="",user!=""}}{span})'
    elif token_limits == "kuadrant":
        inner = f'increase(authorized_hits{{{where}model!="",user!=""}}{span})'
    else:
        where = f'tenant_tier="{tier}",' if tier else ""
        kinds = 'gen_ai_token_type=~"input|output"'
        inner = f'increase(gen_ai_client_token_usage_token_sum{{{where}tenant_id!="",{kinds}}}{span})'
        inner = f'label_replace({inner}, "tier", "$1", "tenant_tier", "(.*)")'
        return f'label_replace({inner}, "tenant", "$1", "tenant_id", "(.*)")'
    return f'label_replace({inner}, "tenant", "$1", "user", "(.*)")'


def _quota_alerts(catalog: Catalog) -> list[Data]:
    return [
        _alert(
            "QuotaNearlyUsed",
            f"{used(what, tier, catalog['token_limits'], window_seconds(window))} > {QUOTA_SHARE * limit:g}",
            "0m",
            "info",
            "a-tenant-has-nearly-used-its-quota",
            f"Tenant {{{{ $labels.tenant }}}} has used {{{{ $value | humanize }}}} of {limit} {what} in {window}",
            tier=tier,
            limit=f"{what}/{window}",
        )
        for tier, limits in sorted(catalog["tiers"].items())
        for what in ("requests", "tokens")
        for window, limit in limits[what].items()
        if window_seconds(window) >= SHORTEST_WINDOW
    ]
