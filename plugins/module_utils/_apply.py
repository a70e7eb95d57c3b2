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
import binascii
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ansible.module_utils.urls import open_url
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

DIGEST = "tokenlabs.io/applied"
SERVERS_METADATA = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
# The parts of metadata whose owners the server writes down.
OWNED_METADATA = ("annotations", "finalizers", "labels", "ownerReferences")
NAMESPACES, DEFINITIONS, OBJECTS, GATES = range(4)
# What can keep other objects from being written comes after them.
GATE_KINDS = frozenset({"APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"})
WEBHOOK_PATIENCE = 30.0
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "(absent)"})()


class DefinitionError(Exception):
    """Definitions that cannot be sent to any server; all that is wrong with them."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


# --- Definitions ---------------------------------------------------------------------------------------------------


def load(text: str | bytes) -> list[dict[str, Any]]:
    """The documents of a manifest. Dates stay text and `=` is a string, as Kubernetes reads them."""
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    unwanted = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in unwanted]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    loader = type("Loader", (base,), {"yaml_implicit_resolvers": resolvers})
    try:
        return [document for document in yaml.load_all(text, Loader=loader) if document]
    except yaml.YAMLError as error:
        raise DefinitionError([f"not YAML: {' '.join(str(error).split())}"]) from error


def read(source: str, checksum: str | None = None) -> list[dict[str, Any]]:
    """The documents of a file, of all manifests in a directory, or of a URL."""
    if source.startswith(("http://", "https://")):
        contents = {source: _download(source)}
    else:
        path = Path(source)
        files = sorted(path.glob("*.y*ml")) + sorted(path.glob("*.json")) if path.is_dir() else [path]
        try:
            contents = {str(file): file.read_bytes() for file in files}
        except OSError as error:
            raise DefinitionError([f"{source}: {error.strerror}"]) from error
    documents: list[dict[str, Any]] = []
    for name, content in contents.items():
        found = "sha256:" + hashlib.sha256(content).hexdigest()
        if checksum and found != checksum:
            raise DefinitionError([f"{name}: its checksum is {found}, not {checksum}"])
        try:
            documents += load(content)
        except DefinitionError as error:
            raise DefinitionError([f"{name}: {problem}" for problem in error.problems]) from error
    if not documents:
        raise DefinitionError([f"{source}: no documents in it"])
    return documents


def _download(url: str, attempts: int = 3) -> bytes:
    for left in reversed(range(attempts)):
        try:
            return open_url(url, timeout=60, http_agent="tokenlabs-platform").read()
        except (OSError, ValueError) as error:
            if not left:
                raise DefinitionError([f"{url}: {error}"]) from error
            time.sleep(1)
    raise AssertionError("unreachable")


def prepare(definitions: Iterable[Any]) -> list[dict[str, Any]]:
    """Definitions as they will be sent: lists unpacked, the server's own fields and nulls left out, text made data."""
    problems: list[str] = []
    prepared: list[dict[str, Any]] = []
    seen: set[tuple[str, str, str, str]] = set()
    for position, definition in enumerate(_unpack(definitions)):
        trouble = _trouble(definition)
        if trouble:
            problems.append(f"definition {position + 1}: {trouble}")
            continue
        body = _without_nulls(definition)
        body.pop("status", None)
        body["metadata"] = {key: value for key, value in body["metadata"].items() if key not in SERVERS_METADATA}
        name = title(body["kind"], body["metadata"].get("namespace"), body["metadata"]["name"])
        if body["kind"] == "Secret" and body["apiVersion"] == "v1":
            try:
                body = _with_data(body)
            except ValueError as error:
                problems.append(f"{name}: {error}")
                continue
        identity = (*group_kind(body), body["metadata"].get("namespace", ""), body["metadata"]["name"])
        if identity in seen:
            problems.append(f"{name}: defined twice")
        seen.add(identity)
        prepared.append(body)
    if problems:
        raise DefinitionError(problems)
    return prepared


def _unpack(definitions: Iterable[Any]) -> Iterator[Any]:
    for definition in definitions:
        if definition is None:
            continue
        if isinstance(definition, dict) and str(definition.get("kind", "")).endswith("List") and "items" in definition:
            yield from _unpack(definition["items"] or [])
        else:
            yield definition


def _trouble(definition: Any) -> str:
    if not isinstance(definition, dict):
        return f"must be a mapping, not {type(definition).__name__}"
    for key in ("apiVersion", "kind"):
        if not isinstance(definition.get(key), str) or not definition[key]:
            return f"{key} is missing"
    metadata = definition.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        return f"metadata.name of this {definition['kind']} is missing"
    if not isinstance(metadata.get("namespace") or "", str):
        return f"metadata.namespace of {definition['kind']} {metadata['name']} must be a string"
    return ""


def _without_nulls(value: Any) -> Any:
    """Null means: do not send this field. (Sent, it would be dropped or refused, depending on the kind.)"""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value


def _with_data(secret: dict[str, Any]) -> dict[str, Any]:
    """A Secret with data only: stringData cannot be applied, it leaves behind what is no longer sent."""
    data: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        # Values are checked here because the server's own refusal would quote them.
        try:
            data[key] = base64.b64encode(base64.b64decode("".join(value.split()), validate=True)).decode()
        except (AttributeError, TypeError, binascii.Error):
            raise ValueError(f"data.{key} must be a base64 string") from None
    for key, value in (secret.get("stringData") or {}).items():
        if not isinstance(value, str):
            raise ValueError(f"stringData.{key} must be a string")
        data[key] = base64.b64encode(value.encode()).decode()
    rest = {key: value for key, value in secret.items() if key not in ("data", "stringData")}
    return {**rest, "data": data} if data else rest


def group_kind(body: Mapping[str, Any]) -> tuple[str, str]:
    version = body["apiVersion"]
    return (version.rpartition("/")[0], body["kind"])


def phase(body: Mapping[str, Any]) -> int:
    """Namespaces first, then CRDs, then all else, and last what could refuse the others."""
    if body["kind"] == "Namespace":
        return NAMESPACES
    if body["kind"] == "CustomResourceDefinition":
        return DEFINITIONS
    return GATES if body["kind"] in GATE_KINDS else OBJECTS


def is_secret(body: Mapping[str, Any]) -> bool:
    return body["kind"] == "Secret" and body["apiVersion"] == "v1"


def digest(body: Mapping[str, Any]) -> str:
    """A name for exactly this content; nothing about a Secret's values is in it."""
    content = {key: value for key, value in body.items() if not (key == "data" and is_secret(body))}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def signed(body: dict[str, Any]) -> dict[str, Any]:
    """The body as it is applied, with the digest of itself."""
    metadata = body["metadata"]
    annotations = {**(metadata.get("annotations") or {}), DIGEST: digest(body)}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def generate(length: int) -> str:
    """Random characters that are safe in URLs, and on command lines (no leading dash)."""
    while True:
        text = secrets.token_urlsafe(length)[:length]
        if text[0].isalnum() and text[-1].isalnum():
            return text


def with_generated(body: dict[str, Any], wanted: Mapping[str, int]) -> dict[str, Any]:
    """A Secret with new random values under the wanted keys."""
    data = {key: base64.b64encode(generate(length).encode()).decode() for key, length in wanted.items()}
    return {**body, "data": {**(body.get("data") or {}), **data}}


# --- Ownership -----------------------------------------------------------------------------------------------------


def owned_fields(live: Mapping[str, Any], manager: str) -> dict[str, Any] | None:
    """The fields that this manager has applied and nobody has changed since, as the server writes them down."""
    for entry in (live.get("metadata") or {}).get("managedFields") or []:
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            return entry.get("fieldsV1") or {}
    return None


def _sent(body: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a body that can have owners."""
    metadata = {key: body["metadata"][key] for key in OWNED_METADATA if key in body["metadata"]}
    rest = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata", "status")}
    return {**rest, "metadata": metadata} if metadata else rest


def _item_keys(key: str) -> dict[str, Any]:
    return json.loads(key[2:])


def pair(items: Sequence[Any], owned: Mapping[str, Any]) -> tuple[list[str | None], list[str]]:
    """For each item of a list the server's name of it (or None), and the names that no item answers to.

    The names of map-like lists hold the merge keys, some of which the server may have filled in: the item that gives
    the most of them goes first.
    """
    left = [name for name in owned if name != "."]
    found: list[str | None] = [None] * len(items)
    by_keys: list[tuple[int, int]] = []
    for index, item in enumerate(items):
        if isinstance(item, Mapping):
            known = max((sum(key in item for key in _item_keys(name)) for name in left if name[:2] == "k:"), default=0)
            by_keys.append((-known, index))
            continue
        for name in left:
            if name[:2] == "v:" and json.loads(name[2:]) == item or name == f"i:{index}":
                found[index] = name
                left.remove(name)
                break
    for _known, index in sorted(by_keys):
        item = items[index]
        for name in left:
            if name[:2] == "k:" and all(item.get(key, value) == value for key, value in _item_keys(name).items()):
                found[index] = name
                left.remove(name)
                break
    return found, left


def not_ours(sent: Any, owned: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths that we send and do not own: new, or changed by somebody else."""
    if not owned:
        return  # a leaf: a plain value, an empty one, or a whole that has one owner
    if isinstance(sent, Mapping):
        for key, value in sent.items():
            child = owned.get(f"f:{key}")
            if child is None:
                yield _join(path, key)
            else:
                yield from not_ours(value, child, _join(path, key))
    elif isinstance(sent, list):
        names, _left = pair(sent, owned)
        for index, (item, name) in enumerate(zip(sent, names, strict=True)):
            if name is None:
                yield f"{path}[{index}]"
            else:
                yield from not_ours(item, owned[name], f"{path}[{_label(name)}]")


def not_sent(owned: Mapping[str, Any], sent: Any, path: str = "") -> Iterator[str]:
    """Paths that we own and no longer send: applying takes them away."""
    if isinstance(sent, list):
        names, left = pair(sent, owned)
        yield from (f"{path}[{_label(name)}]" for name in left)
        for item, name in zip(sent, names, strict=True):
            if name is not None:
                yield from not_sent(owned[name], item, f"{path}[{_label(name)}]")
        return
    for name, child in owned.items():
        if name == "." or name == "f:status" and not path:
            continue
        key = name[2:]
        if not isinstance(sent, Mapping) or key not in sent:
            yield _join(path, key)
        else:
            yield from not_sent(child, sent[key], _join(path, key))


def _join(path: str, key: str) -> str:
    shown = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'
    return f"{path}.{shown}" if path else shown


def _label(name: str) -> str:
    if name[:2] == "k:":
        return ",".join(f"{key}={value}" for key, value in _item_keys(name).items())
    return name[2:]


# --- Values (to show what differs) ---------------------------------------------------------------------------------

_SUFFIXES: dict[str, Decimal | int] = {
    "": 1,
    "m": Decimal("0.001"),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
}
_SUFFIXES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_QUANTITY = re.compile(r"([+-]?[0-9.]+)(m|k|Ki|[MGTPE]i?|[eE][+-]?[0-9]+)?")


def quantity(value: Any) -> Decimal | None:
    """The amount that a Kubernetes quantity stands for, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    match = _QUANTITY.fullmatch(str(value))
    if not match:
        return None
    number, suffix = match.group(1), match.group(2) or ""
    try:
        return Decimal(number + suffix) if suffix[:1] in "eE" and suffix[1:] else Decimal(number) * _SUFFIXES[suffix]
    except InvalidOperation:
        return None


def same(wanted: Any, live: Any) -> bool:
    """Whether two plain values mean the same to the server."""
    if isinstance(wanted, bool) or isinstance(live, bool):
        return wanted is live
    if wanted == live:
        return True
    amount = quantity(wanted)
    return amount is not None and amount == quantity(live)


def void(value: Any) -> bool:
    """Whether the server may leave this value out: it holds nothing."""
    if isinstance(value, Mapping):
        return all(map(void, value.values()))
    if isinstance(value, list):
        return all(map(void, value))
    return not value


@dataclass(frozen=True)
class Difference:
    """A field that would change; ABSENT stands for no field."""

    path: str
    before: Any
    after: Any


def differences(wanted: Any, live: Any, owned: Mapping[str, Any] | None = None, path: str = "") -> Iterator[Difference]:
    """Where the live object lacks something of the wanted one; what only the live one has is not looked at."""
    owned = owned or {}
    if live is ABSENT or live is None:
        if not void(wanted):
            yield Difference(path, ABSENT, wanted)
    elif isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for key, value in wanted.items():
            yield from differences(value, live.get(key, ABSENT), owned.get(f"f:{key}"), _join(path, key))
    elif isinstance(wanted, list) and isinstance(live, list):
        yield from _list_differences(wanted, live, owned, path)
    elif not same(wanted, live):
        yield Difference(path, live, wanted)


def _list_differences(wanted: list[Any], live: list[Any], owned: Mapping[str, Any], path: str) -> Iterator[Difference]:
    key = _merge_key(wanted, live)
    if owned and any(name[:2] == "v:" for name in owned):
        for item in wanted:
            if item not in live:
                yield Difference(f"{path}[{item}]", ABSENT, item)
    elif key:
        by_key = {item[key]: item for item in live}
        for item in wanted:
            yield from differences(item, by_key.get(item[key], ABSENT), None, f"{path}[{key}={item[key]}]")
    elif len(wanted) == len(live):
        for index, (item, found) in enumerate(zip(wanted, live, strict=True)):
            yield from differences(item, found, None, f"{path}[{index}]")
    else:
        yield Difference(path, live, wanted)


def _merge_key(*lists: list[Any]) -> str | None:
    """The key by which all items of these lists can be told apart."""
    for key in ("name", "uid", "mountPath", "containerPort", "port", "type", "key", "ip"):
        if all(
            all(isinstance(item, Mapping) and isinstance(item.get(key), (str, int)) for item in items)
            and len({item[key] for item in items}) == len(items)
            for items in lists
        ):
            return key
    return None


# --- The plan ------------------------------------------------------------------------------------------------------

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
    wanted = _sent(signed(body))
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
        assert self.resource is not None
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
        for number in (NAMESPACES, DEFINITIONS, OBJECTS, GATES):
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
        for number in (GATES, OBJECTS, DEFINITIONS, NAMESPACES):
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
        assert item.resource is not None
        if not self._if_absent:
            return self._kube.apply(item.path, signed(item.body), self._manager, self._force, dry_run)
        body = with_generated(item.body, self._generated) if self._generated else item.body
        try:
            collection = item.resource.path(body["metadata"].get("namespace"))
            return self._kube.create(collection, body, self._manager, dry_run)
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
        self._await_gone(item)

    def _await_gone(self, item: Item) -> None:
        assert item.live is not None
        deadline = time.monotonic() + self._timeout
        while True:
            live = self._kube.get(item.path)
            if live is None or live["metadata"]["uid"] != item.live["metadata"]["uid"]:
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
