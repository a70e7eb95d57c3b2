# SPDX-License-Identifier: GPL-3.0-or-later
"""Gateway API's rules about which route belongs to which Gateway, shared by the stand-in controllers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.world.store import Json, Store, created, deleting, is_true, key_of, labels

GATEWAY_API = "gateway.networking.k8s.io"
CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"


@dataclass(frozen=True)
class Verdict:
    """Whether a parent takes a route: Gateway API's Accepted condition."""

    accepted: bool
    reason: str = "Accepted"
    message: str = "Route is accepted"


def accepted_class(store: Store, name: str) -> bool:
    """Whether Envoy Gateway took this GatewayClass."""
    found = store.get("GatewayClass", "", name)
    return bool(found and found["spec"]["controllerName"] == CONTROLLER and is_true(found, "Accepted"))


def ours(store: Store, gateway: Json) -> bool:
    return not deleting(gateway) and accepted_class(store, gateway["spec"]["gatewayClassName"])


def names(ref: Json, route: Json, gateway: Json) -> bool:
    """Whether a parentRef of a route means this Gateway."""
    if ref.get("kind", "Gateway") != "Gateway" or ref.get("group", GATEWAY_API) != GATEWAY_API:
        return False
    return key_of(gateway) == (ref.get("namespace") or route["metadata"]["namespace"], ref["name"])


def parent_of(ref: Json, route: Json, store: Store) -> Json | None:
    """The Gateway that a parentRef names, whoever's it is."""
    if ref.get("kind", "Gateway") != "Gateway" or ref.get("group", GATEWAY_API) != GATEWAY_API:
        return None
    return store.get("Gateway", ref.get("namespace") or route["metadata"]["namespace"], ref["name"])


def hostnames_meet(one: str, other: str) -> bool:
    """Whether a listener's and a route's hostname have a host in common; `*.` matches one label or more."""
    if not one or not other or one == other:
        return True
    if one.startswith("*.") and (other.endswith(one[1:]) or other == one):
        return True
    return other.startswith("*.") and one.endswith(other[1:])


def _lets_in(listener: Json, gateway: Json, route: Json) -> bool:
    allowed = listener.get("allowedRoutes") or {}
    kinds = allowed.get("kinds") or []
    if kinds and not any(kind["kind"] == "HTTPRoute" for kind in kinds):
        return False
    origin = (allowed.get("namespaces") or {}).get("from", "Same")
    # Selectors on namespaces are not looked at: they let in.
    return origin != "Same" or gateway["metadata"]["namespace"] == route["metadata"]["namespace"]


def listeners_for(ref: Json, gateway: Json, route: Json) -> tuple[list[Json], Verdict]:
    """The listeners that take a route by one of its parentRefs, or why there is none."""
    section, port = ref.get("sectionName"), ref.get("port")
    found = [
        listener
        for listener in gateway["spec"]["listeners"]
        if section in (None, listener["name"])
        and port in (None, listener["port"])
        and listener["protocol"] in ("HTTP", "HTTPS")
    ]
    if not found:
        return [], Verdict(False, "NoMatchingParent", "No listeners match this parent ref")
    allowed = [listener for listener in found if _lets_in(listener, gateway, route)]
    if not allowed:
        return [], Verdict(
            False, "NotAllowedByListeners", "No listeners included by this parent ref allowed this attachment."
        )
    wanted = route["spec"].get("hostnames") or [""]
    meeting = [
        listener for listener in allowed if any(hostnames_meet(listener.get("hostname") or "", host) for host in wanted)
    ]
    if not meeting:
        return [], Verdict(
            False,
            "NoMatchingListenerHostname",
            "There were no hostname intersections between the HTTPRoute and this parent ref's Listener(s).",
        )
    return meeting, Verdict(True)


def attached_routes(gateway: Json, store: Store) -> list[Json]:
    """HTTPRoutes that Envoy Gateway accepted for a Gateway, oldest first."""
    found = []
    for route in store.all("HTTPRoute"):
        for status in (route.get("status") or {}).get("parents") or []:
            if status.get("controllerName") != CONTROLLER or not is_true({"status": status}, "Accepted"):
                continue
            if names(status["parentRef"], route, gateway) and not deleting(route):
                found.append(route)
                break
    return sorted(found, key=created)


def gateways_of(route: Json, store: Store) -> list[tuple[Json, Json]]:
    """A route's parentRefs that name Gateways of ours, each with its Gateway."""
    pairs = [(ref, parent_of(ref, route, store)) for ref in route["spec"].get("parentRefs") or []]
    return [(ref, gateway) for ref, gateway in pairs if gateway and ours(store, gateway)]


def granted(store: Store, origin: Json, origin_kind: str, target_kind: str, namespace: str, name: str) -> bool:
    """Whether a ReferenceGrant lets an object refer to one in another namespace."""
    if namespace == origin["metadata"]["namespace"]:
        return True
    return any(
        any(
            source["kind"] == origin_kind and source["namespace"] == origin["metadata"]["namespace"]
            for source in grant["spec"]["from"]
        )
        and any(
            target["kind"] == target_kind and target.get("name") in (None, "", name) for target in grant["spec"]["to"]
        )
        for grant in store.all("ReferenceGrant", namespace)
    )


def targets(policy: Json, store: Store) -> list[tuple[Json, Any]]:
    """A policy's target references, each with the object it names (None when there is none)."""
    spec, space = policy["spec"], policy["metadata"]["namespace"]
    refs = [*(spec.get("targetRefs") or []), *([spec["targetRef"]] if spec.get("targetRef") else [])]
    found = [(ref, store.get(ref["kind"], space, ref["name"])) for ref in refs]
    for selector in spec.get("targetSelectors") or []:
        wanted = (selector.get("matchLabels") or {}).items()
        for obj in store.all(selector["kind"], space):
            if wanted <= labels(obj).items():
                ref = {"group": GATEWAY_API, "kind": selector["kind"], "name": obj["metadata"]["name"]}
                found.append((ref, obj))
    return found
