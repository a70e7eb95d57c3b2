# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults asked for in ConfigMap lab-faults of namespace lab-system.

Each key is the name of a fault, its value the names that it strikes, separated by blanks or commas (`true`, `*` or
nothing: all).
"""

from __future__ import annotations

from lab.world.store import Store

NAMESPACE, CONFIGMAP = "lab-system", "lab-faults"
FAULTS = {
    "policy_never_accepted": "NAME...: a policy stays Accepted=False",
    "policy_never_enforced": "NAME...: a Kuadrant policy stays Enforced=False",
    "gateway_never_programmed": "NAME...: a Gateway stays Programmed=False",
    "route_never_accepted": "NAME...: an HTTPRoute or AIGatewayRoute is not accepted",
    "pool_unresolved": "NAME...: an InferencePool stays ResolvedRefs=False",
    "pods_never_start": "PREFIX...: containers of pods whose names begin so are not started",
    "pods_never_ready": "PREFIX...: pods whose names begin so do not become ready",
    "no_address": "SERVICE...: the load balancer has no address to give",
    "gpu_never_ready": "NODE...: no GPU becomes allocatable",
}


def struck(store: Store, fault: str) -> set[str]:
    """Names that a fault strikes; `*` stands for all."""
    data = (store.get("ConfigMap", NAMESPACE, CONFIGMAP) or {}).get("data") or {}
    if fault not in data:
        return set()
    names = set(data[fault].replace(",", " ").split()) or {"*"}
    return {"*"} if "true" in names else names


def hit(store: Store, fault: str, name: str) -> bool:
    return bool({"*", name} & struck(store, fault))


def hit_prefix(store: Store, fault: str, name: str) -> bool:
    return any(prefix == "*" or name.startswith(prefix) for prefix in struck(store, fault))
