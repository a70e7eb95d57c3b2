# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Server-side apply that reads first and writes only what differs.

This module util is private to the collection: it may change in any way at any time.

Whether an object differs is not decided by comparing values: the server fills in defaults, rewrites quantities and
drops empty fields, differently for each kind. Instead the server's own record is used. Every applied object carries
a digest of what was sent, and its managedFields say which of these fields are still as we sent them: a field that
anybody else has changed or removed since is no longer ours. So an object is as wanted exactly when the digest is
the same, every field that we would send is ours, and no other field is. (A Secret's data stays out of its digest
and is compared directly.)
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._definitions import (
    DEFINITIONS,
    DIGEST,
    OBJECTS,
    PHASES,
    digest,
    group_kind,
    is_secret,
    phase,
    prepare,
    signed,
    with_generated,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._fields import (
    ABSENT,
    Difference,
    differences,
    not_ours,
    not_sent,
    owned_fields,
    sent_fields,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import (
    MANAGER,
    Kube,
    KubeError,
    Outcome,
    Resource,
    UnknownKind,
    in_parallel,
    title,
)

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

__all__ = ["Applier", "Change", "Mask", "Report", "describe", "plan", "prepare"]

WEBHOOK_PATIENCE = 30.0

CREATE, UPDATE, DELETE, NOTHING = "created", "updated", "deleted", "unchanged"
VERBS = (CREATE, UPDATE, DELETE, NOTHING)


@dataclass(frozen=True)
class Change:
    """What is to be done with one object, and why."""

    title: str
    verb: str
    secret: bool = False
    shown: tuple[Difference, ...] = ()
    reason: str = ""


def plan(body: dict[str, Any], live: Mapping[str, Any] | None, manager: str = MANAGER) -> Change:
    """What it takes to make the live object as wanted. Pure: the same input gives the same answer."""
    name = title(body["kind"], body["metadata"].get("namespace"), body["metadata"]["name"])
    secret = is_secret(body)
    if live is None or (live.get("metadata") or {}).get("deletionTimestamp"):
        return Change(name, CREATE, secret, (Difference("", ABSENT, body),), "not there")
    wanted = sent_fields(signed(body))
    owned = owned_fields(live, manager)
    if owned is None:
        reason = f"not managed by {manager} yet"
    else:
        lost = next(not_ours(wanted, owned), None)
        dropped = list(not_sent(owned, wanted))
        if lost:
            reason = f"{lost} is not as {manager} applied it"
        elif dropped:
            reason = f"{dropped[0]} is no longer wanted"
        elif (live["metadata"].get("annotations") or {}).get(DIGEST) != digest(body):
            reason = "other content than last applied"
        elif secret and any(
            value != (live.get("data") or {}).get(key, "") for key, value in (body.get("data") or {}).items()
        ):
            reason = "other data"
        else:
            return Change(name, NOTHING, secret)
    shown = [each for each in differences(wanted, live, owned) if DIGEST not in each.path]
    for path in not_sent(owned or {}, wanted):
        shown.append(Difference(path, _value_at(live, path), ABSENT))
    return Change(name, UPDATE, secret, tuple(shown), reason)


def _value_at(live: Mapping[str, Any], path: str) -> Any:
    """The live value at a path of plain keys; "(set)" where the path goes through a list."""
    value: Any = live
    for quoted, plain in re.findall(r'"([^"]*)"|([^."\[]+|\[[^\]]*\])', path):
        if not isinstance(value, Mapping) or (quoted or plain) not in value:
            return "(set)"
        value = value[quoted or plain]
    return value


class Mask:
    """Fingerprints that tell values apart within one run and nothing to anybody else."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)

    def __call__(self, value: Any) -> str:
        mark = hmac.new(self._salt, json.dumps(value, sort_keys=True).encode(), "sha256").hexdigest()
        return f"(hidden, {mark[:8]})"

    def secret(self, body: Mapping[str, Any]) -> dict[str, Any]:
        data = {key: self(value) for key, value in (body.get("data") or {}).items()}
        return {**body, "data": data} if data else dict(body)


def describe(change: Change, mask: Mask) -> dict[str, str]:
    """One entry of a module's diff."""
    before: list[str] = []
    after: list[str] = []
    for each in change.shown:
        if not each.path:
            whole = mask.secret(each.after) if change.secret else each.after
            after.append(yaml.safe_dump(whole, sort_keys=False).rstrip("\n"))
            continue
        for lines, value in ((before, each.before), (after, each.after)):
            if value is not ABSENT:
                hidden = change.secret and each.path.split(".")[0] == "data"
                if hidden and isinstance(value, Mapping):
                    value = {key: mask(item) for key, item in value.items()}
                elif hidden:
                    value = mask(value)
                lines.append(f"{each.path}: {json.dumps(value, ensure_ascii=False)}")
    if change.verb == DELETE:
        before.append("present")
    elif change.verb == UPDATE and not change.shown:
        after.append(f"({change.reason})")
    return {
        "before_header": change.title,
        "after_header": change.title,
        "before": "".join(f"{line}\n" for line in before),
        "after": "".join(f"{line}\n" for line in after),
    }


# --- Doing it ------------------------------------------------------------------------------------------------------


@dataclass
class Item:
    """One object on its way."""

    body: dict[str, Any]
    resource: Resource | None = None
    live: dict[str, Any] | None = None
    change: Change | None = None

    @property
    def title(self) -> str:
        return title(self.body["kind"], self.body["metadata"].get("namespace"), self.body["metadata"]["name"])

    @property
    def path(self) -> str:
        if self.resource is None:
            raise UnknownKind(self.body["apiVersion"], self.body["kind"])
        metadata = self.body["metadata"]
        return self.resource.path(metadata.get("namespace"), metadata["name"])


@dataclass
class Report:
    """What came of a call."""

    changes: list[Change] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> list[Change]:
        return [change for change in self.changes if change.verb != NOTHING]

    def counts(self) -> dict[str, int]:
        return {verb: sum(change.verb == verb for change in self.changes) for verb in VERBS}

    def failure_message(self) -> str:
        lines = [f"- {failure['object']}: {failure['reason']}" for failure in self.failures]
        number = len(self.changes) + len(self.failures)
        return f"{len(self.failures)} of {number} objects failed:\n" + "\n".join(lines)


class Applier:
    """Brings a set of objects into the cluster, or out of it."""

    def __init__(
        self,
        kube: Kube,
        *,
        manager: str = MANAGER,
        force: bool = True,
        check: bool = False,
        namespace: str | None = None,
        if_absent: bool = False,
        generated: Mapping[str, int] | None = None,
        timeout: float = 120.0,
        interval: float = 0.25,
        release_finalizers: Sequence[str] = (),
    ):
        self._kube = kube
        self._manager = manager
        self._force = force
        self._check = check
        self._namespace = namespace
        self._if_absent = if_absent
        self._generated = dict(generated or {})
        self._timeout = timeout
        self._interval = interval
        self._release = frozenset(release_finalizers)
        self._report = Report()

    def present(self, bodies: Sequence[dict[str, Any]]) -> Report:
        """Everything is looked at before anything is written, so that what cannot work changes nothing."""
        items = [Item(body) for body in bodies]
        coming = {
            (body.get("spec", {}).get("group"), body.get("spec", {}).get("names", {}).get("kind"))
            for body in bodies
            if phase(body) == DEFINITIONS
        }

        def look(item: Item) -> None:
            try:
                self._look(item)
            except UnknownKind:
                if not self._check and group_kind(item.body) not in coming:
                    raise
                item.change = plan(item.body, None, self._manager)

        if self._collect(in_parallel(look, items, self._kube.workers)):
            return self._report
        for number in PHASES:
            batch = [item for item in items if phase(item.body) == number]
            failed = self._collect(in_parallel(self._reconcile, batch, self._kube.workers), done=True)
            if number == DEFINITIONS and not failed and not self._check:
                failed = self._collect(in_parallel(self._await_definition, batch, self._kube.workers))
            if failed and number < OBJECTS:
                rest = [item for item in items if phase(item.body) > number]
                self._fail(rest, "not tried, because of the failures above")
                break
        return self._report

    def absent(self, bodies: Sequence[dict[str, Any]]) -> Report:
        """Remove the objects and wait until they are gone, in the reverse order."""
        items = [Item(body) for body in bodies]

        def look(item: Item) -> None:
            try:
                self._look(item)
            except UnknownKind:
                item.live = None
            verb = NOTHING if item.live is None else DELETE
            item.change = Change(item.title, verb, is_secret(item.body))

        if self._collect(in_parallel(look, items, self._kube.workers)):
            return self._report
        for number in reversed(PHASES):
            batch = [item for item in items if phase(item.body) == number]
            if self._collect(in_parallel(self._remove, batch, self._kube.workers), done=True):
                self._fail(
                    [item for item in items if phase(item.body) < number], "not tried, because of the failures above"
                )
                break
        return self._report

    def _fail(self, items: Iterable[Item], reason: str) -> None:
        self._report.failures += [{"object": item.title, "reason": reason} for item in items]

    def _collect(self, outcomes: Sequence[Outcome[Item, Any]], done: bool = False) -> bool:
        """Write outcomes into the report; true when there was a failure among them."""
        failed = False
        for outcome in outcomes:
            if outcome.error is not None:
                failed = True
                self._fail([outcome.item], _without_values(outcome.item.body, str(outcome.error)))
            elif not outcome.tried:
                failed = True
                self._fail([outcome.item], "not tried, because of the failures above")
            elif done and outcome.item.change is not None:
                self._report.changes.append(outcome.item.change)
        return failed

    def _look(self, item: Item) -> None:
        item.resource = self._kube.resource(item.body["apiVersion"], item.body["kind"])
        metadata = {key: value for key, value in item.body["metadata"].items() if key != "namespace"}
        if item.resource.namespaced:
            namespace = item.body["metadata"].get("namespace") or self._namespace
            if not namespace:
                raise KubeError(400, "NoNamespace", "metadata.namespace is missing, and no default is given")
            metadata["namespace"] = namespace
        item.body = {**item.body, "metadata": metadata}
        item.live = self._kube.get(item.path)
        item.change = plan(item.body, item.live, self._manager)
        if self._if_absent and item.change.verb == UPDATE:
            item.change = Change(item.title, NOTHING, is_secret(item.body))

    def _reconcile(self, item: Item) -> None:
        if item.resource is None and not self._check:
            self._look(item)
        if item.resource is None or item.change is None or item.change.verb == NOTHING:
            return
        if self._check:
            self._rehearse(item)
            return
        if item.live and item.live["metadata"].get("deletionTimestamp"):
            self._await_gone(item)
        before = (item.live or {}).get("metadata", {}).get("resourceVersion")
        written = self._patiently(lambda: self._write(item))
        if written is None or (before and written["metadata"].get("resourceVersion") == before):
            item.change = Change(item.title, NOTHING, item.change.secret)
        if written is not None:
            item.live = written

    def _write(self, item: Item, dry_run: bool = False) -> dict[str, Any] | None:
        if not self._if_absent:
            return self._kube.apply(item.path, signed(item.body), self._manager, self._force, dry_run)
        body = with_generated(item.body, self._generated) if self._generated else item.body
        try:
            return self._kube.create(item.path.rpartition("/")[0], body, self._manager, dry_run)
        except KubeError as error:
            if error.reason == "AlreadyExists":
                return None
            raise _hiding(error, body) from None

    def _rehearse(self, item: Item) -> None:
        """Let the server judge a write without doing it, where it can: not what needs a namespace still to be made."""
        try:
            self._write(item, dry_run=True)
        except KubeError as error:
            # A field may be unknown only until an earlier step of the same playbook has brought the newer CRD.
            untold = (
                "does not support dry run",
                "failed calling webhook",
                "strict decoding error",
                "not declared in schema",
            )
            if error.status == 404:
                return
            if not any(text in error.message for text in untold):
                raise
            self._report.warnings.append(f"{item.title} could not be rehearsed: {error.message}")

    def _patiently(self, write: Callable[[], Any]) -> Any:
        """A webhook that is only just starting, or a kind that is only just served, is given a moment."""
        deadline = time.monotonic() + min(WEBHOOK_PATIENCE, self._timeout)
        while True:
            try:
                return write()
            except KubeError as error:
                starting = "failed calling webhook" in error.message or (
                    error.status == 404 and "could not find the requested resource" in error.message
                )
                if not starting or time.monotonic() > deadline:
                    raise
            time.sleep(4 * self._interval)

    def _await_definition(self, item: Item) -> None:
        """Until the kinds of a CRD can be used."""
        deadline = time.monotonic() + self._timeout
        spec = item.body.get("spec", {})
        served = [version["name"] for version in spec.get("versions", []) if version.get("served")]
        live = item.live
        while True:
            conditions = {each["type"]: each for each in ((live or {}).get("status") or {}).get("conditions") or []}
            if (conditions.get("Established") or {}).get("status") == "True":
                if item.change is not None and item.change.verb == NOTHING:
                    return
                try:
                    for version in served:
                        self._kube.resource(f"{spec['group']}/{version}", spec["names"]["kind"])
                    return
                except UnknownKind:
                    pass
            if time.monotonic() > deadline:
                told = "; ".join(
                    f"{name} is {each['status']}: {each.get('message')}" for name, each in conditions.items()
                )
                raise KubeError(
                    0, "Timeout", f"not established after {self._timeout:.0f} s ({told or 'no conditions'})"
                )
            time.sleep(self._interval)
            live = self._kube.get(item.path)

    def _remove(self, item: Item) -> None:
        if item.live is None or self._check:
            return
        metadata = item.live["metadata"]
        if not metadata.get("deletionTimestamp"):
            self._kube.delete(item.path, uid=metadata["uid"])
        try:
            self._await_gone(item)
        except KubeError as error:
            if error.reason != "Timeout" or not self._release_finalizers(item):
                raise
            self._await_gone(item)

    def _release_finalizers(self, item: Item) -> bool:
        """Take the named finalizers from an object whose controller has not done so; false when it has none of them."""
        live = self._kube.get(item.path)
        held = (live or {}).get("metadata", {}).get("finalizers") or []
        taken = [name for name in held if name in self._release]
        if live is None or not taken:
            return live is None
        rest = {"uid": live["metadata"]["uid"], "finalizers": [name for name in held if name not in self._release]}
        try:
            self._kube.request("PATCH", item.path, body={"metadata": rest}, content_type="application/merge-patch+json")
        except KubeError as error:
            # Its controller came after all. Another object of this name is left alone.
            if error.status not in (404, 409, 422):
                raise
            return True
        self._report.warnings.append(
            f"{item.title} was held by {', '.join(taken)} for {self._timeout:.0f} s and is let go: "
            "the controller that should have done so does not answer"
        )
        return True

    def _await_gone(self, item: Item) -> None:
        uid = (item.live or {}).get("metadata", {}).get("uid")
        deadline = time.monotonic() + self._timeout
        while True:
            live = self._kube.get(item.path)
            if live is None or live["metadata"]["uid"] != uid:
                return
            if time.monotonic() > deadline:
                held = ", ".join(live["metadata"].get("finalizers") or _finalizers(live)) or "nothing it names"
                raise KubeError(0, "Timeout", f"still there after {self._timeout:.0f} s, held by {held}")
            time.sleep(self._interval)


def _finalizers(live: Mapping[str, Any]) -> list[str]:
    """Namespaces keep theirs in the spec, and say in conditions what is left inside."""
    conditions = (live.get("status") or {}).get("conditions") or []
    left = [each["message"] for each in conditions if each.get("status") == "True" and each.get("message")]
    return left or list((live.get("spec") or {}).get("finalizers") or [])


def _without_values(body: Mapping[str, Any], text: str) -> str:
    """A message about a Secret without the Secret."""
    if not is_secret(body):
        return text
    for value in (body.get("data") or {}).values():
        for form in (value, base64.b64decode(value).decode("utf-8", "replace")):
            if len(form) >= 4:
                text = text.replace(form, "(hidden)")
    return text


def _hiding(error: KubeError, body: Mapping[str, Any]) -> KubeError:
    return KubeError(error.status, error.reason, _without_values(body, error.message), error.target)
