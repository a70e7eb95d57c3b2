# SPDX-License-Identifier: GPL-3.0-or-later
"""Kuadrant's components: are they there, and where does Limitador count."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from .endpoints import age, resolve, secret_value
from .envoygateway import available
from .model import KuadrantState, Storage
from .objects import Name, Object, Snapshot, labels_of, matches_labels, name_of

OPERATOR = "kuadrant-operator-controller-manager"


def _pods_of(snapshot: Snapshot, namespace: str, deployment: str) -> frozenset[str]:
    obj = snapshot.get("Deployment", namespace, deployment)
    if obj is None:
        return frozenset()
    selector = (obj.get("spec") or {}).get("selector") or {}
    return frozenset(
        pod["metadata"].get("uid", name_of(pod)[1])
        for pod in snapshot.all("Pod")
        if name_of(pod)[0] == namespace
        and matches_labels(labels_of(pod), selector)
        and (pod.get("status") or {}).get("phase") == "Running"
        and not pod["metadata"].get("deletionTimestamp")
    )


def _storage(snapshot: Snapshot, limitador: Object) -> tuple[Storage, set[Name]]:
    namespace, name = name_of(limitador)
    pods = _pods_of(snapshot, namespace, f"limitador-{name}")
    spec = (limitador.get("spec") or {}).get("storage") or {}
    reference = (spec.get("redis") or spec.get("redis-cached") or {}).get("configSecretRef")
    if not reference:
        return Storage(generation=pods), set()
    url = (secret_value(snapshot, namespace, reference["name"], "URL") or "").strip()
    parts = urlsplit(url)
    address = resolve(snapshot, parts.hostname, parts.port or 6379, namespace) if parts.hostname else None
    return Storage("redis", url, address, pods), {(namespace, reference["name"])}


def kuadrant_state(snapshot: Snapshot) -> tuple[KuadrantState, set[Name]]:
    if not list(snapshot.all("Kuadrant")):
        return KuadrantState(), set()
    state = KuadrantState()
    secrets: set[Name] = set()
    for authorino in sorted(snapshot.all("Authorino"), key=age)[:1]:
        namespace, name = name_of(authorino)
        state = replace(
            state,
            authorino_available=available(snapshot, namespace, name),
            authorino_namespace=namespace,
            authorino_pods=_pods_of(snapshot, namespace, name),
        )
    for limitador in sorted(snapshot.all("Limitador"), key=age)[:1]:
        namespace, name = name_of(limitador)
        storage, secrets = _storage(snapshot, limitador)
        state = replace(
            state,
            limitador_available=available(snapshot, namespace, f"limitador-{name}"),
            limitador_headers=(limitador.get("spec") or {}).get("rateLimitHeaders") == "DRAFT_VERSION_03",
            storage=storage,
        )
    for namespace in {name_of(kuadrant)[0] for kuadrant in snapshot.all("Kuadrant")}:
        operator = snapshot.get("Deployment", namespace, OPERATOR) or {}
        env = (operator.get("spec") or {}).get("env") or {}
        state = replace(
            state,
            requests_closed=env.get("RATELIMIT_SERVICE_FAILURE_MODE") == "deny",
            tokens_closed=env.get("RATELIMIT_CHECK_SERVICE_FAILURE_MODE") == "deny",
        )
    return state, secrets
