# SPDX-License-Identifier: GPL-3.0-or-later
"""Envoy AI Gateway 0.5: the webhook's CA, routes made from AIGatewayRoutes, the filter's Secret, pools."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import yaml

from lab.world import faults, gateways
from lab.world.actions import Action, Apply, CreateOnce, Delete, Patch, SetStatus, cond, owner
from lab.world.controllers import envoy_gateway
from lab.world.engine import Reconciler
from lab.world.gateways import GATEWAY_API
from lab.world.store import Json, Store, created, deleting, labels

MANAGER = "ai-gateway-controller"
FINALIZER = "aigateway.envoyproxy.io/finalizer"
POOL_GROUP = "inference.networking.k8s.io"
EXTPROC = "ai-gateway-extproc"
# Set on the template of Envoy's pods to have them made anew; a new pod passes the webhook.
ROLLED = "aigateway.envoyproxy.io/extproc-rollout"


def controller(store: Store) -> Json | None:
    return store.controller("ai-gateway-controller")


def filter_secret(gateway: Json) -> str:
    return f"{gateway['metadata']['name']}-{gateway['metadata']['namespace']}"


# --- finalizers
def _guarded(obj: Json) -> Iterator[Action]:
    """The finalizer that every object of the group gets, and loses when it is deleted."""
    finalizers = obj["metadata"].get("finalizers") or []
    if deleting(obj) == (FINALIZER in finalizers):
        rest = [name for name in finalizers if name != FINALIZER]
        yield Patch(obj, {"metadata": {"finalizers": [*rest, *([] if deleting(obj) else [FINALIZER])]}})


def accepted(obj: Json, store: Store) -> Iterator[Action]:
    if not controller(store):
        return
    yield from _guarded(obj)
    if not deleting(obj):
        text = f"{obj['kind']} reconciled successfully"
        yield SetStatus(obj, {"conditions": [cond("Accepted", True, "ReconciliationSucceeded", text)]})


# --- AIGatewayRoute
def route(obj: Json, store: Store) -> Iterator[Action]:
    if not controller(store):
        return
    yield from _guarded(obj)
    if deleting(obj):
        return
    problem = _problem(obj, store)
    if not problem:
        yield from _derived(obj, store)
    if problem:
        condition = cond("NotAccepted", True, "ReconciliationFailed", problem)
    else:
        condition = cond("Accepted", True, "ReconciliationSucceeded", "AI Gateway Route reconciled successfully")
    yield SetStatus(obj, {"conditions": [condition]})


def is_pool(ref: Json) -> bool:
    return ref.get("group") == POOL_GROUP and ref.get("kind") == "InferencePool"


def _problem(obj: Json, store: Store) -> str:
    space, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    if faults.hit(store, "route_never_accepted", name):
        return "route is held back"
    for ref in (ref for rule in obj["spec"]["rules"] for ref in rule.get("backendRefs") or []):
        if not is_pool(ref) and not store.get("AIServiceBackend", ref.get("namespace") or space, ref["name"]):
            return f"failed to construct a new HTTPRoute: AIServiceBackend {space}.{ref['name']} not found"
    existing = store.get("HTTPRoute", space, name)
    if existing and not any(
        ref["uid"] == obj["metadata"]["uid"] for ref in existing["metadata"].get("ownerReferences") or []
    ):
        return f"failed to update HTTPRoute: {space}/{name} is not of this AIGatewayRoute"
    return ""


def _derived(obj: Json, store: Store) -> Iterator[Action]:
    """The HTTPRoute of the same name, and the filters that it refers to."""
    space, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    rewrite, not_found = f"ai-eg-host-rewrite-{name}", f"ai-eg-route-not-found-response-{name}"
    owned = [owner(obj)]

    def filter_of(filter_name: str, spec: Json) -> Action:
        meta = {"name": filter_name, "namespace": space, "ownerReferences": owned}
        kind = "HTTPRouteFilter"
        made: Json = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}
        # Made when missing, and left alone then.
        return CreateOnce(kind, space, filter_name, lambda: made)

    yield filter_of(rewrite, {"urlRewrite": {"hostname": {"type": "Backend"}}})
    yield filter_of(
        not_found,
        {
            "directResponse": {
                "statusCode": 404,
                "body": {
                    "type": "Inline",
                    "inline": "No matching route found. It is likely because the model specified in "
                    "your request is not configured in the Gateway.",
                },
            }
        },
    )
    live, parents = store.get("HTTPRoute", space, name), obj["spec"].get("parentRefs") or []
    if live and list(map(_place, live["spec"].get("parentRefs") or [])) != list(map(_place, parents)):
        # Applying adds and changes fields; that one is no longer named shows in the whole list only.
        yield Patch(live, {"spec": {"parentRefs": parents}})
    rules = [_rule(rule, space, rewrite, store) for rule in obj["spec"]["rules"]]
    rules.append(
        {
            "name": "route-not-found",
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "filters": [_extension(not_found)],
        }
    )
    yield Apply(
        {
            "apiVersion": f"{GATEWAY_API}/v1",
            "kind": "HTTPRoute",
            "metadata": {
                "name": name,
                "namespace": space,
                "labels": labels(obj),
                "annotations": {
                    "gateway.envoyproxy.io/ai-gateway-generated": "true",
                    "gateway.envoyproxy.io/backend-ref-priority": _priorities(obj),
                },
                "ownerReferences": owned,
            },
            "spec": {"parentRefs": parents, "rules": rules},
        },
        MANAGER,
    )


def _place(ref: Json) -> tuple[Any, ...]:
    return ref["name"], ref.get("namespace"), ref.get("sectionName"), ref.get("port")


def _extension(name: str) -> Json:
    return {
        "type": "ExtensionRef",
        "extensionRef": {"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": name},
    }


def _priorities(obj: Json) -> str:
    return ",".join(
        f"{number}:{ref['name']}:{ref.get('priority', 0)}"
        for number, rule in enumerate(obj["spec"]["rules"])
        for ref in rule.get("backendRefs") or []
    )


def _rule(rule: Json, space: str, rewrite: str, store: Store) -> Json:
    path = {"type": "PathPrefix", "value": "/"}
    matches = [{"headers": match.get("headers") or [], "path": path} for match in rule.get("matches") or []]
    backends = []
    for ref in rule.get("backendRefs") or []:
        weight = {"weight": ref.get("weight", 1)}
        if is_pool(ref):
            backends.append(
                {
                    "group": POOL_GROUP,
                    "kind": "InferencePool",
                    "name": ref["name"],
                    **({"namespace": ref["namespace"]} if ref.get("namespace") else {}),
                    **weight,
                }
            )
        else:
            service = store.get("AIServiceBackend", ref.get("namespace") or space, ref["name"]) or {}
            backends.append({**service["spec"]["backendRef"], **weight})
    timeouts = rule.get("timeouts") or {"request": "60s"}
    return {
        "matches": matches or [{"path": path}],
        "filters": [_extension(rewrite)],
        "backendRefs": backends,
        "timeouts": timeouts,
    }


# --- Gateways with AI routes
def routes_of(gateway: Json, store: Store) -> list[Json]:
    return sorted(
        (
            obj
            for obj in store.all("AIGatewayRoute")
            if not deleting(obj)
            and any(gateways.names(ref, obj, gateway) for ref in obj["spec"].get("parentRefs") or [])
        ),
        key=created,
    )


def gateway(obj: Json, store: Store) -> Iterator[Action]:
    """The filter's configuration beside Envoy, and a rollout for Envoy pods that lack the filter."""
    running = envoy_gateway.controller(store)
    if not controller(store) or not running or deleting(obj):
        return
    space = running["metadata"]["namespace"]
    deployment = store.get("Deployment", space, envoy_gateway.hashed_name(obj))
    routes = routes_of(obj, store)
    if not deployment or not routes:
        return
    document = yaml.safe_dump(_filter_config(routes), sort_keys=True)
    yield Apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": filter_secret(obj),
                "namespace": space,
                "labels": {"app.kubernetes.io/managed-by": "envoy-ai-gateway"},
            },
            "data": {"filter-config.yaml": base64.b64encode(document.encode()).decode()},
        },
        MANAGER,
    )
    bare = [pod for pod in store.pods_of(deployment) if EXTPROC not in containers(pod)]
    rolled = (deployment["spec"]["template"]["metadata"].get("annotations") or {}).get(ROLLED)
    if bare and store.get("Secret", space, filter_secret(obj)):
        # One rollout per generation of bare pods: naming them keeps this from rolling for ever.
        mark = hashlib.sha256("".join(sorted(pod["metadata"]["uid"] for pod in bare)).encode()).hexdigest()[:16]
        settled = deployment["status"].get("observedGeneration") == deployment["metadata"]["generation"] and deployment[
            "status"
        ].get("updatedReplicas") == deployment["status"].get("replicas")
        if rolled != mark and settled:
            yield Patch(deployment, {"spec": {"template": {"metadata": {"annotations": {ROLLED: mark}}}}})


def containers(pod: Json) -> set[str]:
    spec = pod["spec"]
    return {item["name"] for item in [*spec["containers"], *(spec.get("initContainers") or [])]}


def _filter_config(routes: list[Json]) -> Json:
    models = [
        {"name": header["value"], "ownedBy": rule.get("modelsOwnedBy", "Envoy AI Gateway")}
        for obj in routes
        for rule in obj["spec"]["rules"]
        for match in rule.get("matches") or []
        for header in match.get("headers") or []
        if header["name"] == "x-ai-eg-model" and header.get("type", "Exact") == "Exact"
    ]
    costs = [cost for obj in routes for cost in obj["spec"].get("llmRequestCosts") or []]
    uuid = hashlib.sha256(json.dumps([models, costs], sort_keys=True).encode()).hexdigest()[:32]
    return {"uuid": uuid, "modelNameHeaderKey": "x-ai-eg-model", "models": models, "llmRequestCosts": costs}


def orphan(obj: Json, store: Store) -> Iterator[Action]:
    """A filter's Secret without a Gateway that has AI routes."""
    if labels(obj).get("app.kubernetes.io/managed-by") != "envoy-ai-gateway" or not controller(store):
        return
    wanted = {filter_secret(item) for item in store.all("Gateway") if routes_of(item, store)}
    if obj["metadata"]["name"] not in wanted:
        yield Delete(obj)


# --- InferencePool
def pool(obj: Json, store: Store) -> Iterator[Action]:
    """A pool says nothing until a route of some Gateway uses it."""
    running = controller(store)
    if not running or deleting(obj):
        return
    started = store.started_at(running)
    if started and not store.crds_older_than(started, f"inferencepools.{POOL_GROUP}"):
        return  # its pool controller was left out at start, and is until the next one
    generation, space, name = obj["metadata"]["generation"], obj["metadata"]["namespace"], obj["metadata"]["name"]
    users = [
        item
        for item in [*store.all("AIGatewayRoute", space), *store.all("HTTPRoute", space)]
        if not deleting(item)
        and any(
            is_pool(ref) and ref["name"] == name
            for rule in item["spec"].get("rules") or []
            for ref in rule.get("backendRefs") or []
        )
    ]
    parents = {
        (gateway["metadata"]["namespace"], gateway["metadata"]["name"])
        for item in users
        for _, gateway in gateways.gateways_of(item, store)
    }
    picker = obj["spec"]["endpointPickerRef"]["name"]
    resolved = store.get("Service", space, picker) and not faults.hit(store, "pool_unresolved", name)
    said = f"ExtensionReference service {picker} not found in namespace {space}"
    reason, text = ("Accepted", "InferencePool reconciled successfully") if resolved else ("NotAccepted", said)
    refs = "All references resolved successfully" if resolved else said
    conditions = [
        cond(
            "Accepted",
            bool(resolved),
            reason,
            f"InferencePool has been {reason} by controller {MANAGER}: {text}",
            generation,
        ),
        cond(
            "ResolvedRefs",
            bool(resolved),
            "ResolvedRefs",
            f"Reference resolution by controller {MANAGER}: {refs}",
            generation,
        ),
    ]
    entries = [
        {
            "parentRef": {"group": GATEWAY_API, "kind": "Gateway", "namespace": gateway_space, "name": gateway_name},
            "conditions": conditions,
        }
        for gateway_space, gateway_name in sorted(parents)
    ]
    if entries or (obj.get("status") or {}).get("parents"):
        yield SetStatus(obj, {"parents": entries})


_SEEN = frozenset({"Deployment"})
RECONCILERS = [
    Reconciler("aieg-route", "AIGatewayRoute", route, _SEEN | {"AIServiceBackend", "HTTPRoute", "HTTPRouteFilter"}),
    Reconciler("aieg-gateway", "Gateway", gateway, _SEEN | {"AIGatewayRoute", "Pod", "Secret"}),
    Reconciler("aieg-orphan", "Secret", orphan, _SEEN | {"AIGatewayRoute", "Gateway"}),
    Reconciler(
        "aieg-pool",
        "InferencePool",
        pool,
        _SEEN
        | {"AIGatewayRoute", "HTTPRoute", "Gateway", "GatewayClass", "Service", "CustomResourceDefinition", "Pod"},
    ),
    *(
        Reconciler(f"aieg-{kind.lower()}", kind, accepted, _SEEN)
        for kind in ("AIServiceBackend", "BackendSecurityPolicy", "MCPRoute")
    ),
]
