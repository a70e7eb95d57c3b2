# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fields of Kubernetes objects: who owns them, and where two objects differ.

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

# The parts of metadata whose owners the server writes down.
OWNED_METADATA = ("annotations", "finalizers", "labels", "ownerReferences")
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "(absent)"})()

# --- Ownership -------------------------------------------------------------------------------------------------------


def owned_fields(live: Mapping[str, Any], manager: str) -> dict[str, Any] | None:
    """The fields that this manager has applied and nobody has changed since, as the server writes them down."""
    for entry in (live.get("metadata") or {}).get("managedFields") or []:
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            return entry.get("fieldsV1") or {}
    return None


def sent_fields(body: Mapping[str, Any]) -> dict[str, Any]:
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


# --- Values ----------------------------------------------------------------------------------------------------------

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
