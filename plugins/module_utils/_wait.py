# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When is an object ready, and why is it not yet?

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import (
    UNREACHABLE,
    Kube,
    KubeError,
    UnknownKind,
    in_parallel,
    title,
)

Object = Mapping[str, Any]
# Objects are looked at again each second, and only those not yet ready.
INTERVAL = 1.0
EVENTS = 3
MISSING: Any = object()


class NeverReady(Exception):
    """The object has failed for good; waiting longer is of no use."""


@dataclass(frozen=True, eq=False)
class Target:
    """One object and what to wait for; with neither conditions nor fields, what is usual for its kind."""

    api_version: str
    kind: str
    name: str
    namespace: str | None = None
    conditions: tuple[str, ...] = ()
    fields: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        return title(self.kind, self.namespace, self.name)


# Conditions that mean "ready" for kinds whose status is made of conditions.
READY_CONDITIONS: dict[str, tuple[str, ...]] = {
    "AIGatewayRoute": ("Accepted",),
    "APIService": ("Available",),
    "AuthConfig": ("Ready",),
    "AuthPolicy": ("Accepted", "Enforced"),
    "Authorino": ("Ready",),
    "BackendTLSPolicy": ("Accepted",),
    "BackendTrafficPolicy": ("Accepted",),
    "ClientTrafficPolicy": ("Accepted",),
    "CustomResourceDefinition": ("NamesAccepted", "Established"),
    "EnvoyExtensionPolicy": ("Accepted",),
    "EnvoyPatchPolicy": ("Accepted", "Programmed"),
    "GRPCRoute": ("Accepted", "ResolvedRefs"),
    "Gateway": ("Accepted", "Programmed"),
    "GatewayClass": ("Accepted",),
    "HTTPRoute": ("Accepted", "ResolvedRefs"),
    "InferencePool": ("Accepted", "ResolvedRefs"),
    "Kuadrant": ("Ready",),
    "Limitador": ("Ready",),
    "Node": ("Ready",),
    "Pod": ("Ready",),
    "RateLimitPolicy": ("Accepted", "Enforced"),
    "SecurityPolicy": ("Accepted",),
    "TokenRateLimitPolicy": ("Accepted", "Enforced"),
}


def complaints(target: Target, live: Object | None) -> list[str]:
    """What is still missing; nothing when the object is ready. Raises NeverReady when it cannot become so."""
    if live is None:
        return ["it does not exist"]
    if (live.get("metadata") or {}).get("deletionTimestamp"):
        return ["it is being deleted"]
    found: list[str] = []
    for condition in target.conditions:
        found += _condition(live, condition)
    for path, wanted in target.fields:
        found += _field(live, path, wanted)
    if target.conditions or target.fields:
        return found
    usual = USUAL.get(target.kind)
    if usual is not None:
        return list(usual(live))
    for condition in READY_CONDITIONS.get(target.kind, ()):
        found += _condition(live, condition)
    return found


# --- Conditions and fields -----------------------------------------------------------------------------------------


def holders(live: Object) -> list[tuple[str, Object]]:
    """The places where an object keeps conditions: its status, or one place for each parent or ancestor."""
    status = live.get("status") or {}
    nested = []
    for key, reference in (("parents", "parentRef"), ("ancestors", "ancestorRef")):
        for entry in status.get(key) or []:
            of = entry.get(reference) or {}
            nested.append(("/".join(part for part in (of.get("name"), of.get("sectionName")) if part), entry))
    return nested or [("", status)]


def _condition(live: Object, wanted: str) -> list[str]:
    name, _equals, status = wanted.partition("=")
    status = status or "True"
    generation = (live.get("metadata") or {}).get("generation") or 0
    found: list[str] = []
    for place, holder in holders(live):
        where = f"{name} for {place}" if place else name
        known = {each.get("type"): each for each in holder.get("conditions") or []}
        condition = known.get(name)
        if condition is None:
            others = ", ".join(f"{key}={each.get('status')}" for key, each in sorted(known.items())) or "none"
            found.append(f"condition {where} is not reported (there is: {others})")
        elif condition.get("status") != status:
            told = ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
            found.append(f"condition {where} is {condition.get('status')}" + (f" ({told})" if told else ""))
        elif _seen(condition, holder, generation) < generation:
            found.append(f"condition {where} is about an earlier version of the object")
    return found


def _seen(condition: Object, holder: Object, newest: int) -> int:
    """The generation that a condition speaks of; the newest one where controllers do not say."""
    return condition.get("observedGeneration") or holder.get("observedGeneration") or newest


def value_at(live: Any, path: str) -> Any:
    """The value at a dotted path; `[0]` is an item of a list, `["a.b/c"]` a key with dots."""
    value = live
    for key, index, quoted in re.findall(r'([^.\[\]]+)|\[(\d+)\]|\["([^"]+)"\]', path):
        try:
            value = value[int(index)] if index else value[quoted or key]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return value


def _field(live: Object, path: str, wanted: Any) -> list[str]:
    value = value_at(live, path)
    if wanted is None:
        return [f"{path} is not set"] if value is MISSING or value in (None, "", [], {}) else []
    if value is MISSING:
        return [f"{path} is not set, must be {wanted!r}"]
    # Ansible's templates may have made text of a number.
    return [] if value == wanted or str(value) == str(wanted) else [f"{path} is {value!r}, must be {wanted!r}"]


# --- What is usual for kinds that do not say it in one condition ---------------------------------------------------


def _stale(live: Object) -> bool:
    return (live.get("status") or {}).get("observedGeneration", 0) < live["metadata"].get("generation", 0)


# Complete for Kubernetes, but nothing that one could use.
NOBODY = "it is scaled to 0 replicas"


def _deployment(live: Object) -> Iterator[str]:
    status, wanted = live.get("status") or {}, (live.get("spec") or {}).get("replicas", 1)
    if _stale(live):
        yield "its controller has not seen it yet"
        return
    if wanted < 1:
        yield NOBODY
        return
    for condition in status.get("conditions") or []:
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            yield f"no progress: {condition.get('message')}"
        if condition["type"] == "ReplicaFailure" and condition.get("status") == "True":
            yield f"no pods: {condition.get('message')}"
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted:
        yield f"{updated} of {wanted} replicas are of the newest version"
    elif status.get("replicas", 0) > updated:
        yield f"{status['replicas'] - updated} replicas of an older version are still there"
    if available < wanted:
        yield f"{available} of {wanted} replicas are available"


def _stateful_set(live: Object) -> Iterator[str]:
    status, spec = live.get("status") or {}, live.get("spec") or {}
    wanted = spec.get("replicas", 1)
    if _stale(live):
        yield "its controller has not seen it yet"
        return
    if wanted < 1:
        yield NOBODY
        return
    if status.get("updateRevision") != status.get("currentRevision") and status.get("updatedReplicas", 0) < wanted:
        yield f"{status.get('updatedReplicas', 0)} of {wanted} replicas are of the newest version"
    if status.get("readyReplicas", 0) < wanted:
        yield f"{status.get('readyReplicas', 0)} of {wanted} replicas are ready"


def _daemon_set(live: Object) -> Iterator[str]:
    status = live.get("status") or {}
    wanted = status.get("desiredNumberScheduled", 0)
    if _stale(live):
        yield "its controller has not seen it yet"
        return
    if status.get("updatedNumberScheduled", 0) < wanted:
        yield f"{status.get('updatedNumberScheduled', 0)} of {wanted} pods are of the newest version"
    if status.get("numberAvailable", 0) < wanted:
        yield f"{status.get('numberAvailable', 0)} of {wanted} pods are available"


def _job(live: Object) -> Iterator[str]:
    conditions = {each["type"]: each for each in (live.get("status") or {}).get("conditions") or []}
    failed = conditions.get("Failed") or {}
    if failed.get("status") == "True":
        raise NeverReady(f"it has failed ({failed.get('reason')}: {failed.get('message')})")
    if (conditions.get("Complete") or {}).get("status") != "True":
        yield f"{(live.get('status') or {}).get('active') or 0} pods are still at work"


def _phase(wanted: str) -> Callable[[Object], Iterator[str]]:
    def check(live: Object) -> Iterator[str]:
        found = (live.get("status") or {}).get("phase")
        if found != wanted:
            yield f"its phase is {found}, must be {wanted}"

    return check


def _service(live: Object) -> Iterator[str]:
    balanced = (live.get("spec") or {}).get("type") == "LoadBalancer"
    if balanced and not ((live.get("status") or {}).get("loadBalancer") or {}).get("ingress"):
        yield "no load balancer has given it an address"


USUAL: dict[str, Callable[[Object], Iterator[str]]] = {
    "DaemonSet": _daemon_set,
    "Deployment": _deployment,
    "Job": _job,
    "Namespace": _phase("Active"),
    "PersistentVolumeClaim": _phase("Bound"),
    "Service": _service,
    "StatefulSet": _stateful_set,
}


# --- Waiting -------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """Where waiting has ended."""

    ready: list[str] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)
    waited: float = 0.0

    def message(self, timeout: float) -> str:
        total = len(self.ready) + len(self.pending)
        lines = [f"- {name}: {reason}" for name, reason in self.pending.items()]
        if self.pending:
            lines.append(f"The whole story of the first: {_describe(next(iter(self.pending)))}. Then run this again.")
        return f"{len(self.pending)} of {total} objects not ready after {timeout:.0f} s:\n" + "\n".join(lines)


def _describe(name: str) -> str:
    kind, *inside, name = name.split("/")
    return " ".join(["kubectl", *(f"-n {each}" for each in inside), "describe", f"{kind.lower()}/{name}"])


class Waiter:
    """Waits for many objects at once."""

    def __init__(
        self,
        kube: Kube,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._kube = kube
        self._interval = interval
        self._clock = clock
        self._sleep = sleep

    def wait(self, targets: Sequence[Target], timeout: float) -> Verdict:
        """Until all are ready, one cannot become so, or the time is up."""
        begun = self._clock()
        verdict = Verdict()
        pending = list(targets)
        hopeless: dict[Target, str] = {}
        while True:
            reasons: dict[Target, list[str]] = {}
            for outcome in in_parallel(
                self._look, pending, self._kube.workers, fatal=lambda error: error.status == 401
            ):
                if outcome.error is not None:
                    raise outcome.error.about(outcome.item.title)
                found, never = outcome.result or ([], "")
                if never:
                    hopeless[outcome.item] = never
                elif found:
                    reasons[outcome.item] = found
                else:
                    verdict.ready.append(outcome.item.title)
            pending = list(reasons)
            verdict.waited = self._clock() - begun
            if not pending or hopeless or verdict.waited >= timeout:
                break
            self._sleep(min(self._interval, max(0.0, timeout - verdict.waited)))
        open_ends = {**{target: [text] for target, text in hopeless.items()}, **reasons}
        for target, found in open_ends.items():
            known = verdict.pending.get(target.title)
            verdict.pending[target.title] = "; ".join([known, *found] if known else found)
        if timeout:
            self._explain(list(open_ends), verdict)
        return verdict

    def _look(self, target: Target) -> tuple[list[str], str]:
        try:
            path = self._kube.resource(target.api_version, target.kind).path(target.namespace, target.name)
            return complaints(target, self._kube.get(path)), ""
        except UnknownKind as error:
            return [error.message], ""
        except NeverReady as error:
            return [], str(error)
        except KubeError as error:
            # An API server that is restarting is part of what one waits for; one that says no is not.
            if error.status == UNREACHABLE or error.status == 429 or error.status >= 500:
                return [str(error)], ""
            raise

    def _explain(self, targets: Sequence[Target], verdict: Verdict) -> None:
        """Add what the cluster has to say about the objects that are not ready."""

        def tell(target: Target) -> str:
            return "; ".join([*self._pods(target), *self._events(target)])

        for outcome in in_parallel(tell, targets, self._kube.workers):
            if outcome.result:
                verdict.pending[outcome.item.title] += "; " + outcome.result

    def _events(self, target: Target) -> list[str]:
        if not target.namespace:
            selector = f"involvedObject.kind={target.kind},involvedObject.name={target.name}"
            listed = self._kube.list("/api/v1/events", field_selector=selector)
        else:
            listed = self._kube.list(f"/api/v1/namespaces/{target.namespace}/events")
        return last_events(listed, target)

    def _pods(self, target: Target) -> list[str]:
        if target.kind not in ("Deployment", "StatefulSet", "DaemonSet", "Job") or not target.namespace:
            return []
        pods = self._kube.list(f"/api/v1/namespaces/{target.namespace}/pods")
        mine = [pod for pod in pods if pod["metadata"]["name"].startswith(target.name + "-")]
        return next((told for told in map(pod_trouble, mine) if told), [])


def last_events(events: Sequence[Object], target: Target) -> list[str]:
    """The newest events about an object, or about the pods and replica sets that bear its name."""

    def about(event: Object) -> bool:
        of = event.get("involvedObject") or {}
        name = of.get("name") or ""
        same = name == target.name and of.get("kind") == target.kind
        return same or (of.get("kind") in ("Pod", "ReplicaSet") and name.startswith(target.name + "-"))

    def when(event: Object) -> str:
        return str(
            event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
        )

    told: list[str] = []
    for event in sorted(filter(about, events), key=when, reverse=True):
        text = f"event {event.get('reason')}: {' '.join(str(event.get('message') or '').split())}"
        if text not in told:
            told.append(text)
    return told[:EVENTS]


def pod_trouble(pod: Object) -> list[str]:
    """Why a pod does not run, in one line."""
    status = pod.get("status") or {}
    name = pod["metadata"]["name"]
    for container in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            told = ": ".join(part for part in (waiting.get("reason"), waiting.get("message")) if part)
            return [f"pod {name}, container {container.get('name')}: {told}"]
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return [f"pod {name} is not scheduled: {condition.get('message')}"]
    return []
