# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects for tests of the world's controllers, and what their actions would make of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from lab.world.actions import Action, Apply, CreateOnce, Delete, Event, Patch, SetStatus, cond, merged, stamped
from lab.world.engine import Reconciler
from lab.world.gateways import CONTROLLER
from lab.world.kinds import KINDS
from lab.world.store import Json, Store, key_of

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
_uids = itertools.count(1)


def obj(kind: str, name: str, namespace: str = "", **more: Any) -> Json:
    """An object as the API would show it; `labels`, `annotations`, `created` and `generation` go to its metadata."""
    meta: Json = {
        "name": name,
        "uid": f"uid-{next(_uids)}",
        "generation": more.pop("generation", 1),
        "creationTimestamp": more.pop("created", "2026-06-01T10:00:00Z"),
    }
    if namespace:
        meta["namespace"] = namespace
    for field in ("labels", "annotations", "finalizers", "deletionTimestamp", "ownerReferences"):
        if field in more:
            meta[field] = more.pop(field)
    return {"apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": meta, **more}


def deployment(name: str, namespace: str, available: bool = True, **more: Any) -> Json:
    selector = {"app": name}
    return obj("Deployment", name, namespace, status={"conditions": [cond("Available", available)],
               "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1,
               "availableReplicas": 1 if available else 0},
               spec={"selector": {"matchLabels": selector}, "template": {"metadata": {}, "spec": more.pop("pod", {})}},
               **more)  # fmt: skip


def pod_of(owner: Json, name: str, started: str = "2026-06-01T11:00:00Z", ready: bool = True, **spec: Any) -> Json:
    labels = owner["spec"]["selector"]["matchLabels"]
    status = {"conditions": [cond("Ready", ready)], "phase": "Running",
              "containerStatuses": [{"name": "c", "state": {"running": {"startedAt": started}}}]}  # fmt: skip
    spec = {"containers": [{"name": "c", "image": "i"}], "nodeName": "n", **spec}
    return obj("Pod", name, owner["metadata"]["namespace"], labels=labels, status=status, spec=spec)


def crd(kind: str, created: str = "2026-06-01T09:00:00Z") -> Json:
    return obj("CustomResourceDefinition", KINDS[kind].crd, created=created)


class World:
    """A store that actions change, as the API server would: run controllers until nothing is left to do."""

    def __init__(self, objects: Iterable[Json], reconcilers: Iterable[Reconciler]) -> None:
        self.store = Store(objects, NOW)
        self.reconcilers = list(reconcilers)
        self.events: list[Event] = []

    def settle(self, rounds: int = 12) -> World:
        for _ in range(rounds):
            before = self._image()
            for reconciler in self.reconcilers:
                for item in self.store.all(reconciler.kind):
                    for action in reconciler.run(item, self.store):
                        self.do(action)
            if self._image() == before:
                return self
        raise AssertionError("the controllers do not come to rest")

    def _image(self) -> str:
        return repr(sorted((kind, key, repr(item)) for kind, items in self.store.kinds.items()
                           for key, item in items.items()))  # fmt: skip

    def do(self, action: Action) -> None:
        match action:
            case SetStatus(target, status):
                live = self.store.get(target["kind"], *key_of(target))
                if live:
                    live["status"] = merged(live.get("status"), stamped(status, live.get("status"), NOW))
            case Apply(wanted, _):
                live = self.store.get(wanted["kind"], *key_of(wanted))
                self.store.put(wanted["kind"], merged(live or obj(wanted["kind"], *reversed(key_of(wanted))), wanted))
            case CreateOnce(kind, namespace, name, build):
                if not self.store.get(kind, namespace, name):
                    self.store.put(kind, build())
            case Patch(target, patch, _, _):
                live = self.store.get(target["kind"], *key_of(target))
                if live:
                    self.store.put(target["kind"], merged(live, patch))
            case Delete(target):
                self.store.drop(target["kind"], key_of(target))
            case Event():
                self.events.append(action)

    def get(self, kind: str, name: str, namespace: str = "") -> Json:
        found = self.store.get(kind, namespace, name)
        assert found, f"no {kind} {namespace}/{name}: {sorted(self.store.kinds.get(kind, {}))}"
        return found

    def status(self, kind: str, name: str, namespace: str, condition: str) -> str:
        """STATUS:REASON of a condition, wherever in the status it is."""
        for item in _conditions((self.get(kind, name, namespace)).get("status")):
            if item["type"] == condition:
                return f"{item['status']}:{item['reason']}"
        return "none"

    def message(self, kind: str, name: str, namespace: str, condition: str) -> str:
        found = _conditions((self.get(kind, name, namespace)).get("status"))
        return next((item["message"] for item in found if item["type"] == condition), "")


def _conditions(node: Any) -> Iterable[Json]:
    if isinstance(node, dict):
        if {"type", "status", "reason"} <= node.keys():
            yield node
        for value in node.values():
            yield from _conditions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _conditions(value)


# --- a platform in small
EG, AIEG, KUADRANT, MODELS = "envoy-gateway-system", "envoy-ai-gateway-system", "kuadrant-system", "token-labs"
GATEWAY_REF = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}
CONFIG = """
extensionApis: {enableBackend: true, enableEnvoyPatchPolicy: true}
extensionManager: {backendResources: [{group: inference.networking.k8s.io, kind: InferencePool, version: v1}]}
rateLimit: {backend: {type: Redis, redis: {url: "redis.redis-system.svc.cluster.local:6379"}}}
"""


def envoy_gateway(config: str = CONFIG) -> list[Json]:
    return [
        deployment("envoy-gateway", EG),
        obj("ConfigMap", "envoy-gateway-config", EG, data={"envoy-gateway.yaml": config}),
        obj("GatewayClass", "eg", spec={"controllerName": CONTROLLER}),
    ]


def gateway(**more: Any) -> Json:
    listeners = more.pop("listeners", [{"name": "http", "port": 80, "protocol": "HTTP"}])
    return obj("Gateway", "gw", MODELS, spec={"gatewayClassName": "eg", "listeners": listeners, **more})


def route(name: str, **more: Any) -> Json:
    rules = more.pop("rules", [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}])
    meta = {key: more.pop(key) for key in ("created", "labels") if key in more}
    return obj("HTTPRoute", name, MODELS, spec={"parentRefs": [GATEWAY_REF], "rules": rules, **more}, **meta)


def policy(kind: str, name: str, target: Json | None = None, **spec: Any) -> Json:
    created = spec.pop("created", "2026-06-01T10:00:00Z")
    return obj(kind, name, MODELS, spec={"targetRef": target or GATEWAY_REF, **spec}, created=created)


def programmed(name: str = "gw") -> list[Json]:
    """Envoy's Deployment and Service as they are once all went well."""
    from lab.world.controllers.envoy_gateway import envoy_labels, hashed_name

    full = hashed_name(obj("Gateway", name, MODELS))
    envoy = deployment(full, EG)
    envoy["spec"]["selector"]["matchLabels"] = envoy_labels(obj("Gateway", name, MODELS))
    service = obj("Service", full, EG, spec={"type": "LoadBalancer"},
                  status={"loadBalancer": {"ingress": [{"ip": "10.77.0.200"}]}})  # fmt: skip
    return [envoy, service]
