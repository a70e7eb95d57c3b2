# SPDX-License-Identifier: GPL-3.0-or-later
"""What controllers want done, and what of it the cluster still lacks.

A controller is a pure function from what was seen to a list of these actions. An action describes a wanted state, so
that saying it again costs nothing: `request` turns it into an API request only when the live object differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lab.world.api import APPLY, MERGE, STRATEGIC
from lab.world.kinds import EVENT, KINDS, Kind
from lab.world.store import Json, Store, key_of

# Entries of status lists that belong together across two writes.
_IDENTITY = ("type", "name", "parentRef", "ancestorRef")


@dataclass(frozen=True)
class Request:
    """One write to the API server."""

    method: str
    path: str
    kind: str
    body: Json | None = None
    content_type: str = "application/json"
    query: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SetStatus:
    """These fields of an object's status; conditions keep their time as long as they keep their status."""

    obj: Json
    status: Json


@dataclass(frozen=True)
class Apply:
    """An object with at least these fields, owned by a controller."""

    obj: Json
    manager: str


@dataclass(frozen=True)
class CreateOnce:
    """An object that is made when it is missing and never touched again (generated Secrets)."""

    kind: str
    namespace: str
    name: str
    build: Callable[[], Json]


@dataclass(frozen=True)
class Patch:
    """A merge patch of an object (None deletes a field), on a subresource if one is named."""

    obj: Json
    patch: Json
    subresource: str | None = None
    strategic: bool = False


@dataclass(frozen=True)
class Delete:
    obj: Json


@dataclass(frozen=True)
class Event:
    """Something that a person debugging would read in `kubectl describe`; said once per object and message."""

    obj: Json
    reason: str
    message: str
    component: str
    type: str = "Warning"


Action = SetStatus | Apply | CreateOnce | Patch | Delete | Event


def cond(kind: str, status: bool | str, reason: str = "", message: str = "", generation: int | None = None) -> Json:
    """A condition; its time is filled in when it is written."""
    text = status if isinstance(status, str) else str(status)
    found: Json = {"type": kind, "status": text, "reason": reason or kind, "message": message}
    return found if generation is None else {**found, "observedGeneration": generation}


def owner(obj: Json, api_version: str | None = None) -> Json:
    """An ownerReference as controllers set it."""
    return {
        "apiVersion": api_version or obj.get("apiVersion") or KINDS[obj["kind"]].api_version,
        "kind": obj["kind"],
        "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def covers(live: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there already; the live object may hold more (defaults, others' fields)."""
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return not wanted and live is None
        return all(covers(live.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        if not wanted:
            return not live
        return isinstance(live, list) and len(live) == len(wanted) and all(map(covers, live, wanted))
    return bool(live == wanted)


def stamped(wanted: Any, live: Any, now: datetime) -> Any:
    """The wanted status with the times of its conditions: the live one's while the status stays, else now."""
    if isinstance(wanted, dict):
        live = live if isinstance(live, dict) else {}
        filled = {name: stamped(value, live.get(name), now) for name, value in wanted.items()}
        if {"type", "status"} <= wanted.keys():
            same = live.get("status") == wanted["status"]
            filled["lastTransitionTime"] = (
                live["lastTransitionTime"] if same and live.get("lastTransitionTime") else _stamp(now)
            )
        return filled
    if isinstance(wanted, list):
        return [stamped(item, _partner(item, live), now) for item in wanted]
    return wanted


def _stamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _partner(item: Any, live: Any) -> Any:
    if not isinstance(item, dict) or not isinstance(live, list):
        return None
    names = [name for name in _IDENTITY if name in item]
    return next(
        (other for other in live if isinstance(other, dict) and names and covers(other, {n: item[n] for n in names})),
        None,
    )


def merged(live: Any, patch: Any) -> Any:
    """RFC 7386, to see beforehand whether a patch would change anything."""
    if not isinstance(patch, dict):
        return patch
    result = dict(live) if isinstance(live, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def request(action: Action, store: Store) -> Request | None:
    """The write that an action still needs, if any."""
    match action:
        case SetStatus(obj, status):
            return _set_status(obj, status, store)
        case Apply(obj, manager):
            kind = KINDS[obj["kind"]]
            if (live := store.get(obj["kind"], *key_of(obj))) is not None and covers(live, obj):
                return None
            query = {"fieldManager": manager, "force": "true"}
            return Request("PATCH", kind.path(*key_of(obj)), kind.name, obj, APPLY, query)
        case CreateOnce(kind_name, namespace, name, build):
            if store.get(kind_name, namespace, name) is not None:
                return None
            return Request("POST", KINDS[kind_name].path(namespace), kind_name, build())
        case Patch(obj, patch, subresource, strategic):
            live, kind = _live(obj, store)
            if live is None or (merged(live, patch) == live if not strategic else covers(live, patch)):
                return None
            content_type = STRATEGIC if strategic else MERGE
            return Request("PATCH", kind.path(*key_of(obj), subresource), kind.name, patch, content_type)
        case Delete(obj):
            live, kind = _live(obj, store)
            gone = live is None or live["metadata"].get("deletionTimestamp")
            return None if gone else Request("DELETE", kind.path(*key_of(obj)), kind.name)
        case Event():
            return _event(action, store)


def _live(obj: Json, store: Store) -> tuple[Json | None, Kind]:
    return store.get(obj["kind"], *key_of(obj)), KINDS[obj["kind"]]


def _set_status(obj: Json, status: Json, store: Store) -> Request | None:
    live, kind = _live(obj, store)
    if live is None:
        return None
    before = live.get("status") or {}
    wanted = stamped(status, before, store.now)
    if covers(before, wanted):
        return None
    return Request("PATCH", kind.path(*key_of(obj), "status"), kind.name, {"status": wanted}, MERGE)


def _event(event: Event, store: Store) -> Request | None:
    if _live(event.obj, store)[0] is None:
        return None
    meta = event.obj["metadata"]
    digest = hashlib.sha256(f"{meta.get('uid')}{event.reason}{event.message}".encode()).hexdigest()[:16]
    namespace = meta.get("namespace") or "default"
    now = _stamp(store.now)
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": KINDS[event.obj["kind"]].api_version,
            "kind": event.obj["kind"],
            "name": meta["name"],
            "namespace": meta.get("namespace"),
            "uid": meta.get("uid"),
        },
        "reason": event.reason,
        "message": event.message,
        "type": event.type,
        "source": {"component": event.component},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    return Request("POST", EVENT.path(namespace), EVENT.name, body)
