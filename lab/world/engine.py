# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches the cluster, asks the controllers what they want, and writes it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from lab.world.actions import Action, Event, request
from lab.world.api import APPLY, Api, ApiError, Expired
from lab.world.kinds import KINDS, Kind
from lab.world.store import Json, Store, key_of

log = logging.getLogger("world")
TICK = 5.0  # seconds between looks at what only the clock changes
SETTLE = 0.03  # seconds in which events are gathered before controllers run
RETRY = 1.0


@dataclass(frozen=True)
class Reconciler:
    """A controller of one kind: called for each of its objects when one of `watches` (or its own kind) changed."""

    name: str
    kind: str
    run: Callable[[Json, Store], Iterable[Action]]
    watches: frozenset[str] = frozenset()
    ticks: bool = False

    @property
    def kinds(self) -> frozenset[str]:
        return self.watches | {self.kind, "ConfigMap"}  # faults are told in a ConfigMap


@dataclass(frozen=True)
class Seen:
    """News from a watch: everything of a kind, or one object."""

    kind: str
    type: str
    objects: list[Json]


class Watcher(threading.Thread):
    """Keeps the engine told about one kind, from the moment that the API serves it."""

    def __init__(self, engine: Engine, kind: Kind) -> None:
        super().__init__(name=f"watch-{kind.plural}", daemon=True)
        self.engine, self.kind = engine, kind
        self.selectors = {"labelSelector": kind.selector} if kind.selector else None

    def run(self) -> None:
        path = self.kind.path(self.kind.namespace or None)
        while not self.engine.stopping.is_set():
            self.engine.await_crd(self.kind.crd)
            try:
                items, version = self.engine.api.list(path, self.selectors, self.kind.metadata_only)
                self.engine.inbox.put(Seen(self.kind.name, "LIST", items))
                while not self.engine.stopping.is_set():
                    for event, obj in self.engine.api.watch(path, version, self.selectors, self.kind.metadata_only):
                        version = obj["metadata"]["resourceVersion"]
                        if event != "BOOKMARK":
                            self.engine.inbox.put(Seen(self.kind.name, event, [obj]))
            except Expired:
                continue
            except ApiError as error:
                if error.status == 404:
                    # The CRD went, and all objects with it (or is not established yet).
                    self.engine.inbox.put(Seen(self.kind.name, "LIST", []))
                elif error.status not in (429, 503):
                    log.warning("watch %s: %s", self.kind.plural, error)
            except Exception as error:  # the API server restarts, the network blinks: look again
                log.debug("watch %s: %r", self.kind.plural, error)
            self.engine.stopping.wait(0.3)


class Engine:
    """One thread reads news, runs controllers and writes; watchers only feed it."""

    def __init__(self, api: Api, reconcilers: Iterable[Reconciler]) -> None:
        self.api = api
        self.reconcilers = list(reconcilers)
        self.store = Store()
        # Signal handlers put into it too: of the queues only this one allows that.
        self.inbox: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.after: list[Callable[[Store], None]] = []  # effects outside the API: addresses, processes
        self._crds: set[str] = set()
        self._crds_changed = threading.Condition()
        self._waiting_for = set(KINDS)  # kinds not listed yet
        self._said: set[str] = set()
        self._failures: dict[str, str] = {}

    # --- watching
    def await_crd(self, name: str) -> None:
        """Blocks until the CRD exists; kinds that the API server has built in have none."""
        with self._crds_changed:
            self._crds_changed.wait_for(lambda: not name or name in self._crds or self.stopping.is_set())

    def _take(self, seen: Seen) -> None:
        kind = KINDS[seen.kind]
        for obj in seen.objects:
            obj["kind"], obj["apiVersion"] = kind.name, kind.api_version
            obj["metadata"].pop("managedFields", None)
        if seen.type == "LIST":
            self.store.replace(kind.name, seen.objects)
            self._waiting_for.discard(kind.name)
        elif seen.type == "DELETED":
            self.store.drop(kind.name, key_of(seen.objects[0]))
        elif seen.objects:
            self._put(kind.name, seen.objects[0])
        if kind.name == "CustomResourceDefinition":
            with self._crds_changed:
                self._crds = {obj["metadata"]["name"] for obj in self.store.all(kind.name)}
                self._crds_changed.notify_all()
            self._waiting_for -= {other.name for other in KINDS.values() if other.crd and other.crd not in self._crds}

    def _put(self, kind: str, obj: Json) -> None:
        """Newer news wins: the answer to a write may overtake the watch."""
        live = self.store.get(kind, *key_of(obj))
        if live is None or int(obj["metadata"]["resourceVersion"]) >= int(live["metadata"]["resourceVersion"]):
            self.store.put(kind, obj)

    # --- working
    def run(self) -> None:
        for kind in KINDS.values():
            Watcher(self, kind).start()
        next_tick, retry_at = 0.0, float("inf")
        dirty: set[str] = set()
        while not self.stopping.is_set():
            dirty |= self._gather(min(next_tick, retry_at) - time.monotonic())
            if self._waiting_for:
                continue  # half a picture would look like missing prerequisites
            now = time.monotonic()
            ticking = now >= next_tick
            if now >= retry_at:
                dirty, retry_at = set(KINDS), float("inf")
            if ticking:
                next_tick = now + TICK
            if not self._round(dirty, ticking):
                retry_at = time.monotonic() + RETRY
            dirty = set()

    def _gather(self, patience: float) -> set[str]:
        kinds = set()
        try:
            seen = self.inbox.get(timeout=max(0.0, min(patience, TICK)))
            time.sleep(SETTLE)
            while True:
                self._take(seen)
                kinds.add(seen.kind)
                seen = self.inbox.get_nowait()
        except queue.Empty:
            return kinds

    def _round(self, dirty: set[str], ticking: bool) -> bool:
        """Runs the controllers whose kinds changed, until their own writes change nothing more."""
        fine = True
        self.store.now = datetime.now(UTC)
        for reconciler in self.reconcilers:
            if (reconciler.kinds & dirty) or (ticking and reconciler.ticks):
                for obj in self.store.all(reconciler.kind):
                    fine &= self._reconcile(reconciler, obj)
        for effect in self.after:
            try:
                effect(self.store)
            except Exception:
                log.exception("effect %s", getattr(effect, "__qualname__", effect))
                fine = False
        return fine

    def _reconcile(self, reconciler: Reconciler, obj: Json) -> bool:
        where = f"{reconciler.name} {'/'.join(filter(None, key_of(obj)))}"
        try:
            for action in reconciler.run(obj, self.store):
                self.perform(action)
            self._failures.pop(where, None)
            return True
        except ApiError as error:
            self._report(where, str(error))
        except Exception as error:
            if self._report(where, repr(error)):
                log.exception("%s", where)
        return False

    def _report(self, where: str, failure: str) -> bool:
        """Logs a failure when it is news."""
        news = self._failures.get(where) != failure
        if news:
            log.warning("%s: %s", where, failure)
        self._failures[where] = failure
        return news

    def perform(self, action: Action) -> None:
        """Writes what an action still needs."""
        wanted = request(action, self.store)
        if wanted is None:
            return
        if isinstance(action, Event) and wanted.body:
            name = wanted.body["metadata"]["name"]
            if name in self._said:
                return
            self._said.add(name)
        try:
            answer = self.api.request(
                wanted.method, wanted.path, wanted.body, content_type=wanted.content_type, query=wanted.query
            )
        except ApiError as error:
            gone = error.status == 404 and wanted.method in ("DELETE", "PATCH") and not isinstance(action, Event)
            there = error.status == 409 and wanted.method == "POST"
            if not (there or (gone and wanted.content_type != APPLY)):
                raise
            return
        log.info("%s %s", wanted.method, wanted.path)
        if wanted.kind in KINDS and wanted.method != "DELETE" and answer.get("kind") == wanted.kind:
            self.inbox.put(Seen(wanted.kind, "MODIFIED", [answer]))
            self._take(Seen(wanted.kind, "MODIFIED", [answer]))

    def wake(self) -> None:
        """Has the effects looked at again soon; for threads that saw a process end."""
        self.inbox.put(Seen("Pod", "NONE", []))

    def stop(self) -> None:
        self.stopping.set()
        self.wake()
        with self._crds_changed:
            self._crds_changed.notify_all()
