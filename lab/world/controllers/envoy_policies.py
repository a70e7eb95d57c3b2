# SPDX-License-Identifier: GPL-3.0-or-later
"""Envoy Gateway's policies: who is attached where, who conflicts with whom."""

from __future__ import annotations

from collections.abc import Iterator

from lab.world import faults, gateways
from lab.world.actions import Action, SetStatus, cond
from lab.world.controllers import envoy_gateway
from lab.world.engine import Reconciler
from lab.world.gateways import CONTROLLER, GATEWAY_API
from lab.world.store import Json, Store, created, deleting, key_of

# What each kind says of itself; EnvoyPatchPolicy has a condition more.
ATTACHING = ("BackendTrafficPolicy", "ClientTrafficPolicy", "SecurityPolicy", "EnvoyExtensionPolicy")


def _ancestor(gateway: Json, section: str | None = None) -> Json:
    ref = {
        "group": GATEWAY_API,
        "kind": "Gateway",
        "name": gateway["metadata"]["name"],
        "namespace": gateway["metadata"]["namespace"],
    }
    return {**ref, **({"sectionName": section} if section else {})}


def _ancestors(ref: Json, target: Json | None, store: Store) -> list[Json]:
    """The Gateways through which a target is reached; none when it is not there, and then nothing is said."""
    if not target:
        return []
    if ref["kind"] == "Gateway":
        return [_ancestor(target, ref.get("sectionName"))] if gateways.ours(store, target) else []
    return [_ancestor(gateway, parent.get("sectionName")) for parent, gateway in gateways.gateways_of(target, store)]


def _rival(policy: Json, ref: Json, store: Store) -> Json | None:
    """An older policy of the same kind on the same target: the first one wins."""
    place = (ref["kind"], ref["name"], ref.get("sectionName"))
    rivals = [
        other
        for other in store.all(policy["kind"], policy["metadata"]["namespace"])
        if not deleting(other)
        and created(other) < created(policy)
        and any((r["kind"], r["name"], r.get("sectionName")) == place for r, _ in gateways.targets(other, store))
    ]
    return min(rivals, key=created, default=None)


def _overriding_routes(policy: Json, gateway: Json, store: Store) -> list[str]:
    """Routes of a Gateway that have a policy of this kind of their own, which replaces the Gateway's."""
    attached = {key_of(route) for route in gateways.attached_routes(gateway, store)}
    return sorted(
        "/".join(key_of(target))
        for other in store.all(policy["kind"])
        if not deleting(other)
        for ref, target in gateways.targets(other, store)
        if ref["kind"] == "HTTPRoute" and target and key_of(target) in attached
    )


def attach(policy: Json, store: Store) -> Iterator[Action]:
    if not envoy_gateway.controller(store) or deleting(policy):
        return
    generation, kind = policy["metadata"]["generation"], policy["kind"]
    entries: list[Json] = []
    for ref, target in gateways.targets(policy, store):
        for ancestor in _ancestors(ref, target, store):
            rival = _rival(policy, ref, store)
            if faults.hit(store, "policy_never_accepted", policy["metadata"]["name"]):
                conditions = [cond("Accepted", False, "Invalid", f"{kind} is held back", generation)]
            elif rival:
                text = f"Unable to target {ref['kind']} {ref['name']}, another {kind} has already attached to it"
                conditions = [cond("Accepted", False, "Conflicted", text, generation)]
            elif problem := _invalid(policy, store):
                conditions = [cond("Accepted", False, "Invalid", problem, generation)]
            else:
                conditions = [cond("Accepted", True, message="Policy has been accepted.", generation=generation)]
                over = _overriding_routes(policy, target, store) if ref["kind"] == "Gateway" and target else []
                if over and kind != "ClientTrafficPolicy":
                    text = (
                        f"This policy is being overridden by other {kind[0].lower() + kind[1:]}s for these routes: "
                        f"{over}"
                    ).replace("'", "")
                    conditions.append(cond("Overridden", True, message=text, generation=generation))
            entry = {"ancestorRef": ancestor, "controllerName": CONTROLLER, "conditions": conditions}
            entries += [entry] if entry not in entries else []
    if entries or (policy.get("status") or {}).get("ancestors"):
        yield SetStatus(policy, {"ancestors": entries})


def _invalid(policy: Json, store: Store) -> str:
    spec = policy["spec"]
    config = envoy_gateway.current_config(store)
    if (spec.get("rateLimit") or {}).get("global") and not config.get("rateLimit"):
        return "RateLimit: enable Ratelimit in the EnvoyGateway config to configure global ratelimit policy."
    return ""


def patch_policy(policy: Json, store: Store) -> Iterator[Action]:
    if not envoy_gateway.controller(store) or deleting(policy):
        return
    generation = policy["metadata"]["generation"]
    enabled = (envoy_gateway.current_config(store).get("extensionApis") or {}).get("enableEnvoyPatchPolicy")
    entries = []
    for ref, target in gateways.targets(policy, store):
        for ancestor in _ancestors(ref, target, store):
            if enabled:
                conditions = [
                    cond("Accepted", True, message="Policy has been accepted.", generation=generation),
                    cond("Programmed", True, message="Patches have been successfully applied.", generation=generation),
                ]
            else:
                text = "EnvoyPatchPolicy is disabled in the EnvoyGateway configuration"
                conditions = [cond("Accepted", False, "Disabled", text, generation)]
            entries.append({"ancestorRef": ancestor, "controllerName": CONTROLLER, "conditions": conditions})
    if entries or (policy.get("status") or {}).get("ancestors"):
        yield SetStatus(policy, {"ancestors": entries})


def backend(obj: Json, store: Store) -> Iterator[Action]:
    if not envoy_gateway.controller(store):
        return
    generation = obj["metadata"]["generation"]
    if (envoy_gateway.current_config(store).get("extensionApis") or {}).get("enableBackend"):
        condition = cond("Accepted", True, message="The Backend was accepted", generation=generation)
    else:
        text = "The Backend was not accepted since Backend is not enabled in Envoy Gateway Config"
        condition = cond("Accepted", False, "Invalid", text, generation)
    yield SetStatus(obj, {"conditions": [condition]})


def backend_tls(policy: Json, store: Store) -> Iterator[Action]:
    """Told of once a route uses the backend that it is for."""
    if not envoy_gateway.controller(store):
        return
    generation, space = policy["metadata"]["generation"], policy["metadata"]["namespace"]
    named = {(ref["kind"], ref["name"]) for ref in policy["spec"]["targetRefs"]}
    users = [
        route
        for route in store.all("HTTPRoute")
        for rule in route["spec"].get("rules") or []
        for ref in rule.get("backendRefs") or []
        if (ref.get("kind", "Service"), ref["name"]) in named
        and (ref.get("namespace") or route["metadata"]["namespace"]) == space
    ]
    accepted = [
        cond("Accepted", True, message="Policy has been accepted.", generation=generation),
        cond("ResolvedRefs", True, message="Resolved all the Object references.", generation=generation),
    ]
    parents = {key_of(gateway): gateway for route in users for _, gateway in gateways.gateways_of(route, store)}
    entries = [
        {"ancestorRef": _ancestor(gateway), "controllerName": CONTROLLER, "conditions": accepted}
        for gateway in parents.values()
    ]
    if entries or (policy.get("status") or {}).get("ancestors"):
        yield SetStatus(policy, {"ancestors": entries})


_SEEN = frozenset({"Gateway", "GatewayClass", "HTTPRoute", "Deployment"})
RECONCILERS = [
    *(Reconciler(f"eg-{kind.lower()}", kind, attach, _SEEN) for kind in ATTACHING),
    Reconciler("eg-envoypatchpolicy", "EnvoyPatchPolicy", patch_policy, _SEEN),
    Reconciler("eg-backend", "Backend", backend, _SEEN),
    Reconciler("eg-backendtlspolicy", "BackendTLSPolicy", backend_tls, _SEEN),
]
