# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it takes to bring one tenant's keys to their wanted state. Pure.

This module util is private to the collection: it may change in any way at any time.

Some rules follow from how Authorino keeps keys (a table from the key to the one Secret that it was last seen in):

- A Secret's tier is read when its key becomes known, and not again. So a tier is never changed in place: a new Secret
  with the same key and the new tier takes the key over, and then the old one is deleted.
- Of two Secrets with one key, the one with the newest event holds it, and deleting that one kills the key. So before
  others are deleted, the one that stays is written to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import (
    CURRENT,
    NEXT,
    NOTHING,
    STEM,
    Stored,
    digits,
    stem,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import (
    DEFAULT_KEY,
    GONE,
    PRESENT,
    SUSPENDED,
    Key,
    Tenant,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import (
    ACTIVE,
    REPLACES,
    STATE_LABEL,
    USER,
    Credential,
    Target,
    not_adoptable,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_steps import (
    Change,
    Create,
    Delete,
    Forget,
    Observed,
    Promote,
    Rules,
    Shelve,
    Step,
    Store,
    Write,
)


@dataclass
class Live:
    """A key in the cluster: one, whatever the number of its Secrets."""

    key: str
    name: str
    credentials: list[Credential]

    @property
    def newest(self) -> Credential:
        if len(self.credentials) == 1:
            return self.credentials[0]
        return max(self.credentials, key=lambda each: (each.ours, each.age))

    @property
    def generation(self) -> int:
        return max(each.generation for each in self.credentials)

    @property
    def created(self) -> datetime | None:
        return min((each.created for each in self.credentials if each.created), default=None)

    @property
    def retires(self) -> datetime | None:
        return self.newest.retires

    @property
    def replaces(self) -> list[str]:
        return [each for each in self.newest.annotations.get(REPLACES, "").split(",") if each]

    @property
    def active(self) -> bool:
        return any(each.labels.get(STATE_LABEL) == ACTIVE or not each.ours for each in self.credentials)


class TenantPlan:
    """One tenant's change, and what is in the way of it (both can be: what takes access away is never held up)."""

    def __init__(self, tenant: Tenant, observed: Observed, rules: Rules):
        self._tenant, self._observed, self._rules = tenant, observed, rules
        self._stems = sorted(observed.tenants_with_files.get(tenant.name, ()))
        foreign = observed.foreign.get(tenant.name, ())
        self._ours = sorted(observed.ours.get(tenant.name, ()), key=lambda each: each.name)
        self._adopted = [each for each in foreign if rules.adopt and not not_adoptable(each)]
        self._foreign = [each for each in foreign if each not in self._adopted]
        self._lives = self._find_lives()
        self._made: list[Step] = []
        self._written: list[Write] = []
        self._removed: list[Step] = []
        self._actions: set[str] = set()
        # Described only when there is something to tell.
        self._after: list[tuple[Target, str | None]] = []
        self._taken: set[str] = set()
        self._problem = ""
        self._files_only: list[str] = []
        self.warnings: list[str] = []
        self.unlisted: list[str] = []

    def result(self) -> tuple[Change | None, str]:
        loose = [each.name for each in self._foreign if each.opens and each.key]
        if self._tenant.state != PRESENT and loose:
            self._problem = f"Secret {', '.join(loose)} still lets this tenant in and is not managed here: delete it"
        if self._tenant.state == GONE:
            return self._remove_all(), self._problem
        others = self._other_owners()
        if others:
            self._problem = self._problem or f"its key is also that of {', '.join(others)}: remove one of them"
            if self._tenant.state == PRESENT:
                return None, self._problem
        if not self._lives and (obstacle := self._obstacle()):
            return None, self._problem or obstacle
        wanted = self._tenant.keys if self._tenant.keys is not None else (Key(),)
        for key in wanted:
            self._plan_key(key)
        for name in sorted({live.name for live in self._lives} - {key.name for key in wanted}):
            self._plan_unlisted(name)
        # Without a key they are of no use, and no danger.
        self._removed += [Delete(each) for each in self._ours if not each.key]
        return self._change(), self._problem

    # --- What is there ---------------------------------------------------------------------------------------------

    def _find_lives(self) -> list[Live]:
        by_key: dict[str, list[Credential]] = defaultdict(list)
        for each in [*self._ours, *self._adopted]:
            if each.key:
                by_key[each.key].append(each)
        lives: list[Live] = []
        unnamed: list[tuple[str, list[Credential]]] = []
        for key, credentials in by_key.items():
            named = [each.key_name for each in credentials if each.ours and each.key_name]
            named += [each.key_name for each in credentials if each.key_name]
            if named:
                lives.append(Live(key, str(named[0]), credentials))
            else:
                unnamed.append((key, credentials))
        # One that was adopted and replaced at once, before an interruption: it is on its way out under that name.
        replaced = {each: live.name for live in lives for each in live.replaces}
        for key, credentials in unnamed:
            taken = {live.name for live in lives}
            name = replaced.get(digits(key)) or self._name_of(credentials[0], key, taken)
            lives.append(Live(key, name, credentials))
        return lives

    def _name_of(self, credential: Credential, key: str, taken: Collection[str]) -> str:
        """What a key is called that was made by hand."""
        if DEFAULT_KEY not in taken:
            return DEFAULT_KEY
        own = STEM.fullmatch(f"{self._tenant.name}.{credential.name.removeprefix(f'tenant-{self._tenant.name}-')}")
        return own["key"] if own and own["key"] not in taken else f"adopted-{digits(key)}"

    def _stored(self, key_name: str) -> Stored:
        return self._observed.files.get(stem(self._tenant.name, key_name), NOTHING)

    def _imported(self, key: Key) -> Stored:
        return self._observed.imports.get(key.key_file, NOTHING) if key.key_file else NOTHING

    def _other_owners(self) -> list[str]:
        keys = {live.key for live in self._lives}
        for name in self._stems:
            stored = self._observed.files[name]
            keys |= {each for each in (stored.key, stored.successor) if each}
        keys |= {each for key in self._tenant.keys or () if (each := self._imported(key).key)}
        holders = [holder for key in keys for holder in self._observed.holders.get(key, ())]
        if not holders:
            return []
        own = {f"tenant {self._tenant.name}"}
        own |= {f"the foreign Secret {each.name}" for each in (*self._foreign, *self._adopted)}
        return sorted(set(holders) - own)

    def _obstacle(self) -> str:
        """Why a tenant gets no first key. A second one is never made while there may be a first one."""
        if self._foreign:
            reasons = [f"Secret {each.name} {self._why(each)}" for each in self._foreign]
            return "; ".join(reasons)
        if self._ours and not any(self._observed.files[name].key for name in self._stems):
            names = ", ".join(each.name for each in self._ours)
            return (
                f"Secret {names} holds no key any more, nor is there a key file: "
                "delete the Secret to have a new key made"
            )
        return ""

    def _why(self, credential: Credential) -> str:
        if self._rules.adopt:
            return f"is this tenant's but cannot be adopted: it {not_adoptable(credential)}: delete it"
        return "is this tenant's by name but not managed here: adopt it, or delete it"

    # --- One key ---------------------------------------------------------------------------------------------------

    def _plan_key(self, key: Key) -> None:
        lives = [live for live in self._lives if live.name == key.name]
        if key.state == GONE:
            self._revoke(key.name, lives)
            return
        stored, imported = self._stored(key.name), self._imported(key)
        if stored.trouble:
            self._problem = self._problem or stored.trouble
        staying = _staying(lives, imported)
        due = self._due(key, staying[0], imported) if staying else None
        if not staying:
            self._first(key, stored, imported, {live.key for live in lives})
        elif due is not None:
            self._rotate(key, staying, stored, imported, due)
            staying = []
        self._keep(key, lives, staying, stored)

    def _keep(self, key: Key, lives: Sequence[Live], staying: Sequence[Live], stored: Stored) -> None:
        """Have the keys that stay as they shall be, and let the others go in their time."""
        for live in staying:
            self._ensure(live, self._target(key, live))
        if staying:
            self._settle(key.name, stored, staying[0], lives)
        for live in lives:
            if live not in staying:
                self._retire(key, live)
        self._clean(key.name, stored, lives)

    def _target(self, key: Key, live: Live | None, generation: int = 1, **more: Any) -> Target:
        tenant, now = self._tenant, self._rules.now
        expires = min((each for each in (tenant.expires, key.expires) if each), default=None)
        active = SUSPENDED not in (tenant.state, key.state) and not (expires and expires <= now)
        if live:
            generation = live.generation
            more = {"created": live.created, "replaces": ",".join(live.replaces), **more}
        return Target(tenant, key, active, generation, expires=expires, **more)

    def _first(self, key: Key, stored: Stored, imported: Stored, leaving: Collection[str]) -> None:
        """A key of a name that has none that counts: imported, found in its file, or made."""
        if self._problem:
            return
        rotate = key.rotate or self._tenant.rotate
        target = self._target(key, None, rotate if isinstance(rotate, int) else 1)
        if target.expires and target.expires <= self._rules.now:
            return
        name = stem(self._tenant.name, key.name)
        kept = [each for each in (stored.key, stored.successor) if each and each not in leaving]
        if key.key_file and (not kept or imported.key not in (None, *kept)):
            if imported.key is None:
                self._problem = self._problem or imported.trouble or f"{key.key_file}, its key_file, is not there"
                return
            self._made.append(Store(name, NEXT if stored.key else CURRENT, imported.key))
            self._create(target, imported.key)
            if stored.key:
                self._made.append(Promote(name))
        elif kept:
            chosen = imported.key if imported.key in kept else kept[0]
            self._create(target, chosen)
            if chosen == stored.successor:
                self._made.append(Promote(name))
        else:
            self._made.append(Store(name, NEXT if stored.key else CURRENT))
            self._create(target, None)
            if stored.key:
                self._made.append(Promote(name))
        self._actions.add("created")

    def _due(self, key: Key, current: Live, imported: Stored) -> int | None:
        """The generation of the key to replace the current one with; None when it is to stay."""
        rules, rotate = self._rules, key.rotate or self._tenant.rotate
        before = rules.rotate_before
        if key.key_file:
            if before and not (current.created and current.created >= before):
                self.warnings.append(
                    f"the key {key.name} of tenant {self._tenant.name} was imported: put a new one into {key.key_file}"
                )
            return current.generation + 1 if imported.key not in (None, current.key) else None
        if isinstance(rotate, int):
            if rotate > current.generation:
                return rotate
        elif rotate and rotate <= rules.now and not (current.created and current.created >= rotate):
            return current.generation
        if before and before <= rules.now and not (current.created and current.created >= before):
            return current.generation
        return None

    def _rotate(self, key: Key, old: Sequence[Live], stored: Stored, imported: Stored, generation: int) -> None:
        name = stem(self._tenant.name, key.name)
        known = {live.key for live in self._lives}
        successor = stored.successor if stored.successor not in known else None
        if stored.key is None and self._is_adopted(old[0]):
            # It is let in for a while yet, and so has to be on the disk.
            self._made.append(Store(name, CURRENT, old[0].key))
        if imported.key or successor is None:
            successor = imported.key
            self._made.append(Store(name, NEXT, successor))
        replaces = ",".join(sorted(digits(live.key) for live in old))
        self._create(self._target(key, None, generation, replaces=replaces), successor)
        self._made.append(Promote(name))
        self._actions.add("rotated")

    def _retire(self, key: Key, live: Live) -> None:
        """A key on its way out: let in until its time has come."""
        name, rules = stem(self._tenant.name, key.name), self._rules
        retires = live.retires or rules.now + rules.grace
        if rules.rotate_before and not (live.created and live.created >= rules.rotate_before):
            # Asked for explicitly, so the grace that is asked for counts, not the one of an earlier rotation.
            retires = min(retires, rules.now + rules.grace)
        if retires > rules.now:
            if live.retires is None:
                self._actions.add("rotated")
            self._ensure(live, self._target(key, live, retires=retires))
            return
        if live.retires is not None:
            self._actions.add("revoked")
        if self._stored(key.name).key == live.key and Promote(name) not in self._made:
            self._made.append(Shelve(name))
        self._removed += [*map(Delete, live.credentials), Forget(name, (digits(live.key),))]

    def _settle(self, key_name: str, stored: Stored, current: Live, lives: Sequence[Live]) -> None:
        """The files of a key that stays; after an interruption, they may be behind the cluster."""
        if stored.key == current.key or stored.trouble:
            return
        name, own = stem(self._tenant.name, key_name), digits(current.key)
        if stored.successor == current.key:
            self._made.append(Promote(name))
        elif stored.key and stored.key not in {live.key for live in lives}:
            if not (stored.written and current.created and current.created > stored.written):
                self._problem = self._problem or (
                    "the key file holds another key than the cluster: remove the file, or the Secret"
                )
                return
            # Left on this controller from before the key was replaced while another one was worked on.
            self._made += [Store(name, NEXT, current.key), Promote(name, known=True)]
            self._removed.append(Forget(name, (digits(stored.key),)))
        elif stored.key is None:
            # Adopted, or it was to go and stays after all, or the file is on another controller.
            self._made.insert(0, Store(name, CURRENT, current.key))
            self._removed += [Forget(name, (own,))] if own in stored.old else []
        elif own in stored.old:
            self._made += [Store(name, NEXT, current.key), Promote(name, known=True)]
            self._removed.append(Forget(name, (own,)))
        else:
            return
        self._files_only.append(f"key {key_name} sha256:{own} is not in its file")

    @staticmethod
    def _is_adopted(live: Live) -> bool:
        return not any(each.ours for each in live.credentials)

    def _clean(self, key_name: str, stored: Stored, lives: Sequence[Live]) -> None:
        name = stem(self._tenant.name, key_name)
        shelved = set(stored.old)
        # By what is done now.
        if stored.key and Promote(name) in self._made:
            shelved.add(digits(stored.key))
        if stored.successor and any(
            isinstance(step, Store) and (step.stem, step.slot) == (name, NEXT) for step in self._made
        ):
            shelved.add(digits(stored.successor))
        gone = sorted(shelved - {digits(live.key) for live in lives}) if shelved else []
        if gone:
            self._removed.append(Forget(name, tuple(gone)))
            self._actions.add("revoked")
            self._files_only += [f"key {key_name} sha256:{each} is left over in a file" for each in gone]

    def _plan_unlisted(self, name: str) -> None:
        lives = [live for live in self._lives if live.name == name]
        if self._tenant.keys is not None:
            self.unlisted.append(name)
            if self._rules.prune:
                self._revoke(name, lives)
                return
        staying = _staying(lives, NOTHING)
        own = (staying or lives)[0].newest.own
        self._keep(replace(own, name=name), lives, staying, self._stored(name))

    def _revoke(self, key_name: str, lives: Sequence[Live]) -> None:
        name = stem(self._tenant.name, key_name)
        stored = self._stored(key_name)
        if not lives and stored == NOTHING:
            return
        self._made.append(Shelve(name))
        self._removed += [*(Delete(each) for live in lives for each in live.credentials), Forget(name)]
        if not lives:
            self._files_only.append(f"key {key_name} is left over in a file")
        self._actions.add("revoked")

    def _remove_all(self) -> Change | None:
        secrets = [*self._ours, *self._adopted]
        self._made = [Shelve(name) for name in self._stems]
        self._removed = [*map(Delete, secrets), *(Forget(name) for name in self._stems)]
        self._files_only = [f"key file {name}" for name in self._stems]
        self._actions = {"deleted"}
        return self._change()

    # --- Secrets ---------------------------------------------------------------------------------------------------

    def _ensure(self, live: Live, target: Target) -> None:
        """Have exactly one Secret of this key, as it shall be."""
        now, key = self._rules.now, live.key
        wanted = (self._tenant.tier, self._tenant.name)
        right = [each for each in live.credentials if each.ours and (each.tier, each.annotations.get(USER)) == wanted]
        kept = max(right, key=lambda each: each.age, default=None)
        others = [each for each in live.credentials if each is not kept]
        self._after.append((target, key))
        if kept is None:
            self._create(target, key, told=True)
        elif others or not target.met_by(kept, key, now):
            self._written.append(Write(kept, target, key, touch=bool(others)))
        else:
            return
        self._removed += map(Delete, others)
        if self._is_adopted(live):
            self._actions.add("adopted")
        elif live.active != target.active:
            self._actions.add("resumed" if target.active else "suspended")
        elif target.retires == live.retires:
            self._actions.add("updated")

    def _create(self, target: Target, key: str | None, told: bool = False) -> None:
        revision = 0
        taken = self._observed.names
        while (name := target.name(revision)) in taken or name in self._taken:
            revision += 1
        self._taken.add(name)
        self._made.append(Create(name, target, key))
        if not told:
            self._after.append((target, key))

    def _change(self) -> Change | None:
        # A key is let in before another one is kept out: there is always one.
        written = sorted(self._written, key=lambda write: not write.target.active)
        steps: tuple[Step, ...] = (*self._made, *written, *self._removed)
        if not steps:
            return None
        before = [each.describe() for each in (*self._ours, *self._adopted)]
        actions = self._actions or {"updated"}
        if not any(isinstance(step, (Create, Write, Delete)) for step in steps):
            before += self._files_only
        after = sorted(target.describe(key) for target, key in self._after)
        return Change(self._tenant, frozenset(actions), steps, tuple(sorted(before)), tuple(after))


def _staying(lives: Sequence[Live], imported: Stored) -> list[Live]:
    """The keys of one name that are not on their way out, the one that counts first.

    There are several only where somebody has made another by hand: that one is not dropped on a guess.
    """
    if len(lives) == 1 and lives[0].retires is None:
        return list(lives)
    chosen = next((live for live in lives if live.key == imported.key), None)
    if chosen and chosen.retires:
        # Imported again, while on its way out: it takes back its place.
        return [chosen]
    replaced = {each for live in lives if live.retires is None for each in live.replaces}
    staying = [live for live in lives if live.retires is None and (digits(live.key) not in replaced or live is chosen)]
    return sorted(staying, key=lambda live: (live is chosen, _precedence(live)), reverse=True)


def _precedence(live: Live) -> tuple[int, str, str]:
    return live.generation, str(live.created or ""), live.key
