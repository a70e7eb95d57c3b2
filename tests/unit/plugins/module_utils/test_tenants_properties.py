# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for tenants whatever is asked for in whatever order, and wherever a run is killed.

The process can die before every request and before every change of a file. What must always hold is looked at between
all of these steps, what a run must reach is looked at after every run that was not killed.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _keyfiles
from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import new_key
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import DEFAULT_KEY, Key, Tenant, moment
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import (
    KEY_NAME_LABEL,
    RETIRES,
    TIER,
    USER,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.tenants_world import TIERS, Body, Crash, World

CHANGES = frozenset({"open", "write", "rename", "unlink", "mkdir"})
NAMES = ("a", "b", "c")
DAY = timedelta(days=1)


def by_hand(tenant: str) -> str:
    """The name of a Secret that was not made here."""
    return f"tenant-{tenant}"


class Mortal:
    """Stands in for the module os, and for whoever sends requests: counts the steps, and dies before the chosen one."""

    def __init__(self, world: World, look: Any, edit: Any):
        self._look = look
        self._edit = edit
        self._writes = 0
        self.edited: frozenset[int] = frozenset()
        self._dead = False
        self.left: int | None = None
        self.steps = 0
        world.cluster.before_write = self.request
        world.cluster.after_event = look

    def step(self) -> None:
        # A dead process does nothing more, whatever the code would do on its way out.
        if self._dead or self.left == 0:
            self._dead = True
            raise Crash
        if self.left is not None:
            self.left -= 1
        self.steps += 1
        self._look()

    def request(self, verb: str, name: str) -> None:
        self.step()
        if self._writes in self.edited:
            self._edit()
        self._writes += 1

    def revive(self, left: int | None = None, edited: frozenset[int] = frozenset()) -> None:
        self._dead, self.left, self.edited, self._writes = False, left, edited, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def call(*arguments: Any, **more: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:
                self.step()
            return real(*arguments, **more)

        return call


@dataclass
class Step:
    """One run: what is wanted, when, by which rules, and after how many steps it is killed, if at all."""

    tenants: list[Tenant]
    later: timedelta
    rules: dict[str, Any]
    killed: int | None = None
    # For whom somebody has made a Secret by hand before; before which requests somebody edits our Secrets; and which
    # keys are in the files to import.
    by_hand: frozenset[str] = frozenset()
    edited: frozenset[int] = frozenset()
    imported: int = 0


@dataclass
class History:
    """A world in which runs follow each other, and what has been seen in it."""

    world: World
    mortal: Mortal = field(init=False)
    owners: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, Body] = field(default_factory=dict)
    never_out: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.mortal = Mortal(self.world, self.look, self.edit)
        for name, labels in {
            "limitador-redis": {"app": "limitador"},
            "tenant-zoe": {"app": "token-labs", "authorino.kuadrant.io/managed-by": "authorino"},
        }.items():
            data = {"api_key": base64.b64encode(new_key().encode()).decode()}
            self.world.cluster.put({"metadata": {"name": name, "labels": labels, "annotations": {}}, "data": data})
            self.foreign[name] = copy.deepcopy(self.world.cluster.secrets[name])

    def ours(self) -> list[Body]:
        return [item for name, item in self.world.cluster.secrets.items() if name not in self.foreign]

    def make_by_hand(self, tenant: str) -> None:
        """A Secret of somebody who has not heard of us, for a tenant that we do not know."""
        if not self.secrets(tenant) and not self.files(tenant) and by_hand(tenant) not in self.world.cluster.secrets:
            labels = {"app": "token-labs", "authorino.kuadrant.io/managed-by": "authorino"}
            annotations = {TIER: "free", USER: tenant}
            metadata = {"name": by_hand(tenant), "labels": labels, "annotations": annotations}
            data = {"api_key": base64.b64encode(new_key().encode()).decode()}
            self.world.cluster.put({"metadata": metadata, "data": data})

    def edit(self) -> None:
        """Somebody puts an annotation of their own on everything."""
        for item in self.ours():
            edited = copy.deepcopy(item)
            edited["metadata"]["annotations"]["theirs"] = str(next(self.world.cluster.versions))
            self.world.cluster.put(edited)

    def live(self) -> dict[str, tuple[str, str]]:
        """Who gets in with which key, and with which tier; of our Secrets."""
        gateway = self.world.cluster.gateway.keys
        others = {*self.foreign, *map(by_hand, NAMES)}
        return {key: (user, tier) for key, (name, user, tier) in gateway.items() if name not in others}

    def look(self) -> None:
        """What must hold between any two steps."""
        live = self.live()
        assert set(live) <= self.world.on_disk(), "a key works that is in no file"
        for key, (user, _tier) in live.items():
            assert self.owners.setdefault(key, user) == user, "a key has changed its owner"
        assert self.never_out <= {user for user, _tier in live.values()}, "a tenant was locked out"
        for name, before in self.foreign.items():
            assert self.world.cluster.secrets[name] == before, "something that is not ours was touched"

    def run(self, step: Step) -> None:
        self.world.now += step.later
        known = {user for user, _tier in self.live().values()}
        self.never_out = {tenant.name for tenant in step.tenants if self.served(tenant) and tenant.name in known}
        for tenant in step.tenants:
            for key in self.keys(tenant):
                if key.key_file:
                    self.to_import(Path(key.key_file), step.imported)
        for name in step.by_hand:
            self.make_by_hand(name)
        self.mortal.revive(step.killed, step.edited)
        try:
            result = self.world.run(*step.tenants, adopt=True, **step.rules)
        except Crash:
            return
        finally:
            self.mortal.revive()
            self.look()
        assert result.problems == {}
        self.reached(step)
        again = self.world.plan(*step.tenants, adopt=True, **step.rules)
        assert again.changes == [] and again.problems == {}, "a second run has something to do"

    @staticmethod
    def to_import(path: Path, number: int) -> None:
        """One of a few keys for each file."""
        key = base64.urlsafe_b64encode(hashlib.sha256(f"{path.name} {number}".encode()).digest()).decode()
        path.touch(0o600)
        path.write_text(key)

    def served(self, tenant: Tenant) -> bool:
        return any(self.active(tenant, key) for key in self.keys(tenant))

    @staticmethod
    def keys(tenant: Tenant) -> tuple[Key, ...]:
        return (Key(),) if tenant.keys is None else tenant.keys

    def active(self, tenant: Tenant, key: Key) -> bool:
        expired = any(each and each <= self.world.now for each in (tenant.expires, key.expires))
        return tenant.state == key.state == "present" and not expired

    def secrets(self, tenant: str, key: str | None = None) -> list[Body]:
        return [
            item
            for item in self.world.cluster.of(tenant)
            if key in (None, item["metadata"]["labels"].get(KEY_NAME_LABEL))
        ]

    def files(self, tenant: str) -> set[str]:
        found = (path.name for path in self.world.directory.glob("*.key*"))
        return {name for name in found if name.split(".")[0] == tenant}

    def reached(self, step: Step) -> None:
        """What a run must reach that was not killed."""
        listed = {tenant.name for tenant in step.tenants}
        for tenant in step.tenants:
            if tenant.state == "absent":
                assert not self.secrets(tenant.name) and not self.files(tenant.name)
                continue
            for key in self.keys(tenant):
                self.key_reached(tenant, key)
            names = {item["metadata"]["labels"][KEY_NAME_LABEL] for item in self.secrets(tenant.name)}
            if step.rules["prune"] and tenant.keys is not None:
                assert names <= {key.name for key in tenant.keys}
        if step.rules["prune"]:
            for name in set(NAMES) - listed:
                assert not self.secrets(name) and not self.files(name)
        # By user: one that was made by hand, and whose adoption was interrupted, has no label yet.
        found = [(item["data"]["api_key"], item["metadata"]["annotations"].get(USER)) for item in self.ours()]
        assert len({key for key, _tenant in found}) == len(set(found)), "a key is shared"
        keys = [key for key, tenant in found if tenant in listed]
        assert len(set(keys)) == len(keys), "a key is in two Secrets"

    def key_reached(self, tenant: Tenant, key: Key) -> None:
        current, leaving = [], []
        for item in self.secrets(tenant.name, key.name):
            until = item["metadata"]["annotations"].get(RETIRES)
            (leaving if until else current).append(base64.b64decode(item["data"]["api_key"]).decode())
            assert not until or moment(until) > self.world.now, "the grace of a key is over"
        if key.state == "absent":
            assert not current and not leaving
            return
        live = self.live()
        for each in (*current, *leaving):
            assert (each in live) is self.active(tenant, key)
            assert live.get(each, (tenant.name, tenant.tier)) == (tenant.name, tenant.tier)
        if self.active(tenant, key):
            [only] = current
            if not key.key_file:  # whoever imports a key has it
                assert self.world.files.read(_keyfiles.stem(tenant.name, key.name)) == only


# --- What can be asked for -----------------------------------------------------------------------------------------

# Days from the beginning; a history lasts a few weeks.
moments = st.none() | st.integers(-1, 30)
states = st.sampled_from(["present", "present", "suspended", "absent"])
rotations = st.none() | st.integers(1, 3) | st.integers(0, 30).map(lambda days: days * DAY)


@st.composite
def tenants(draw: st.DrawFn, name: str, begin: datetime, imports: Path) -> Tenant:
    def when(days: int | None) -> Any:
        return None if days is None else begin + days * DAY

    def rotate(value: Any) -> Any:
        return begin + value if isinstance(value, timedelta) else value

    keys = None
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from([DEFAULT_KEY, "ci", "batch"]), unique=True, min_size=1))
        keys = tuple(
            Key(each, draw(states), when(draw(moments)), key_file=str(imports / f"{name}-{each}"))
            if draw(st.integers(0, 4)) == 0
            else Key(each, draw(states), when(draw(moments)), rotate(draw(rotations)))
            for each in chosen
        )
    state, tier = draw(states), draw(st.sampled_from(TIERS))
    contact = draw(st.sampled_from(["", "ops@example.com"]))
    return Tenant(name, tier, state, keys, when(draw(moments)), rotate(draw(rotations)), contact)


@st.composite
def steps(draw: st.DrawFn, begin: datetime, imports: Path) -> Step:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    wanted = [draw(tenants(name, begin, imports)) for name in names]
    before = draw(st.none() | st.integers(0, 20).map(lambda days: begin + days * DAY))
    rules = {
        "prune": draw(st.booleans()),
        "grace": draw(st.sampled_from([timedelta(), DAY, 7 * DAY])),
        "rotate_before": before,
    }
    later = draw(st.sampled_from([timedelta(), timedelta(hours=1), DAY, 8 * DAY]))
    return Step(
        wanted,
        later,
        rules,
        killed=draw(st.none() | st.integers(0, 30)),
        by_hand=draw(st.frozensets(st.sampled_from(NAMES), max_size=1)),
        edited=draw(st.frozensets(st.integers(0, 9), max_size=2)),
        imported=draw(st.integers(0, 2)),
    )


@contextmanager
def history() -> Iterator[History]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory, pytest.MonkeyPatch.context() as patch:
        begun = History(World(Path(directory)))
        patch.setattr(_keyfiles, "os", begun.mortal)
        # Waiting for the disk is not what is looked at.
        patch.setattr(_keyfiles.KeyFiles, "sync", lambda self, descriptors=(), everything=False: None)
        yield begun


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data())
def test_whatever_is_asked_for_and_wherever_it_is_killed(data: st.DataObject) -> None:
    with history() as begun:
        runs = data.draw(
            st.lists(steps(begun.world.now, begun.world.directory.parent), min_size=1, max_size=6), label="runs"
        )
        for step in runs:
            begun.run(step)
        # What was killed last is finished by a plain rerun.
        begun.run(replace(runs[-1], later=timedelta(), killed=None))


DUE = [
    Tenant("a", "free"),
    Tenant("b", "free", keys=(Key(), Key("ci"))),
    Tenant("c", "pro", keys=(Key(), Key("ci"), Key("batch"))),
]


def test_a_run_with_everything_in_it_killed_at_every_step() -> None:
    """Not left to chance: tier, rotation, suspension, expiry, a new key, a revoked one, a removed tenant, at once."""
    rules = {"prune": True, "grace": DAY}

    def tell(killed: int | None) -> int:
        """The whole story; how many steps its longest run had."""
        with history() as begun:
            wanted = [
                Tenant("a", "pro", rotate=2),
                Tenant("b", "free", keys=(Key(state="absent"), Key("ci", expires=begun.world.now), Key("batch"))),
            ]
            begun.run(Step(DUE, timedelta(), rules))
            begun.mortal.steps = 0
            begun.run(Step(wanted, timedelta(), rules, killed))
            steps = begun.mortal.steps
            begun.run(Step(wanted, timedelta(), rules))
            # The old key's grace is over.
            begun.run(Step(wanted, 2 * DAY, rules, killed))
            begun.run(Step(wanted, timedelta(), rules))
            return steps

    steps = tell(None)
    assert steps > 20
    for killed in range(steps):
        assert tell(killed) == killed
