# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What models do while they start, and how long each may take.

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import (
    UNREACHABLE,
    Kube,
    UnknownKind,
    in_parallel,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._wait import (
    Target,
    complaints,
    last_events,
    pod_trouble,
)

Object = Mapping[str, Any]
INTERVAL = 2.0
# How often something is said of a model of which there is no news.
REMINDER = 60.0
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")


@dataclass(frozen=True)
class Model:
    """The names of a model's objects, and the label of its workers."""

    name: str
    pool: str
    picker: str
    deployment: str
    label: str

    def targets(self, namespace: str) -> list[Target]:
        return [
            Target("apps/v1", "Deployment", self.deployment, namespace),
            Target("apps/v1", "Deployment", self.picker, namespace),
            Target("inference.networking.k8s.io/v1", "InferencePool", self.pool, namespace),
        ]


@dataclass(frozen=True)
class State:
    """What a model does just now."""

    ready: bool
    doing: str
    # Its server runs: the time that it takes from now on is the model's own.
    running: bool = False
    events: tuple[str, ...] = ()


class Looker:
    """Looks at models until there is news of one."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._kube = kube
        self._namespace = namespace
        self._clock = clock
        self._sleep = sleep

    def watch(self, models: Sequence[Model], seen: Mapping[str, str], timeout: float) -> dict[str, State]:
        """The state of each as soon as one does something else than was seen, or after the timeout (seconds)."""
        end = self._clock() + timeout
        while True:
            states = {outcome.item.name: self._state(outcome) for outcome in in_parallel(self._look, models)}
            news = any(state.doing != seen.get(name) for name, state in states.items())
            if news or self._clock() >= end:
                return states
            self._sleep(min(INTERVAL, max(0.0, end - self._clock())))

    @staticmethod
    def _state(outcome: Any) -> State:
        """An API server that is away is part of what one waits through; one that says no is not."""
        error = outcome.error
        if error is None:
            return outcome.result or State(False, "not looked at yet")
        if error.status in (UNREACHABLE, 429) or error.status >= 500:
            return State(False, f"the API does not answer: {error}")
        raise error

    def _look(self, model: Model) -> State:
        missing: dict[str, list[str]] = {}
        for target in model.targets(self._namespace):
            try:
                path = self._kube.resource(target.api_version, target.kind).path(target.namespace, target.name)
                found = complaints(target, self._kube.get(path))
            except UnknownKind as error:
                found = [error.message]
            if found:
                missing[target.name] = found
        if not missing:
            return State(True, "ready", True)
        space = f"/api/v1/namespaces/{self._namespace}"
        pods = self._kube.list(f"{space}/pods", label_selector=f"llm-d.ai/model={model.label}")
        events = self._kube.list(f"{space}/events")
        return judge(model, missing, pods, events, self._namespace)


def judge(
    model: Model, missing: Mapping[str, Sequence[str]], pods: Sequence[Object], events: Sequence[Object], namespace: str
) -> State:
    """What a model that is not ready does, from what its objects lack, its pods and the events about them."""
    worker, picker, pool = model.targets(namespace)
    running = any(_runs(pod) for pod in pods)
    if worker.name in missing:
        troubled = [pod for pod in pods if not _is_ready(pod)]
        newest = sorted(troubled, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""))[-1:]
        told = [doing_of(pod, events) for pod in newest] or ["; ".join(missing[worker.name])]
        ready = sum(map(_is_ready, pods))
        text = told[0] + (f"; {ready} of {len(pods)} workers are ready" if ready else "")
        return State(False, text, running, tuple(last_events(events, worker)))
    other = picker if picker.name in missing else pool
    what = "its endpoint picker" if other is picker else "its pool"
    text = f"the server is ready, {what} is not: {'; '.join(missing[other.name])}"
    return State(False, text, running, tuple(last_events(events, other)))


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _runs(pod: Object) -> bool:
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return any((each.get("state") or {}).get("running") for each in containers)


def doing_of(pod: Object, events: Sequence[Object]) -> str:
    """What a pod that is not ready does, in a few words."""
    status, spec, name = pod.get("status") or {}, pod.get("spec") or {}, pod["metadata"]["name"]
    where = f" on {spec['nodeName']}" if spec.get("nodeName") else ""
    if pod["metadata"].get("deletionTimestamp"):
        return f"an earlier worker is stopped{where}"
    for container in status.get("containerStatuses") or []:
        state, restarts = container.get("state") or {}, container.get("restartCount") or 0
        waiting = state.get("waiting") or {}
        ended = (container.get("lastState") or {}).get("terminated") or {}
        if waiting.get("reason") in _NO_IMAGE:
            return f"its image cannot be pulled{where}: {waiting.get('message') or waiting['reason']}"
        if waiting.get("reason") == "CrashLoopBackOff":
            return f"its server ended {restarts} times{where}, last with exit code {ended.get('exitCode')}"
        if state.get("running"):
            again = f", after {restarts} restarts, the last for exit code {ended.get('exitCode')}" if restarts else ""
            return f"its server starts{where}{again}"
    trouble = pod_trouble(pod)
    if trouble:
        return trouble[0]
    told = _told(name, events)
    if told.get("reason") == "Pulling":
        return f"its image is downloaded{where}"
    if told.get("type") == "Warning":
        return f"{told.get('reason')}{where}: {' '.join(str(told.get('message') or '').split())}"
    return f"its container is made{where}" if where else "it waits for a place"


def _told(name: str, events: Iterable[Object]) -> Object:
    """The newest event about a pod."""

    def when(event: Object) -> str:
        return str(event.get("lastTimestamp") or event.get("eventTime") or "")

    mine = [each for each in events if (each.get("involvedObject") or {}).get("name") == name]
    return max(mine, key=when, default={})


# --- patience --------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """65 as 1m 05s."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {rest:02}s" if minutes else f"{rest}s"


@dataclass
class _Wait:
    pull: float
    startup: float
    running_since: float | None = None
    said: str = ""
    said_at: float = 0.0
    state: State = field(default_factory=lambda: State(False, "not looked at yet"))


class Patience:
    """How long each model may take: a time for its image and a place, then one of its own for its start."""

    def __init__(self, startup: Mapping[str, float], pull: float, now: float):
        self._begun = now
        self._waits = {name: _Wait(pull, seconds) for name, seconds in startup.items()}
        self.ready: list[str] = []
        self.failed: dict[str, str] = {}

    @property
    def pending(self) -> list[str]:
        return [name for name in self._waits if name not in self.ready and name not in self.failed]

    @property
    def seen(self) -> dict[str, str]:
        return {name: self._waits[name].state.doing for name in self.pending}

    def left(self, now: float) -> float:
        """Seconds until the next model has used up its time, or is to be spoken of again."""
        ends = [min(self._end(wait), wait.said_at + REMINDER) for wait in map(self._waits.__getitem__, self.pending)]
        return max(0.0, min(ends, default=now) - now)

    def _end(self, wait: _Wait) -> float:
        if wait.running_since is None:
            return self._begun + wait.pull
        return wait.running_since + wait.startup

    def see(self, states: Mapping[str, State], now: float) -> list[str]:
        """What is worth telling of these states: each change, each end, and a word a minute."""
        lines = []
        for name in self.pending:
            wait = self._waits[name]
            wait.state = states.get(name, wait.state)
            if wait.state.running and wait.running_since is None:
                wait.running_since = now
            spent, end = duration(now - self._begun), self._end(wait)
            if wait.state.ready:
                self.ready.append(name)
                lines.append(f"{name}: ready after {spent}")
            elif now >= end:
                self.failed[name] = "; ".join([f"{wait.state.doing} (after {spent})", *wait.state.events])
                lines.append(f"{name}: given up after {spent}: {wait.state.doing}")
            elif wait.state.doing != wait.said or now >= wait.said_at + REMINDER:
                wait.said, wait.said_at = wait.state.doing, now
                lines.append(f"{name}: {wait.state.doing} ({spent}, until {duration(end - self._begun)} at most)")
        return lines


def as_data(states: Mapping[str, State]) -> dict[str, dict[str, Any]]:
    return {name: {**asdict(state), "events": list(state.events)} for name, state in states.items()}


def from_data(data: Mapping[str, Mapping[str, Any]]) -> dict[str, State]:
    return {
        name: State(state["ready"], state["doing"], state["running"], tuple(state["events"]))
        for name, state in data.items()
    }
