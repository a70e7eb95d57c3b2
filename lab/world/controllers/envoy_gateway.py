# SPDX-License-Identifier: GPL-3.0-or-later
"""Envoy Gateway 1.7: certificates, GatewayClasses, Gateways with their Envoy, routes, the rate-limit service."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import yaml

from lab.world import faults, gateways
from lab.world.actions import Action, Apply, CreateOnce, Delete, Patch, SetStatus, cond, owner
from lab.world.engine import Reconciler
from lab.world.gateways import CONTROLLER, GATEWAY_API
from lab.world.pki import issue
from lab.world.store import Json, Store, deleting, labels, notes

MANAGER = "envoy-gateway"
CONFIGMAP = "envoy-gateway-config"
CLASS_FINALIZER = "gateway-exists-finalizer.gateway.networking.k8s.io"
ENVOY_IMAGE = "docker.io/envoyproxy/envoy:distroless-v1.37.5"
RATELIMIT_IMAGE = "docker.io/envoyproxy/ratelimit:f2fb1577"
OWNING = "gateway.envoyproxy.io/owning-gateway-"
CERTIFICATES = ("envoy-gateway", "envoy", "envoy-rate-limit")
RENEWED = "lab.tokenlabs.io/renewed-by"


# --- the controller itself
def controller(store: Store) -> Json | None:
    return store.controller("envoy-gateway")


def config(store: Store, namespace: str) -> Json:
    """The EnvoyGateway document that the controller was given."""
    data = (store.get("ConfigMap", namespace, CONFIGMAP) or {}).get("data") or {}
    return _parse(data.get("envoy-gateway.yaml") or "{}")


@functools.lru_cache(maxsize=8)
def _parse(text: str) -> Json:
    return yaml.safe_load(text) or {}


def current_config(store: Store) -> Json:
    running = controller(store)
    return config(store, running["metadata"]["namespace"]) if running else {}


def certgen(job: Json, store: Store) -> Iterator[Action]:
    """What `envoy-gateway certgen`, run by the chart's hook, leaves behind."""
    containers = job["spec"]["template"]["spec"]["containers"]
    called = [*(containers[0].get("command") or []), *(containers[0].get("args") or [])]
    if "certgen" not in called or not (job.get("status") or {}).get("succeeded"):
        return
    namespace, uid = job["metadata"]["namespace"], job["metadata"]["uid"]
    yield from _secrets(namespace)
    # What is there is left alone without this (envoyproxy/gateway v1.7.5 internal/cmd/certgen.go).
    for name in CERTIFICATES if "--overwrite" in called else ():
        secret = store.get("Secret", namespace, name)
        if secret and notes(secret).get(RENEWED) != uid:
            fresh = _certificate(namespace, name)["data"]
            yield Patch(secret, {"metadata": {"annotations": {RENEWED: uid}}, "data": fresh})


def certgen_of_before(deployment: Json, store: Store) -> Iterator[Action]:
    """The hook's Job is gone after 30 s; a Deployment proves that it ran."""
    if deployment["metadata"]["name"] == "envoy-gateway" and not deleting(deployment):
        yield from _secrets(deployment["metadata"]["namespace"])


def _secrets(namespace: str) -> Iterator[Action]:
    for name in CERTIFICATES:
        yield CreateOnce("Secret", namespace, name, functools.partial(_certificate, namespace, name))
    yield CreateOnce("Secret", namespace, "envoy-oidc-hmac", functools.partial(_hmac, namespace))


def _secret(namespace: str, name: str, data: dict[str, bytes], kind: str = "Opaque") -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {"control-plane": "envoy-gateway"}},
        "type": kind,
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def _certificate(namespace: str, name: str) -> Json:
    return _secret(namespace, name, issue(f"{name}.{namespace}.svc", 5 * 365), "kubernetes.io/tls")


def _hmac(namespace: str) -> Json:
    return _secret(namespace, "envoy-oidc-hmac", {"hmac-secret": os.urandom(32)})


# --- GatewayClass
def gateway_class(obj: Json, store: Store) -> Iterator[Action]:
    if obj["spec"]["controllerName"] != CONTROLLER or not controller(store):
        return
    used = any(gateway["spec"]["gatewayClassName"] == obj["metadata"]["name"] for gateway in store.all("Gateway"))
    finalizers = obj["metadata"].get("finalizers") or []
    if used != (CLASS_FINALIZER in finalizers) and not (deleting(obj) and used):
        rest = [name for name in finalizers if name != CLASS_FINALIZER]
        yield Patch(obj, {"metadata": {"finalizers": [*rest, *([CLASS_FINALIZER] if used else [])]}})
    if deleting(obj):
        return
    problem = _parameters_problem(obj["spec"].get("parametersRef"), store)
    yield SetStatus(
        obj,
        {
            "conditions": [
                cond(
                    "Accepted",
                    not problem,
                    "InvalidParameters" if problem else "Accepted",
                    problem or "Valid GatewayClass",
                    obj["metadata"].get("generation"),
                )
            ]
        },
    )


def _parameters_problem(ref: Json | None, store: Store) -> str:
    if not ref:
        return ""
    if ref["kind"] != "EnvoyProxy":
        return f"Unsupported parametersRef kind {ref['kind']}"
    if not store.get("EnvoyProxy", ref.get("namespace", ""), ref["name"]):
        return f"Failed to find envoyproxy {ref.get('namespace', '')}/{ref['name']}"
    return ""


# --- Gateway
def hashed_name(gateway: Json) -> str:
    """How Envoy Gateway names what it makes for a Gateway."""
    space, name = gateway["metadata"]["namespace"], gateway["metadata"]["name"]
    return f"envoy-{f'{space}-{name}'[:48]}-{hashlib.sha256(f'{space}/{name}'.encode()).hexdigest()[:8]}"


def envoy_labels(gateway: Json) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "envoy",
        "app.kubernetes.io/component": "proxy",
        "app.kubernetes.io/managed-by": "envoy-gateway",
        f"{OWNING}name": gateway["metadata"]["name"],
        f"{OWNING}namespace": gateway["metadata"]["namespace"],
    }


def envoy_proxy(gateway: Json, store: Store) -> tuple[Json, str]:
    """The EnvoyProxy that shapes a Gateway's Envoy (its own, else the class's), or what is wrong with it."""
    space = gateway["metadata"]["namespace"]
    if ref := (gateway["spec"].get("infrastructure") or {}).get("parametersRef"):
        found = store.get("EnvoyProxy", space, ref["name"]) if ref["kind"] == "EnvoyProxy" else None
        return found or {}, "" if found else f"Failed to find envoyproxy {space}/{ref['name']}"
    ref = ((store.get("GatewayClass", "", gateway["spec"]["gatewayClassName"]) or {})["spec"]).get("parametersRef")
    return (store.get("EnvoyProxy", ref.get("namespace", ""), ref["name"]) or {}) if ref else {}, ""


def gateway(obj: Json, store: Store) -> Iterator[Action]:
    running = controller(store)
    if not running or not gateways.ours(store, obj):
        return
    space = running["metadata"]["namespace"]
    proxy, problem = envoy_proxy(obj, store)
    generation = obj["metadata"]["generation"]
    if problem:
        yield SetStatus(
            obj,
            {
                "conditions": [
                    cond("Accepted", False, "InvalidParameters", problem, generation),
                    cond("Programmed", False, "Invalid", problem, generation),
                ]
            },
        )
        return
    yield from _infrastructure(obj, proxy, space)
    yield SetStatus(obj, _gateway_status(obj, space, store))


def _gateway_status(obj: Json, space: str, store: Store) -> Json:
    generation, name = obj["metadata"]["generation"], hashed_name(obj)
    addresses = _addresses(obj, store.get("Service", space, name))
    replicas = (store.get("Deployment", space, name) or {}).get("status") or {}
    available = replicas.get("availableReplicas", 0)
    if faults.hit(store, "gateway_never_programmed", obj["metadata"]["name"]) or not addresses:
        programmed = cond(
            "Programmed", False, "AddressNotAssigned", "No addresses have been assigned to the Gateway", generation
        )
    elif not available:
        programmed = cond("Programmed", False, "NoResources", "Envoy replicas unavailable", generation)
    else:
        message = f"Address assigned to the Gateway, {available}/{replicas.get('replicas', 0)} envoy replicas available"
        programmed = cond("Programmed", True, message=message, generation=generation)
    return {
        "addresses": [{"type": "IPAddress", "value": address} for address in addresses],
        "conditions": [
            cond("Accepted", True, message="The Gateway has been scheduled by Envoy Gateway", generation=generation),
            programmed,
        ],
        "listeners": [_listener_status(obj, listener, store) for listener in obj["spec"]["listeners"]],
    }


def _addresses(obj: Json, service: Json | None) -> list[str]:
    if not service:
        return []
    spec = service["spec"]
    if obj["spec"].get("addresses") and spec.get("externalIPs"):
        return spec["externalIPs"]
    if obj["spec"].get("addresses") or spec["type"] == "ClusterIP":
        return [address for address in spec.get("clusterIPs") or [] if address]
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return [entry["ip"] for entry in ingress if entry.get("ip")]


def _listener_status(obj: Json, listener: Json, store: Store) -> Json:
    generation, space = obj["metadata"]["generation"], obj["metadata"]["namespace"]
    missing = [
        ref["name"]
        for ref in (listener.get("tls") or {}).get("certificateRefs") or []
        if not store.get("Secret", ref.get("namespace") or space, ref["name"])
    ]
    attached = sum(
        listener in gateways.listeners_for(ref, obj, route)[0]
        for route in gateways.attached_routes(obj, store)
        for ref in route["spec"].get("parentRefs") or []
        if gateways.names(ref, route, obj)
    )
    resolved = cond("ResolvedRefs", True, message="Listener references have been resolved", generation=generation)
    programmed = cond(
        "Programmed", True, message="Sending translated listener configuration to the data plane", generation=generation
    )
    if missing:
        text = f"Secret {space}/{missing[0]} does not exist."
        resolved = cond("ResolvedRefs", False, "InvalidCertificateRef", text, generation)
        programmed = cond(
            "Programmed", False, "Invalid", "Listener is invalid, see other Conditions for details.", generation
        )
    return {
        "name": listener["name"],
        "attachedRoutes": attached,
        "supportedKinds": [{"group": GATEWAY_API, "kind": kind} for kind in ("HTTPRoute", "GRPCRoute")],
        "conditions": [
            programmed,
            cond("Accepted", True, message="Listener has been successfully translated", generation=generation),
            resolved,
        ],
    }


def _infrastructure(obj: Json, proxy: Json, space: str) -> Iterator[Action]:
    """Envoy's Deployment and Service, as the EnvoyProxy wants them."""
    name, wanted = hashed_name(obj), envoy_labels(obj)
    meta = {"name": name, "namespace": space, "labels": wanted}
    kubernetes = ((proxy.get("spec") or {}).get("provider") or {}).get("kubernetes") or {}
    infrastructure = obj["spec"].get("infrastructure") or {}
    yield Apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}, MANAGER)
    yield Apply(_envoy_deployment(obj, meta, kubernetes.get("envoyDeployment") or {}), MANAGER)
    service = kubernetes.get("envoyService") or {}
    spec: Json = {
        "type": service.get("type", "LoadBalancer"),
        "selector": wanted,
        "ports": [
            {
                "name": f"{item['protocol'].lower()}-{item['port']}",
                "port": item["port"],
                "protocol": "TCP",
                "targetPort": _container_port(item["port"]),
            }
            for item in {item["port"]: item for item in obj["spec"]["listeners"]}.values()
        ],
    }
    if spec["type"] != "ClusterIP":
        spec["externalTrafficPolicy"] = service.get("externalTrafficPolicy", "Local")
    if spec["type"] == "LoadBalancer":
        if "allocateLoadBalancerNodePorts" in service:
            spec["allocateLoadBalancerNodePorts"] = service["allocateLoadBalancerNodePorts"]
        if service.get("loadBalancerIP"):
            spec["loadBalancerIP"] = service["loadBalancerIP"]
        if service.get("loadBalancerClass"):
            spec["loadBalancerClass"] = service["loadBalancerClass"]
    if addresses := [item["value"] for item in obj["spec"].get("addresses") or [] if item.get("value")]:
        spec.update({"clusterIP": addresses[0]} if spec["type"] == "ClusterIP" else {"externalIPs": addresses})
    notes = {**(infrastructure.get("annotations") or {}), **(service.get("annotations") or {})}
    service_meta = {
        **meta,
        **({"annotations": notes} if notes else {}),
        "labels": {**(infrastructure.get("labels") or {}), **(service.get("labels") or {}), **wanted},
    }
    yield Apply({"apiVersion": "v1", "kind": "Service", "metadata": service_meta, "spec": spec}, MANAGER)


def _container_port(port: int) -> int:
    """Envoy runs without the right to low ports."""
    return port + 10000 if port < 1024 else port


def _envoy_deployment(obj: Json, meta: Json, wanted: Json) -> Json:
    pod = wanted.get("pod") or {}
    container = wanted.get("container") or {}
    ports = [
        {"name": f"http-{port}", "containerPort": _container_port(port), "protocol": "TCP"}
        for port in sorted({listener["port"] for listener in obj["spec"]["listeners"]})
    ]
    spec: Json = {
        "serviceAccountName": meta["name"],
        "terminationGracePeriodSeconds": 360,
        "containers": [
            {
                "name": "envoy",
                "image": container.get("image", ENVOY_IMAGE),
                "imagePullPolicy": "IfNotPresent",
                "command": ["envoy"],
                "args": [f"--service-cluster {meta['name']}", "--service-node $(ENVOY_POD_NAME)"],
                "ports": [
                    *ports,
                    {"name": "metrics", "containerPort": 19001, "protocol": "TCP"},
                    {"name": "readiness", "containerPort": 19003, "protocol": "TCP"},
                ],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 19003}},
                "volumeMounts": [{"name": "certs", "mountPath": "/certs", "readOnly": True}],
                **({"resources": container["resources"]} if container.get("resources") else {}),
                **({"env": container["env"]} if container.get("env") else {}),
            },
            {
                "name": "shutdown-manager",
                "image": "docker.io/envoyproxy/gateway:v1.7.5",
                "imagePullPolicy": "IfNotPresent",
                "command": ["envoy-gateway"],
                "args": ["envoy", "shutdown-manager"],
            },
        ],
        "volumes": [{"name": "certs", "secret": {"secretName": "envoy"}}],
    }
    for field in ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "imagePullSecrets"):
        if pod.get(field):
            spec[field] = pod[field]
    template_meta: Json = {
        "labels": {**(pod.get("labels") or {}), **meta["labels"]},
        "annotations": {
            "prometheus.io/path": "/stats/prometheus",
            "prometheus.io/port": "19001",
            "prometheus.io/scrape": "true",
            **(pod.get("annotations") or {}),
        },
    }
    deployment: Json = {
        "replicas": wanted.get("replicas", 1),
        "strategy": wanted.get("strategy") or {"type": "RollingUpdate"},
        "selector": {"matchLabels": meta["labels"]},
        "template": {"metadata": template_meta, "spec": spec},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment}


def orphan(obj: Json, store: Store) -> Iterator[Action]:
    """What was made for a Gateway goes with it."""
    if labels(obj).get("app.kubernetes.io/managed-by") != "envoy-gateway" or not controller(store):
        return
    name, space = labels(obj).get(f"{OWNING}name"), labels(obj).get(f"{OWNING}namespace")
    if name and not store.get("Gateway", space or "", name):
        yield Delete(obj)


# --- HTTPRoute
def http_route(obj: Json, store: Store) -> Iterator[Action]:
    if not controller(store) or deleting(obj):
        return
    generation = obj["metadata"]["generation"]
    refs_problem = _reference_problem(obj, store)
    filters_problem = _filter_problem(obj, store)
    parents = []
    for ref, parent in gateways.gateways_of(obj, store):
        verdict = gateways.listeners_for(ref, parent, obj)[1]
        if faults.hit(store, "route_never_accepted", obj["metadata"]["name"]):
            verdict = gateways.Verdict(False, "UnsupportedValue", "Route is held back")
        elif verdict.accepted and filters_problem:
            verdict = gateways.Verdict(False, "UnsupportedValue", filters_problem)
        resolved = cond(
            "ResolvedRefs",
            not refs_problem,
            refs_problem[0] if refs_problem else "ResolvedRefs",
            refs_problem[1] if refs_problem else "Resolved all the Object references for the Route",
            generation,
        )
        accepted = cond("Accepted", verdict.accepted, verdict.reason, verdict.message, generation)
        parents.append({"controllerName": CONTROLLER, "parentRef": ref, "conditions": [accepted, resolved]})
    foreign = [
        entry for entry in (obj.get("status") or {}).get("parents") or [] if entry.get("controllerName") != CONTROLLER
    ]
    if parents or (obj.get("status") or {}).get("parents"):
        yield SetStatus(obj, {"parents": [*foreign, *parents]})


def _reference_problem(route: Json, store: Store) -> tuple[str, str] | None:
    """The first backend that cannot be found, as (reason, message)."""
    space = route["metadata"]["namespace"]
    known = {("", "Service"): "Service", ("gateway.envoyproxy.io", "Backend"): "Backend"}
    for entry in (current_config(store).get("extensionManager") or {}).get("backendResources") or []:
        known[entry["group"], entry["kind"]] = entry["kind"]
    for ref in (ref for rule in route["spec"].get("rules") or [] for ref in rule.get("backendRefs") or []):
        key = ref.get("group") or "", ref.get("kind") or "Service"
        if key not in known:
            return "InvalidKind", f"Group {key[0]!r} kind {key[1]!r} is not supported as a backend"
        target = ref.get("namespace") or space
        if not gateways.granted(store, route, "HTTPRoute", key[1], target, ref["name"]):
            return (
                "RefNotPermitted",
                f"Backend ref to {key[1]} {target}/{ref['name']} not permitted by any ReferenceGrant.",
            )
        found = store.get(known[key], target, ref["name"])
        if not found:
            kind = f"custom backend {key[1]}" if key[1] == "InferencePool" else key[1]
            return "BackendNotFound", f"{kind} {target}/{ref['name']} not found"
        if key[1] == "Service" and not any(port["port"] == ref.get("port") for port in found["spec"]["ports"]):
            return "PortNotFound", f"TCP Port {ref.get('port')} not found on Service {target}/{ref['name']}"
        if key[1] == "Backend" and not (current_config(store).get("extensionApis") or {}).get("enableBackend"):
            return "UnsupportedValue", "Backend is not enabled in Envoy Gateway configuration"
    return None


def _filter_problem(route: Json, store: Store) -> str:
    """What is wrong with the first of Envoy Gateway's own filters that does not work."""
    space = route["metadata"]["namespace"]
    for item in (item for rule in route["spec"].get("rules") or [] for item in rule.get("filters") or []):
        ref = item.get("extensionRef")
        if not ref:
            continue
        found = store.get("HTTPRouteFilter", space, ref["name"]) if ref["kind"] == "HTTPRouteFilter" else None
        if not found:
            return f"Unable to translate HTTPRouteFilter: {space}/{ref['name']}"
        if problem := _missing_value(found["spec"], space, store):
            return problem
    return ""


def _missing_value(spec: Json, space: str, store: Store) -> str:
    credential = (((spec.get("credentialInjection") or {}).get("credential") or {}).get("valueRef") or {}).get("name")
    if credential:
        data = (store.get("Secret", space, credential) or {}).get("data") or {}
        if "credential" not in data:
            return f"Secret {space}/{credential} with key credential not found"
    body = ((spec.get("directResponse") or {}).get("body") or {}).get("valueRef")
    if body and not store.get("ConfigMap", space, body["name"]):
        return f"can't find the referenced configmap {body['name']} in namespace {space}"
    return ""


# --- global rate limits
def rate_limit(obj: Json, store: Store) -> Iterator[Action]:
    """The rate-limit service, when the configuration names a Redis for it."""
    if obj["metadata"]["name"] != "envoy-gateway" or controller(store) is not obj:
        return
    space = obj["metadata"]["namespace"]
    wanted = config(store, space)
    redis = ((wanted.get("rateLimit") or {}).get("backend") or {}).get("redis")
    name = "envoy-ratelimit"
    if not redis:
        for kind in ("Deployment", "Service", "ServiceAccount"):
            if found := store.get(kind, space, name):
                yield Delete(found)
        return
    marks = {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": "ratelimit",
        "app.kubernetes.io/managed-by": "envoy-gateway",
    }
    meta = {"name": name, "namespace": space, "labels": marks, "ownerReferences": [owner(obj)]}
    custom = (((wanted.get("provider") or {}).get("kubernetes") or {}).get("rateLimitDeployment")) or {}
    container, pod = custom.get("container") or {}, custom.get("pod") or {}
    env: list[Any] = [
        {"name": "REDIS_SOCKET_TYPE", "value": "tcp"},
        {"name": "REDIS_URL", "value": redis["url"]},
        {"name": "CONFIG_TYPE", "value": "GRPC_XDS_SOTW"},
        {"name": "CONFIG_GRPC_XDS_SERVER_URL", "value": "envoy-gateway:18001"},
        *(container.get("env") or []),
    ]
    spec: Json = {
        "serviceAccountName": name,
        "containers": [
            {
                "name": name,
                "image": container.get("image", RATELIMIT_IMAGE),
                "command": ["/bin/ratelimit"],
                "env": env,
                "ports": [
                    {"name": "grpc", "containerPort": 8081, "protocol": "TCP"},
                    {"name": "metrics", "containerPort": 19001, "protocol": "TCP"},
                ],
                "readinessProbe": {"httpGet": {"path": "/healthcheck", "port": 8080}},
                "volumeMounts": [{"name": "certs", "mountPath": "/certs", "readOnly": True}],
                **({"resources": container["resources"]} if container.get("resources") else {}),
            }
        ],
        "volumes": [{"name": "certs", "secret": {"secretName": "envoy-rate-limit"}}],
        **{key: pod[key] for key in ("nodeSelector", "tolerations", "affinity") if pod.get(key)},
    }
    template = {"metadata": {"labels": marks, "annotations": pod.get("annotations") or {}}, "spec": spec}
    deployment: Json = {"replicas": custom.get("replicas", 1), "selector": {"matchLabels": marks}, "template": template}
    yield Apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}, MANAGER)
    yield Apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {
                "selector": marks,
                "ports": [
                    {"name": "grpc", "port": 8081, "protocol": "TCP", "targetPort": 8081},
                    {"name": "metrics", "port": 19001, "protocol": "TCP", "targetPort": 19001},
                ],
            },
        },
        MANAGER,
    )
    yield Apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment}, MANAGER)


# --- when the controller's pod becomes ready
def not_ready(store: Store, namespace: str) -> str:
    """Why Envoy Gateway's readiness probe fails: it waits for all its caches."""
    needed = [f"{plural}.{GATEWAY_API}" for plural in ("gatewayclasses", "gateways", "httproutes", "referencegrants")]
    needed += [
        f"{plural}.gateway.envoyproxy.io"
        for plural in (
            "envoyproxies",
            "envoypatchpolicies",
            "clienttrafficpolicies",
            "backendtrafficpolicies",
            "securitypolicies",
            "envoyextensionpolicies",
            "backends",
            "httproutefilters",
        )
    ]
    for entry in (config(store, namespace).get("extensionManager") or {}).get("backendResources") or []:
        needed.append(f"{entry['kind'].lower()}s.{entry['group']}")
        account = {"kind": "ServiceAccount", "name": "envoy-gateway", "namespace": namespace}
        allowed = any(
            binding["roleRef"]["name"].startswith("envoy-ai-gateway-inference-pool-reader")
            and any(account.items() <= subject.items() for subject in binding.get("subjects") or [])
            for binding in store.all("ClusterRoleBinding")
        )
        if not allowed:
            return f"caches are not synced: {account['name']} may not list {entry['kind']}.{entry['group']}"
    if missing := [name for name in needed if not store.has_crds(name)]:
        return f"caches are not synced: no kind for {missing[0]}"
    return ""


_CONTROLLER = {"Deployment", "Secret"}
RECONCILERS = [
    Reconciler("eg-certgen", "Job", certgen, frozenset({"Secret"})),
    Reconciler("eg-certgen", "Deployment", certgen_of_before, frozenset({"Secret"})),
    Reconciler("eg-gatewayclass", "GatewayClass", gateway_class, frozenset({"Gateway", "EnvoyProxy", *_CONTROLLER})),
    Reconciler(
        "eg-gateway",
        "Gateway",
        gateway,
        frozenset({"GatewayClass", "EnvoyProxy", "Service", "HTTPRoute", *_CONTROLLER}),
    ),
    Reconciler("eg-orphan", "Deployment", orphan, frozenset({"Gateway"})),
    Reconciler("eg-orphan", "Service", orphan, frozenset({"Gateway", "Deployment"})),
    Reconciler("eg-orphan", "ServiceAccount", orphan, frozenset({"Gateway", "Deployment"})),
    Reconciler("eg-ratelimit", "Deployment", rate_limit, frozenset({"Service"})),
    Reconciler(
        "eg-httproute",
        "HTTPRoute",
        http_route,
        frozenset(
            {
                "Gateway",
                "GatewayClass",
                "Service",
                "Backend",
                "InferencePool",
                "HTTPRouteFilter",
                "ReferenceGrant",
                *_CONTROLLER,
            }
        ),
    ),
]
