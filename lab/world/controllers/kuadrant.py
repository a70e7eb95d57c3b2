# SPDX-License-Identifier: GPL-3.0-or-later
"""Kuadrant 1.5: the Kuadrant CR, Limitador and Authorino, and the policies with what they put into Envoy Gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lab.gateway import expressions
from lab.world import faults, gateways
from lab.world.actions import Action, Apply, Delete, SetStatus, cond, owner
from lab.world.engine import Reconciler
from lab.world.gateways import CONTROLLER, GATEWAY_API
from lab.world.store import Json, Store, condition, created, deleting, is_true, key_of, labels, parse_time

MANAGER = "kuadrant-operator"
POLICY_CONTROLLER = "kuadrant.io/policy-controller"
AUTH, REQUESTS, TOKENS = "AuthPolicy", "RateLimitPolicy", "TokenRateLimitPolicy"
# Looked for once, when the operator starts.
GATEWAY_CRDS = (f"gateways.{GATEWAY_API}", f"httproutes.{GATEWAY_API}")
PROVIDER_CRDS = ("envoyextensionpolicies.gateway.envoyproxy.io", "envoypatchpolicies.gateway.envoyproxy.io")
# An AuthPolicy that met an Authorino which was still starting may say so long after it is enforced.
STALE_AUTHORINO = 90.0


def operator(store: Store) -> Json | None:
    return store.controller("kuadrant-operator-controller-manager")


def missing_dependency(store: Store) -> str:
    """What the operator did not find when it started; it does not look again."""
    running = operator(store)
    started = store.started_at(running) if running else None
    if not started:
        return ""
    missing = []
    if not store.crds_older_than(started, *GATEWAY_CRDS):
        missing.append("Gateway API")
    if not store.crds_older_than(started, *PROVIDER_CRDS):
        missing.append("Gateway API provider (istio / envoy gateway)")
    if not missing:
        return ""
    return (
        f"[{', '.join(missing)}] is not installed, please restart Kuadrant Operator pod once dependency has been "
        "installed"
    )


# --- Kuadrant
def kuadrant(obj: Json, store: Store) -> Iterator[Action]:
    if not operator(store) or deleting(obj):
        return
    space = obj["metadata"]["namespace"]
    if not missing_dependency(store):
        owned = [owner(obj)]
        marks = {"app": "kuadrant", "app.kubernetes.io/managed-by": MANAGER}
        yield Apply(
            {
                "apiVersion": "limitador.kuadrant.io/v1alpha1",
                "kind": "Limitador",
                "metadata": {"name": "limitador", "namespace": space, "ownerReferences": owned, "labels": marks},
                "spec": {"metricLabelsDefault": "descriptors[1]"},
            },
            MANAGER,
        )
        yield Apply(
            {
                "apiVersion": "operator.authorino.kuadrant.io/v1beta1",
                "kind": "Authorino",
                "metadata": {"name": "authorino", "namespace": space, "ownerReferences": owned, "labels": marks},
                "spec": {
                    "clusterWide": True,
                    "supersedingHostSubsets": True,
                    "listener": {"tls": {"enabled": False}},
                    "oidcServer": {"tls": {"enabled": False}},
                },
            },
            MANAGER,
        )
    reason, message = _kuadrant_state(obj, store)
    generation = obj["metadata"]["generation"]
    yield SetStatus(
        obj,
        {
            "observedGeneration": generation,
            "mtlsAuthorino": False,
            "mtlsLimitador": False,
            "conditions": [cond("Ready", reason == "Ready", reason, message)],
        },
    )


def _kuadrant_state(obj: Json, store: Store) -> tuple[str, str]:
    if problem := missing_dependency(store):
        return "MissingDependency", problem
    for kind, absent in (
        ("Limitador", "limitador resoure not in topology"),
        ("Authorino", "authorino resoure not in topology"),
    ):
        found = store.get(kind, obj["metadata"]["namespace"], kind.lower())
        if not is_true(found, "Ready"):
            message = condition(found, "Ready").get("message") or ("Ready condition not found" if found else absent)
            return f"{kind}NotReady", message
    return "Ready", "Kuadrant is ready"


# --- Limitador (its own operator)
def limitador(obj: Json, store: Store) -> Iterator[Action]:
    if not store.controller("limitador-operator-controller-manager") or deleting(obj):
        return
    space, name = obj["metadata"]["namespace"], f"limitador-{obj['metadata']['name']}"
    spec = obj.get("spec") or {}
    marks = {"app": "limitador", "limitador-resource": obj["metadata"]["name"]}
    meta = {"name": name, "namespace": space, "labels": marks, "ownerReferences": [owner(obj)]}
    config = f"limitador-limits-config-{obj['metadata']['name']}"
    env, problem = _storage(spec.get("storage") or {}, space, store)
    if not problem:
        ports = {"http": 8080, "grpc": 8081}
        yield Apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {**meta, "name": config},
                "data": {"limitador-config.yaml": _limits(store)},
            },
            "limitador-operator",
        )
        yield Apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": {
                    "clusterIP": "None",
                    "selector": marks,
                    "ports": [
                        {"name": port, "port": number, "protocol": "TCP", "targetPort": port}
                        for port, number in ports.items()
                    ],
                },
            },
            "limitador-operator",
        )
        pod = {
            "containers": [
                {
                    "name": "limitador",
                    "image": "quay.io/kuadrant/limitador:v2.4.2",
                    "command": [
                        "limitador-server",
                        "/home/limitador/etc/limitador-config.yaml",
                        "redis" if env else "memory",
                    ],
                    "env": env,
                    "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
                    "volumeMounts": [{"name": "config-file", "mountPath": "/home/limitador/etc/"}],
                    **({"resources": spec["resourceRequirements"]} if spec.get("resourceRequirements") else {}),
                }
            ],
            "volumes": [{"name": "config-file", "configMap": {"name": config}}],
            **({"affinity": spec["affinity"]} if spec.get("affinity") else {}),
        }
        yield Apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": meta,
                "spec": {
                    "replicas": spec.get("replicas", 1),
                    "selector": {"matchLabels": marks},
                    "template": {"metadata": {"labels": marks}, "spec": pod},
                },
            },
            "limitador-operator",
        )
    ready = is_true(store.get("Deployment", space, name), "Available") and not problem
    message = problem or ("Limitador is ready" if ready else f"Deployment {name} is not available")
    host = f"{name}.{space}.svc.cluster.local"
    yield SetStatus(
        obj,
        {
            "observedGeneration": obj["metadata"]["generation"],
            "conditions": [cond("Ready", ready, "Ready" if ready else "NotReady", message)],
            **({} if problem else {"service": {"host": host, "ports": {"http": 8080, "grpc": 8081}}}),
        },
    )


def _storage(storage: Json, space: str, store: Store) -> tuple[list[Json], str]:
    """The environment that names Redis, or what is missing."""
    redis = storage.get("redis") or storage.get("redis-cached")
    if not redis:
        return [], ""
    name = (redis.get("configSecretRef") or {}).get("name")
    if not name:
        return [], "there's no ConfigSecretRef set"
    secret = store.get("Secret", space, name)
    if not secret:
        return [], f'Secret "{name}" not found'
    if "URL" not in (secret.get("data") or {}):
        return [], "the storage config Secret doesn't have the `URL` field"
    return [{"name": "LIMITADOR_OPERATOR_REDIS_URL", "valueFrom": {"secretKeyRef": {"name": name, "key": "URL"}}}], ""


def _limits(store: Store) -> str:
    """One line a limit is enough to see in the ConfigMap what is counted."""
    lines = []
    for kind in (REQUESTS, TOKENS):
        for policy in sorted(store.all(kind), key=created):
            if is_true(policy, "Enforced"):
                for name, limit in sorted(_rules(policy, "limits").items()):
                    for rate in limit.get("rates") or []:
                        lines.append(
                            f"- {{name: {name}, max_value: {rate['limit']}, window: {rate['window']}, "
                            f"policy: {'/'.join(key_of(policy))}}}"
                        )
    return "\n".join(lines) + "\n" if lines else "[]\n"


# --- Authorino (its own operator)
def authorino(obj: Json, store: Store) -> Iterator[Action]:
    if not store.controller("authorino-operator") or deleting(obj):
        return
    space, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    spec = obj.get("spec") or {}
    selector = {"authorino-resource": name, "control-plane": "controller-manager"}
    part = {"app.kubernetes.io/part-of": name}
    owned = [owner(obj)]

    def service(suffix: str, component: str, ports: dict[str, int]) -> Action:
        return Apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {
                    "name": f"{name}-{suffix}",
                    "namespace": space,
                    "ownerReferences": owned,
                    "labels": {**selector, **part, "app.kubernetes.io/component": component},
                },
                "spec": {
                    "selector": selector,
                    "ports": [{"name": port, "port": number, "protocol": "TCP"} for port, number in ports.items()],
                },
            },
            "authorino-operator",
        )

    yield Apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": f"{name}-authorino", "namespace": space, "ownerReferences": owned},
        },
        "authorino-operator",
    )
    yield service("authorino-authorization", "authorization", {"grpc": 50051, "http": 5001})
    yield service("authorino-oidc", "oidc", {"http": 8083})
    yield service("controller-metrics", "metrics", {"http": 8080})
    yield Apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": space, "ownerReferences": owned, "labels": {**selector, **part}},
            "spec": {
                "replicas": spec.get("replicas", 1),
                "selector": {"matchLabels": selector},
                "template": {
                    "metadata": {"labels": {**selector, **part}},
                    "spec": {
                        "serviceAccountName": f"{name}-authorino",
                        "containers": [
                            {
                                "name": "authorino",
                                "image": spec.get("image") or "quay.io/kuadrant/authorino:v0.26.2",
                                "args": [
                                    "server",
                                    "--secret-label-selector=authorino.kuadrant.io/managed-by=authorino",
                                ],
                                "ports": [
                                    {"name": "grpc", "containerPort": 50051},
                                    {"name": "http", "containerPort": 5001},
                                    {"name": "metrics", "containerPort": 8080},
                                ],
                            }
                        ],
                    },
                },
            },
        },
        "authorino-operator",
    )
    ready = is_true(store.get("Deployment", space, name), "Available")
    yield SetStatus(
        obj,
        {
            "conditions": [
                cond(
                    "Ready",
                    ready,
                    "Provisioned" if ready else "DeploymentNotReady",
                    "" if ready else "Authorino Deployment is not ready",
                )
            ]
        },
    )


# --- policies
def _rules(policy: Json, field: str) -> Json:
    """The rules of a policy: its own, its defaults or its overrides."""
    spec = policy["spec"]
    return spec.get(field) or (spec.get("overrides") or spec.get("defaults") or {}).get(field) or {}


def _reach(policy: Json, store: Store) -> list[tuple[Json, Json]]:
    """Routes that a policy's target lets it see, each with its Gateway."""
    ref, space = policy["spec"]["targetRef"], policy["metadata"]["namespace"]
    if ref["kind"] == "Gateway":
        gateway = store.get("Gateway", space, ref["name"])
        return [(route, gateway) for route in gateways.attached_routes(gateway, store)] if gateway else []
    route = store.get(ref["kind"], space, ref["name"])
    if not route:
        return []
    return [
        (route, gateway)
        for _, gateway in gateways.gateways_of(route, store)
        if any(key_of(route) == key_of(other) for other in gateways.attached_routes(gateway, store))
    ]


def _policies_on(kind: str, target: Json, store: Store) -> list[Json]:
    """Policies of a kind that name this object, oldest first; the first of them wins."""
    return sorted(
        (
            policy
            for policy in store.all(kind, target["metadata"]["namespace"])
            if not deleting(policy)
            and policy["spec"]["targetRef"]["kind"] == target["kind"]
            and policy["spec"]["targetRef"]["name"] == target["metadata"]["name"]
        ),
        key=created,
    )


def winner(kind: str, route: Json, gateway: Json, store: Store) -> Json | None:
    """The policy whose rules hold on a route: a Gateway's overrides, else the route's own, else the Gateway's."""
    above = next(iter(_policies_on(kind, gateway, store)), None)
    own = next(iter(_policies_on(kind, route, store)), None)
    if above and above["spec"].get("overrides"):
        return above
    return own or above


def policy(obj: Json, store: Store) -> Iterator[Action]:
    if not operator(store) or deleting(obj):
        return
    generation, kind = obj["metadata"]["generation"], obj["kind"]
    reason, message = _acceptance(obj, store)
    conditions = [cond("Accepted", reason == "Accepted", reason, message, generation)]
    if reason == "Accepted":
        problem, partial = _not_enforced(obj, store)
        stale = kind == AUTH and _stale(obj, problem, store)
        if stale:
            conditions.append({**condition(obj, "Enforced")})
        elif problem:
            conditions.append(cond("Enforced", False, problem[0], problem[1], generation))
        else:
            how = "partially" if partial else "successfully"
            conditions.append(cond("Enforced", True, message=f"{kind} has been {how} enforced", generation=generation))
    yield SetStatus(obj, {"observedGeneration": generation, "conditions": conditions})


def _acceptance(obj: Json, store: Store) -> tuple[str, str]:
    kind, ref = obj["kind"], obj["spec"]["targetRef"]
    if problem := missing_dependency(store):
        return "MissingDependency", problem
    if faults.hit(store, "policy_never_accepted", obj["metadata"]["name"]):
        return "Invalid", f"{kind} is held back"
    if not store.get(ref["kind"], obj["metadata"]["namespace"], ref["name"]):
        return "TargetNotFound", f"{kind} target {ref['name']} was not found"
    return "Accepted", f"{kind} has been accepted"


def _not_enforced(obj: Json, store: Store) -> tuple[tuple[str, str] | None, bool]:
    """Why a policy is not enforced (reason, message), and whether it is so on a part of its routes only."""
    kind = obj["kind"]
    home = next(iter(store.all("Kuadrant")), None)
    if not home:
        return ("Unknown", f"{kind} has encountered some issues: kuadrant is not installed"), False
    reach = _reach(obj, store)
    held = [
        (route, gateway)
        for route, gateway in reach
        if (first := winner(kind, route, gateway, store)) and key_of(first) == key_of(obj)
    ]
    if not reach:
        return ("Unknown", f"{kind} is not in the path to any existing routes"), False
    if not held:
        others = {"/".join(key_of(first)) for route, gateway in reach if (first := winner(kind, route, gateway, store))}
        return ("Overridden", f"{kind} is overridden by [{' '.join(sorted(others))}]"), False
    if problem := _bad_expression(obj):
        return ("Unknown", f"{kind} has encountered some issues: {problem}"), False
    waiting = _waiting_for(kind, {key_of(gateway): gateway for _, gateway in held}, home, store)
    if faults.hit(store, "policy_never_enforced", obj["metadata"]["name"]):
        waiting.append("WasmPlugin")
    if waiting:
        text = f"{kind} waiting for the following components to sync: [{' '.join(waiting)}]"
        return ("Unknown", text), False
    return None, len(held) < len(reach)


def _bad_expression(obj: Json) -> str:
    """The first CEL predicate that does not parse: upstream drops its rule, and says so only here."""
    for text in _expressions(obj["spec"]):
        try:
            expressions.parse(text)
        except expressions.ExpressionError as error:
            return f"CEL validation failed: {str(error).splitlines()[0]}"
    return ""


def _expressions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("predicate", "expression") and isinstance(value, str):
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _expressions(value)


def _waiting_for(kind: str, places: dict[tuple[str, str], Json], home: Json, store: Store) -> list[str]:
    service = "Authorino" if kind == AUTH else "Limitador"
    space = home["metadata"]["namespace"]
    waiting = [] if is_true(store.get(service, space, service.lower()), "Ready") else [service]
    for (gateway_space, gateway_name), _ in places.items():
        cluster = f"kuadrant-{'auth' if kind == AUTH else 'ratelimiting'}-{gateway_name}"
        for object_kind, name, wanted in (
            ("EnvoyPatchPolicy", cluster, "Programmed"),
            ("EnvoyExtensionPolicy", f"kuadrant-{gateway_name}", "Accepted"),
        ):
            found = store.get(object_kind, gateway_space, name)
            entries = ((found or {}).get("status") or {}).get("ancestors") or []
            if not any(
                entry["controllerName"] == CONTROLLER and is_true({"status": entry}, wanted) for entry in entries
            ):
                waiting.append(f"{object_kind} ({gateway_space}/{name})")
    return waiting


def _stale(obj: Json, problem: tuple[str, str] | None, store: Store) -> bool:
    """Whether an old complaint about Authorino is still shown though it is ready by now."""
    last = condition(obj, "Enforced")
    since = parse_time(last.get("lastTransitionTime"))
    return bool(
        problem is None
        and last.get("status") == "False"
        and "[Authorino" in last.get("message", "")
        and last.get("observedGeneration") == obj["metadata"]["generation"]
        and since
        and (store.now - since).total_seconds() < STALE_AUTHORINO
    )


# --- what policies put into Envoy Gateway
def gateway(obj: Json, store: Store) -> Iterator[Action]:
    if not operator(store) or missing_dependency(store) or not gateways.ours(store, obj):
        return
    home = next(iter(store.all("Kuadrant")), None)
    if not home or deleting(home):
        return
    space, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    routes = gateways.attached_routes(obj, store)
    active = {
        kind
        for kind in (AUTH, REQUESTS, TOKENS)
        for route in routes
        if (found := winner(kind, route, obj, store)) and is_true(found, "Accepted")
    }
    services = home["metadata"]["namespace"]
    auth = _clusters("kuadrant-auth-service", f"authorino-authorino-authorization.{services}.svc.cluster.local", 50051)
    limits = _clusters("kuadrant-ratelimit-service", f"limitador-limitador.{services}.svc.cluster.local", 8081)
    wanted = {
        ("EnvoyPatchPolicy", f"kuadrant-auth-{name}"): AUTH in active and auth,
        ("EnvoyPatchPolicy", f"kuadrant-ratelimiting-{name}"): bool({REQUESTS, TOKENS} & active) and limits,
        ("EnvoyExtensionPolicy", f"kuadrant-{name}"): bool(active) and _extension(sorted(active), routes),
    }
    target = {"group": GATEWAY_API, "kind": "Gateway", "name": name}
    for (kind, found_name), spec in wanted.items():
        existing = store.get(kind, space, found_name)
        if not spec:
            if existing and labels(existing).get("kuadrant.io/managed") == "true":
                yield Delete(existing)
            continue
        refs = {"targetRef": target} if kind == "EnvoyPatchPolicy" else {"targetRefs": [target]}
        yield Apply(
            {
                "apiVersion": "gateway.envoyproxy.io/v1alpha1",
                "kind": kind,
                "metadata": {
                    "name": found_name,
                    "namespace": space,
                    "labels": {"kuadrant.io/managed": "true"},
                    "ownerReferences": [{**owner(obj), "apiVersion": f"{GATEWAY_API}/v1"}],
                },
                "spec": {**refs, **spec},
            },
            MANAGER,
        )


def _clusters(name: str, host: str, port: int) -> Json:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    value = {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return {
        "type": "JSONPatch",
        "jsonPatches": [
            {
                "type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": name,
                "operation": {"op": "add", "path": "", "value": value},
            }
        ],
    }


def _extension(kinds: list[str], routes: list[Json]) -> Json:
    config = {
        "services": {
            "auth-service": {
                "type": "auth",
                "endpoint": "kuadrant-auth-service",
                "failureMode": "deny",
                "timeout": "200ms",
            },
            "ratelimit-service": {
                "type": "ratelimit",
                "endpoint": "kuadrant-ratelimit-service",
                "failureMode": "allow",
                "timeout": "100ms",
            },
        },
        "actionSets": [{"name": "/".join(key_of(route)), "policies": kinds} for route in routes],
    }
    return {
        "wasm": [
            {
                "name": "kuadrant-wasm-shim",
                "rootID": "kuadrant_wasm_shim",
                "failOpen": False,
                "code": {"type": "Image", "image": {"url": "oci://quay.io/kuadrant/wasm-shim:v0.14.1"}},
                "config": config,
            }
        ]
    }


_OPERATOR = frozenset({"Deployment", "Pod", "CustomResourceDefinition"})
_POLICIES = frozenset({AUTH, REQUESTS, TOKENS})
_PATHS = frozenset({"Gateway", "GatewayClass", "HTTPRoute"})
_EFFECTS = frozenset({"Kuadrant", "Authorino", "Limitador", "EnvoyPatchPolicy", "EnvoyExtensionPolicy"})
RECONCILERS = [
    Reconciler("kuadrant", "Kuadrant", kuadrant, _OPERATOR | {"Limitador", "Authorino"}),
    Reconciler("limitador", "Limitador", limitador, frozenset({"Deployment", "Secret", *_POLICIES})),
    Reconciler("authorino", "Authorino", authorino, frozenset({"Deployment"})),
    Reconciler("kuadrant-gateway", "Gateway", gateway, _OPERATOR | _POLICIES | _PATHS | _EFFECTS),
    *(
        Reconciler(f"kuadrant-{kind.lower()}", kind, policy, _OPERATOR | _POLICIES | _PATHS | _EFFECTS, ticks=True)
        for kind in (AUTH, REQUESTS, TOKENS)
    ),
]
__all__ = ["POLICY_CONTROLLER", "RECONCILERS", "winner"]
