# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan for tenants is made from, and what it consists of. Pure, and private to the collection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import STEM, Stored
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import Tenant
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import Credential, Target

ACTIONS = ("created", "adopted", "updated", "rotated", "suspended", "resumed", "revoked", "deleted")


@dataclass(frozen=True)
class Rules:
    """How to go about it."""

    now: datetime
    grace: timedelta = timedelta(days=7)
    rotate_before: datetime | None = None
    adopt: bool = False
    prune: bool = False
    prune_max: str = "10%"


class Step:
    """A part of a change that is one request, or one move of files."""


@dataclass(frozen=True)
class Store(Step):
    """Write a key to a file; without a key, make one first."""

    stem: str
    slot: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Create(Step):
    """Make a Secret; without a key, with the one that was made for its file."""

    name: str
    target: Target
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Write(Step):
    """Bring a Secret's labels and annotations in order, key and tier as they are."""

    credential: Credential
    target: Target
    key: str = field(repr=False)
    touch: bool = False


@dataclass(frozen=True)
class Delete(Step):
    credential: Credential


@dataclass(frozen=True)
class Promote(Step):
    """Let the file of a key that the cluster has got be the one that counts; a `known` one is not to be fetched."""

    stem: str
    known: bool = False


@dataclass(frozen=True)
class Shelve(Step):
    """See to it that no file gives this key back."""

    stem: str


@dataclass(frozen=True)
class Forget(Step):
    """Remove shelved files, by the digits of their keys' fingerprints, or all."""

    stem: str
    old: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Change:
    """What is to be done for one tenant, in this order."""

    tenant: Tenant
    actions: frozenset[str]
    steps: tuple[Step, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass
class Observed:
    """Everything that the plan is made from, sorted by tenant; files by stem, imported keys by path."""

    ours: Mapping[str, Sequence[Credential]]
    foreign: Mapping[str, Sequence[Credential]]
    names: Collection[str]
    holders: Mapping[str, Collection[str]]
    files: Mapping[str, Stored] = field(default_factory=dict)
    imports: Mapping[str, Stored] = field(default_factory=dict)
    tenants_with_files: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        credentials: Iterable[Credential],
        files: Mapping[str, Stored],
        imports: Mapping[str, Stored] | None = None,
        importers: Mapping[str, str] | None = None,
    ) -> Observed:
        """`importers` tells which tenant imports a file."""
        ours: dict[str, list[Credential]] = defaultdict(list)
        foreign: dict[str, list[Credential]] = defaultdict(list)
        holders = _Holders()
        names: set[str] = set()
        for each in credentials:
            names.add(each.name)
            whose = each.tenant
            (ours if each.ours else foreign)[whose].append(each)
            if each.key:
                holders.add(each.key, f"tenant {whose}" if each.ours else f"the foreign Secret {each.name}")
        owners: dict[str, list[str]] = defaultdict(list)
        for name, stored in files.items():
            match = STEM.fullmatch(name)
            owner = match["tenant"] if match else ""
            owners[owner].append(name)
            for key in filter(None, (stored.key, stored.successor)):
                holders.add(key, f"tenant {owner}")
        for path, imported in (imports or {}).items():
            if imported.key:
                holders.add(imported.key, f"tenant {(importers or {})[path]}")
        return cls(dict(ours), dict(foreign), names, holders.shared, files, imports or {}, dict(owners))


class _Holders:
    """Finds the keys that more than one has."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self.shared: dict[str, set[str]] = {}

    def add(self, key: str, holder: str) -> None:
        first = self._first.setdefault(key, holder)
        if first != holder:
            self.shared.setdefault(key, {first}).add(holder)
