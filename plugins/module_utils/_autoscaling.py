# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Autoscalers of models, and what prometheus-adapter makes of their metrics. Pure, and private to the collection.

Two things are wrong in most examples: the adapter keeps one value for a pod, the last one, unless the query adds them
up (kubernetes-sigs/prometheus-adapter v0.12.0 pkg/custom-provider/series_registry.go), and one metric without a value
keeps a HorizontalPodAutoscaler from ever scaling down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.tokenlabs.platform.plugins.module_utils._observability import METRICS

Data = dict[str, Any]
Catalog = Mapping[str, Any]

LABELS = {"app.kubernetes.io/managed-by": "tokenlabs"}
# By which workers are added: so many requests wait for each, or so much of the cache is in use.
QUEUE, CACHE = "5", "850m"
# A worker takes minutes to start, and to stop one that is needed a minute later costs them again.
BEHAVIOR = {
    "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 90}]},
    "scaleDown": {"stabilizationWindowSeconds": 300, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}]},
}
# How the two metrics become one number for a pod: what waits is added up, of the cache the fullest part counts.
QUERIES = (
    "sum(avg_over_time(<<.Series>>{<<.LabelMatchers>>}[30s])) by (<<.GroupBy>>)",
    "max(max_over_time(<<.Series>>{<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)",
)


def scaled(catalog: Catalog) -> list[Mapping[str, Any]]:
    """The models that have an autoscaler."""
    return [model for model in catalog["models"] if model.get("max_replicas")]


def metric(series: str) -> str:
    """``vllm:num_requests_waiting`` as the metrics API names it."""
    return series.replace(":", "_")


def autoscaler(model: Mapping[str, Any], namespace: str) -> Data:
    """The HorizontalPodAutoscaler of a model."""

    def target(series: str, value: str) -> Data:
        named = {"metric": {"name": metric(series)}, "target": {"type": "AverageValue", "averageValue": value}}
        return {"type": "Pods", "pods": named}

    queue, cache = METRICS[model["engine"]]
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": model["release"], "namespace": namespace, "labels": LABELS},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": model["deployment"]},
            "minReplicas": model["replicas"],
            "maxReplicas": model["max_replicas"],
            "metrics": [target(queue, QUEUE), target(cache, CACHE)],
            "behavior": BEHAVIOR,
        },
    }


def autoscalers(catalog: Catalog) -> list[Data]:
    return [autoscaler(model, catalog["gateway"]["namespace"]) for model in scaled(catalog)]


def adapter_values(catalog: Catalog) -> Data:
    """Values of the chart prometheus-adapter: our metrics and no other, from our Prometheus."""
    server = urlsplit(catalog["observability"]["url"] or "")
    series = dict.fromkeys(METRICS[model["engine"]] for model in scaled(catalog))
    return {
        "prometheus": {
            "url": f"{server.scheme}://{server.hostname}",
            "port": server.port or (443 if server.scheme == "https" else 80),
            "path": server.path,
        },
        "metricsRelistInterval": "30s",
        "rules": {
            "default": False,
            "custom": [
                {
                    "seriesQuery": f'{{__name__="{name}",namespace!="",pod!=""}}',
                    "resources": {
                        "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}},
                    },
                    "name": {"matches": f"^{re.escape(name)}$", "as": metric(name)},
                    "metricsQuery": query,
                }
                for pair in series
                for name, query in zip(pair, QUERIES, strict=True)
            ],
        },
    }


def left_over(live: list[Mapping[str, Any]], catalog: Catalog) -> list[Data]:
    """Autoscalers of ours whose model is gone, or shall have none."""
    wanted = {each["metadata"]["name"] for each in autoscalers(catalog)}
    return [
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {name: each["metadata"][name] for name in ("name", "namespace")},
        }
        for each in live
        if each["metadata"]["name"] not in wanted
    ]
