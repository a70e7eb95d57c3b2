# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus' operator: a server for each Prometheus object. Nothing is scraped here: KWOK plays the server's pod."""

from __future__ import annotations

from collections.abc import Iterator

from lab.world.actions import Action, Apply, SetStatus, cond, owner
from lab.world.engine import Reconciler
from lab.world.store import Json, Store, deleting, is_true

MANAGER = "PrometheusOperator"
OPERATOR = {"app.kubernetes.io/name": "kube-prometheus-stack-prometheus-operator"}


def prometheus(obj: Json, store: Store) -> Iterator[Action]:
    if deleting(obj) or not any(is_true(pod, "Ready") for pod in store.select("Pod", None, OPERATOR)):
        return
    space, name, spec = obj["metadata"]["namespace"], obj["metadata"]["name"], obj["spec"]
    marks = {
        "app.kubernetes.io/name": "prometheus",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": "prometheus-operator",
        "prometheus": name,
        "operator.prometheus.io/name": name,
    }
    owned = {"ownerReferences": [owner(obj)]}
    yield Apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "prometheus-operated",
                "namespace": space,
                "labels": {"operated-prometheus": "true"},
                **owned,
            },
            "spec": {
                "clusterIP": "None",
                "selector": {"app.kubernetes.io/name": "prometheus"},
                "ports": [{"name": "web", "port": 9090, "protocol": "TCP", "targetPort": "web"}],
            },
        },
        MANAGER,
    )
    wanted = spec.get("replicas", 1)
    claim = ((spec.get("storage") or {}).get("volumeClaimTemplate") or {}).get("spec")
    stateful: Json = {
        "replicas": wanted,
        "serviceName": "prometheus-operated",
        "selector": {"matchLabels": marks},
        "template": {
            "metadata": {"labels": marks},
            "spec": {
                "serviceAccountName": spec.get("serviceAccountName", "default"),
                "containers": [
                    {
                        "name": "prometheus",
                        "image": spec["image"],
                        "args": [f"--storage.tsdb.retention.time={spec.get('retention', '24h')}"],
                        "ports": [{"name": "web", "containerPort": 9090, "protocol": "TCP"}],
                    }
                ],
            },
        },
    }
    if claim:
        stateful["volumeClaimTemplates"] = [{"metadata": {"name": f"prometheus-{name}-db"}, "spec": claim}]
    yield Apply(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": f"prometheus-{name}", "namespace": space, "labels": marks, **owned},
            "spec": stateful,
        },
        MANAGER,
    )
    ready = sum(is_true(pod, "Ready") for pod in store.select("Pod", space, marks))
    generation = obj["metadata"]["generation"]
    text = "" if ready >= wanted else f"shard 0: {ready} of {wanted} pods are ready"
    yield SetStatus(
        obj,
        {
            "replicas": wanted,
            "availableReplicas": ready,
            "conditions": [
                cond("Available", ready >= wanted, "" if ready >= wanted else "NoPodReady", text, generation),
                cond("Reconciled", True, "", "", generation),
            ],
        },
    )


RECONCILERS = [Reconciler("prometheus", "Prometheus", prometheus, frozenset({"Pod", "Deployment"}))]
