# SPDX-License-Identifier: GPL-3.0-or-later
"""What the data plane knows of the cluster: which kinds it reads, what it keeps of each object, and the store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
Name = tuple[str, str]  # namespace, name


@dataclass(frozen=True)
class Kind:
    """A kind that is watched in every namespace, unless a namespace or field selector narrows it."""

    name: str
    group: str
    resource: str
    versions: tuple[str, ...]


def _kind(name: str, group: str, resource: str, *versions: str) -> Kind:
    return Kind(name, group, resource, versions)


_EG, _GWAPI, _KUADRANT = "gateway.envoyproxy.io", "gateway.networking.k8s.io", "kuadrant.io"

KINDS: tuple[Kind, ...] = (
    _kind("Gateway", _GWAPI, "gateways", "v1"),
    _kind("HTTPRoute", _GWAPI, "httproutes", "v1"),
    _kind("ReferenceGrant", _GWAPI, "referencegrants", "v1", "v1beta1"),
    _kind("AIGatewayRoute", "aigateway.envoyproxy.io", "aigatewayroutes", "v1beta1", "v1alpha1"),
    _kind("HTTPRouteFilter", _EG, "httproutefilters", "v1alpha1"),
    _kind("Backend", _EG, "backends", "v1alpha1"),
    _kind("BackendTrafficPolicy", _EG, "backendtrafficpolicies", "v1alpha1"),
    _kind("ClientTrafficPolicy", _EG, "clienttrafficpolicies", "v1alpha1"),
    _kind("EnvoyExtensionPolicy", _EG, "envoyextensionpolicies", "v1alpha1"),
    _kind("SecurityPolicy", _EG, "securitypolicies", "v1alpha1"),
    _kind("EnvoyPatchPolicy", _EG, "envoypatchpolicies", "v1alpha1"),
    _kind("AuthPolicy", _KUADRANT, "authpolicies", "v1"),
    _kind("RateLimitPolicy", _KUADRANT, "ratelimitpolicies", "v1"),
    _kind("TokenRateLimitPolicy", _KUADRANT, "tokenratelimitpolicies", "v1", "v1alpha1"),
    _kind("Kuadrant", _KUADRANT, "kuadrants", "v1beta1"),
    _kind("Limitador", "limitador.kuadrant.io", "limitadors", "v1alpha1"),
    _kind("Authorino", "operator.authorino.kuadrant.io", "authorinos", "v1beta1"),
    _kind("InferencePool", "inference.networking.k8s.io", "inferencepools", "v1"),
    _kind("Deployment", "apps", "deployments", "v1"),
    _kind("Pod", "", "pods", "v1"),
    _kind("Service", "", "services", "v1"),
    _kind("EndpointSlice", "discovery.k8s.io", "endpointslices", "v1"),
)
# Watched one by one, where something refers to them: the whole of a cluster's Secrets is nobody's business here.
SECRET = _kind("Secret", "", "secrets", "v1")
CONFIG_MAP = _kind("ConfigMap", "", "configmaps", "v1")

ENVOY_GATEWAY_NAMESPACE = "envoy-gateway-system"
ENVOY_GATEWAY_CONFIG = (ENVOY_GATEWAY_NAMESPACE, "envoy-gateway-config")


def name_of(obj: Mapping[str, Any]) -> Name:
    meta = obj.get("metadata") or {}
    return meta.get("namespace") or "", meta["name"]


def labels_of(obj: Mapping[str, Any]) -> dict[str, str]:
    return (obj.get("metadata") or {}).get("labels") or {}


def annotations_of(obj: Mapping[str, Any]) -> dict[str, str]:
    return (obj.get("metadata") or {}).get("annotations") or {}


def matches_labels(labels: Mapping[str, str], selector: Mapping[str, Any]) -> bool:
    """A label selector with matchLabels and matchExpressions."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or []:
        value, wanted = labels.get(term["key"]), term.get("values") or []
        met = {
            "In": value in wanted,
            "NotIn": value not in wanted,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }.get(term["operator"], False)
        if not met:
            return False
    return True


def condition(conditions: Iterable[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any] | None:
    return next((c for c in conditions or [] if c.get("type") == name), None)


def is_true(conditions: Iterable[Mapping[str, Any]] | None, name: str) -> bool:
    found = condition(conditions, name)
    return found is not None and found.get("status") == "True"


def _shared(pairs: Mapping[str, str]) -> dict[str, str]:
    """Names of labels and annotations are the same on thousands of objects: keep each once."""
    return {sys.intern(key): value for key, value in pairs.items()}


_META = ("name", "namespace", "uid", "labels", "annotations", "creationTimestamp", "generation", "deletionTimestamp")


def trimmed(kind: str, obj: Object) -> Object:
    """The part of an object that answers depend on: thousands of Secrets and Pods must fit in little memory."""
    source = obj.get("metadata") or {}
    meta = {key: source[key] for key in _META if source.get(key)}
    if "labels" in meta:
        meta["labels"] = {key: sys.intern(value) for key, value in _shared(meta["labels"]).items()}
    if "annotations" in meta:
        meta["annotations"] = _shared(meta["annotations"])
        meta["annotations"].pop("kubectl.kubernetes.io/last-applied-configuration", None)
    kept: Object = {"metadata": meta}
    if kind == "Pod":
        status = obj.get("status") or {}
        kept["status"] = {
            "podIP": status.get("podIP"),
            "phase": status.get("phase"),
            "conditions": [c for c in status.get("conditions") or [] if c.get("type") == "Ready"],
        }
    elif kind == "Deployment":
        spec = obj.get("spec") or {}
        kept["spec"] = {"selector": spec.get("selector") or {}, "replicas": spec.get("replicas", 1)}
        containers = ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
        env = [item for container in containers for item in container.get("env") or []]
        kept["spec"]["env"] = {item["name"]: item["value"] for item in env if "value" in item}
        kept["status"] = {"availableReplicas": (obj.get("status") or {}).get("availableReplicas", 0)}
    else:
        kept.update({key: value for key, value in obj.items() if key not in ("metadata", "apiVersion", "kind")})
    return kept


@dataclass(frozen=True)
class Snapshot:
    """All objects at one moment, by kind and name. Nobody changes what is in it."""

    kinds: Mapping[str, Mapping[Name, Object]]

    def all(self, kind: str) -> Iterable[Object]:
        return self.kinds.get(kind, {}).values()

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        return self.kinds.get(kind, {}).get((namespace, name))


SecretListener = Callable[[Name, Object | None], None]


@dataclass
class Store:
    """The objects as last seen; it tells its listeners that something changed, and of each Secret that did."""

    kinds: dict[str, dict[Name, Object]] = field(default_factory=dict)
    on_change: list[Callable[[str, Name], None]] = field(default_factory=list)
    on_secret: list[SecretListener] = field(default_factory=list)

    def put(self, kind: str, obj: Object) -> None:
        key = name_of(obj)
        known = self.kinds.setdefault(kind, {})
        kept = trimmed(kind, obj)
        if known.get(key) == kept:
            return
        known[key] = kept
        self._tell(kind, key, kept)

    def remove(self, kind: str, key: Name) -> None:
        if self.kinds.get(kind, {}).pop(key, None) is not None:
            self._tell(kind, key, None)

    def keep(self, kind: str, names: Collection[Name], scope: Callable[[Name], bool] = lambda _: True) -> None:
        """What a fresh list did not name (within the list's scope) is gone."""
        for key in [key for key in self.kinds.get(kind, {}) if key not in names and scope(key)]:
            self.remove(kind, key)

    def _tell(self, kind: str, key: Name, obj: Object | None) -> None:
        if kind == "Secret":
            for listener in self.on_secret:
                listener(key, obj)
        for changed in self.on_change:
            changed(kind, key)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            {kind: dict(objects) for kind, objects in self.kinds.items() if kind != "Secret"}
            | {"Secret": self.kinds.get("Secret", {})}
        )
