# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants and the Secrets by which the gateway knows them.

This module util is private to the collection: it may change in any way at any time.

One list of what is there, one pure plan, and then as many requests as there are changes. Some rules follow from how
Authorino keeps keys (a table from the key to the one Secret that it was last seen in):

- A Secret's tier is read when its key becomes known, and not again. So a tier is never changed in place: a new Secret
  with the same key and the new tier takes the key over, and then the old one is deleted.
- Of two Secrets with one key, the one with the newest event holds it, and deleting that one kills the key. So before
  others are deleted, the one that stays is written to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import SHAPE, KeyFileError, KeyFiles, new_key
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import MANAGER, Kube, KubeError, in_parallel

PRESENT, SUSPENDED, GONE = "present", "suspended", "absent"
STATES = (PRESENT, SUSPENDED, GONE)
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SECRET_NAME = re.compile(r"tenant-(?P<tenant>.+)-[0-9a-f]{10}")

TENANT_LABEL = "tokenlabs.io/tenant"
STATE_LABEL = "tokenlabs.io/state"
TIER = "kuadrant.io/groups"
USER = "secret.kuadrant.io/user-id"
FINGERPRINT = "tokenlabs.io/fingerprint"
CREATED = "tokenlabs.io/created-at"
TOUCHED = "tokenlabs.io/touched-at"
OURS = {"app.kubernetes.io/managed-by": "tokenlabs", "tokenlabs.io/credential": "api-key"}
# What an AuthPolicy selects key Secrets by, and what makes Authorino watch them.
SELECTED = {"app": "token-labs"}
WATCHED = {"authorino.kuadrant.io/managed-by": "authorino"}
DATA_KEY = "api_key"
# Everything in the namespace, so that foreign objects are seen too; but not Helm's, which are many and large.
NOT_HELM = "type!=helm.sh/release.v1"

ACTIONS = ("created", "updated", "suspended", "resumed", "deleted")
REPLANS = 3


class TenantsError(Exception):
    """Input with which nothing is begun; all that is wrong with it."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Tenant:
    """A tenant as the inventory wants it."""

    name: str
    tier: str
    state: str = PRESENT

    @property
    def label(self) -> str:
        return "suspended" if self.state == SUSPENDED else "active"


@dataclass(frozen=True)
class Credential:
    """A Secret as it is in the cluster, as far as it matters here."""

    name: str
    uid: str
    version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    key: str | None = field(default=None, repr=False)

    @property
    def ours(self) -> bool:
        return all(self.labels.get(key) == value for key, value in OURS.items()) and bool(self.tenant)

    @property
    def tenant(self) -> str:
        """Whose it is: by its name, which nobody can change, or else by what it claims."""
        match = SECRET_NAME.fullmatch(self.name)
        return match["tenant"] if match else self.labels.get(TENANT_LABEL) or self.annotations.get(USER) or ""

    @property
    def opens(self) -> bool:
        """Whether the gateway lets its key in."""
        return all(self.labels.get(k) == v for k, v in SELECTED.items()) and self.labels.get(STATE_LABEL) != "suspended"

    @property
    def tier(self) -> str:
        return self.annotations.get(TIER, "")


def fingerprint(key: str) -> str:
    """Enough of a hash to tell keys apart, of a key too long to be guessed."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()[:8]


def secret_name(tenant: str, key: str, tier: str, revision: int = 0) -> str:
    """The same key in the same tier always has the same name, so that an interrupted change is found again."""
    digest = hashlib.sha256("\0".join((key, tier, str(revision))).encode()).hexdigest()
    return f"tenant-{tenant}-{digest[:10]}"


def labels_of(tenant: Tenant) -> dict[str, str]:
    return {**OURS, **SELECTED, **WATCHED, TENANT_LABEL: tenant.name, STATE_LABEL: tenant.label}


def annotations_of(tenant: Tenant, key: str) -> dict[str, str]:
    return {TIER: tenant.tier, USER: tenant.name, FINGERPRINT: fingerprint(key)}


def secret(
    name: str, tenant: Tenant, key: str, created: str, version: str | None = None, touched: str | None = None
) -> dict[str, Any]:
    """The whole Secret; an apply that left a part out would remove it."""
    annotations = {**annotations_of(tenant, key), CREATED: created}
    metadata: dict[str, Any] = {"name": name, "labels": labels_of(tenant), "annotations": annotations}
    if touched:
        annotations[TOUCHED] = touched
    if version:
        metadata["resourceVersion"] = version
    data = {DATA_KEY: base64.b64encode(key.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def observe(item: Mapping[str, Any]) -> Credential:
    """What is kept of a Secret from the list."""
    metadata = item["metadata"]
    return Credential(
        metadata["name"],
        metadata["uid"],
        metadata["resourceVersion"],
        metadata.get("labels") or {},
        {k: v for k, v in (metadata.get("annotations") or {}).items() if k in (TIER, USER, FINGERPRINT, CREATED)},
        _key((item.get("data") or {}).get(DATA_KEY)),
    )


def _key(encoded: str | None) -> str | None:
    try:
        key = base64.b64decode(encoded or "", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return key if SHAPE.fullmatch(key) else None


def desired(entries: Iterable[Mapping[str, Any]], tiers: Collection[str]) -> list[Tenant]:
    """The tenants of the task, checked; all that is wrong at once."""
    problems: list[str] = []
    tenants: list[Tenant] = []
    for position, entry in enumerate(entries):
        name, tier, state = entry["name"], entry.get("tier") or "", entry.get("state") or PRESENT
        where = f"tenants[{position}] ({name})"
        if not NAME.fullmatch(name):
            problems.append(f"{where}: the name must be 1 to 63 lower-case letters, digits and inner dashes")
        if state != GONE and not tier:
            problems.append(f"{where}: tier is missing")
        elif state != GONE and tier not in tiers:
            problems.append(f"{where}: there is no tier {tier}; there are {', '.join(sorted(tiers)) or 'none'}")
        tenants.append(Tenant(name, tier, state))
    twice = sorted(name for name, number in Counter(tenant.name for tenant in tenants).items() if number > 1)
    problems += [f"tenant {name} is listed more than once" for name in twice]
    if problems:
        raise TenantsError(problems)
    return tenants


# --- The plan ------------------------------------------------------------------------------------------------------


class Step:
    """A part of a change that is one request, or one file."""


@dataclass(frozen=True)
class Create(Step):
    """Make a Secret; without a key, make one first and write it to the tenant's file."""

    name: str | None
    key: str | None = field(default=None, repr=False)
    created: str | None = None


@dataclass(frozen=True)
class Write(Step):
    """Bring a Secret's labels and annotations in order, key and tier as they are."""

    credential: Credential
    key: str = field(repr=False)
    touch: bool = False


@dataclass(frozen=True)
class Delete(Step):
    credential: Credential


@dataclass(frozen=True)
class RemoveFile(Step):
    pass


@dataclass(frozen=True)
class Change:
    """What is to be done for one tenant, in this order."""

    tenant: Tenant
    action: str
    steps: tuple[Step, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass
class Plan:
    """What is to be done for all of them, and what cannot be done."""

    changes: list[Change] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class KeyFile:
    """What was found in a tenant's key file."""

    key: str | None = field(default=None, repr=False)
    trouble: str = ""

    @property
    def there(self) -> bool:
        return bool(self.key or self.trouble)


NO_FILE = KeyFile()


@dataclass
class Observed:
    """Everything that the plan is made from, sorted by tenant."""

    ours: Mapping[str, Sequence[Credential]]
    foreign: Mapping[str, Sequence[Credential]]
    names: frozenset[str]
    holders: Mapping[str, frozenset[str]]
    files: Mapping[str, KeyFile]

    @classmethod
    def of(cls, credentials: Iterable[Credential], files: Mapping[str, KeyFile]) -> Observed:
        ours: dict[str, list[Credential]] = defaultdict(list)
        foreign: dict[str, list[Credential]] = defaultdict(list)
        holders: dict[str, set[str]] = defaultdict(set)
        names: set[str] = set()
        for each in credentials:
            names.add(each.name)
            (ours if each.ours else foreign)[each.tenant].append(each)
            if each.key:
                holders[each.key].add(f"tenant {each.tenant}" if each.ours else f"the foreign Secret {each.name}")
        for tenant, file in files.items():
            if file.key:
                holders[file.key].add(f"tenant {tenant}")
        return cls(ours, foreign, frozenset(names), {k: frozenset(v) for k, v in holders.items()}, files)


def plan(tenants: Sequence[Tenant], observed: Observed, prune: bool = False, prune_max: int = 10) -> Plan:
    """What it takes to have exactly these tenants. Pure: the same input gives the same answer."""
    result = Plan()
    listed = {tenant.name for tenant in tenants}
    result.unlisted = sorted(set(observed.ours) - listed)
    wanted = list(tenants)
    if prune:
        _guard(tenants, result.unlisted, prune_max)
        left_over = {name for name, file in observed.files.items() if file.there} - listed
        wanted += [Tenant(name, "", GONE) for name in sorted(left_over.union(result.unlisted))]
        result.unlisted = []
    for tenant in wanted:
        change, problem = plan_tenant(tenant, observed)
        if change:
            result.changes.append(change)
        if problem:
            result.problems[tenant.name] = problem
    for name, credentials in sorted(observed.foreign.items()):
        for each in credentials:
            if each.opens and each.key:
                owner = f" (for tenant {name})" if name else ""
                result.warnings.append(f"Secret {each.name} lets a key in{owner} and is not managed here")
    return result


def _guard(tenants: Sequence[Tenant], unlisted: Sequence[str], most: int) -> None:
    if not tenants:
        raise TenantsError(["prune is refused: the list of tenants is empty, which would remove all of them"])
    if len(unlisted) > most:
        some = ", ".join(unlisted[:10]) + (" ..." if len(unlisted) > 10 else "")
        raise TenantsError(
            [f"prune is refused: it would remove {len(unlisted)} tenants ({some}), and prune_max allows {most}"]
        )


def plan_tenant(tenant: Tenant, observed: Observed) -> tuple[Change | None, str]:
    """One tenant's change, and what is in the way of it (both can be: what takes access away is never held up)."""
    ours = sorted(observed.ours.get(tenant.name, ()), key=lambda each: each.name)
    foreign = observed.foreign.get(tenant.name, ())
    file = observed.files.get(tenant.name, NO_FILE)
    problem = ""
    loose = [each.name for each in foreign if each.opens and each.key]
    if tenant.state != PRESENT and loose:
        problem = f"Secret {', '.join(loose)} still lets this tenant in and is not managed here: delete it"
    if tenant.state == GONE:
        steps: list[Step] = [Delete(each) for each in ours]
        if file.there:
            steps.append(RemoveFile())
        return _change(tenant, "deleted", steps, ours), problem
    by_key: dict[str, list[Credential]] = defaultdict(list)
    for each in ours:
        if each.key:
            by_key[each.key].append(each)
    keys = set(by_key) | ({file.key} if file.key else set())
    own = {f"tenant {tenant.name}", *(f"the foreign Secret {each.name}" for each in foreign)}
    others = sorted({holder for key in keys for holder in observed.holders.get(key, ())} - own)
    if others:
        problem = problem or f"its key is also that of {', '.join(others)}: remove one of them"
        if tenant.state == PRESENT:
            return None, problem
    if not by_key:
        return _plan_first(tenant, observed, ours, foreign, file, problem)
    if file.trouble:
        problem = problem or file.trouble
    elif file.key and file.key not in by_key:
        problem = problem or "the key file holds another key than the cluster: remove the file, or the Secret"
    return _plan_keys(tenant, observed, ours, by_key), problem


def _plan_first(
    tenant: Tenant,
    observed: Observed,
    ours: Sequence[Credential],
    foreign: Sequence[Credential],
    file: KeyFile,
    problem: str,
) -> tuple[Change | None, str]:
    """A tenant without a key that works. A second key is never made while there may be a first one."""
    if problem:
        return None, problem
    if foreign:
        names = ", ".join(each.name for each in foreign)
        return None, f"Secret {names} is this tenant's by name but not managed here: restore its labels, or delete it"
    if file.trouble:
        return None, file.trouble
    if ours and not file.key:
        names = ", ".join(each.name for each in ours)
        return (
            None,
            f"Secret {names} holds no key any more, nor is there a key file: delete the Secret to have a new key made",
        )
    name = _free_name(tenant, file.key, observed.names) if file.key else None
    steps: list[Step] = [Create(name, file.key), *map(Delete, ours)]
    return _change(tenant, "created", steps, ours), ""


def _plan_keys(
    tenant: Tenant, observed: Observed, ours: Sequence[Credential], by_key: Mapping[str, Sequence[Credential]]
) -> Change | None:
    steps: list[Step] = []
    for key, credentials in by_key.items():
        right = [each for each in credentials if (each.tier, each.annotations.get(USER)) == (tenant.tier, tenant.name)]
        if right:
            # The newest one, which most likely holds the key.
            kept = max(right, key=lambda each: (int(each.version) if each.version.isdigit() else 0, each.name))
            others = [each for each in credentials if each is not kept]
            if others or not _in_order(kept, tenant, key):
                steps.append(Write(kept, key, touch=bool(others)))
        else:
            others = list(credentials)
            created = min((each.annotations[CREATED] for each in others if CREATED in each.annotations), default=None)
            steps.append(Create(_free_name(tenant, key, observed.names), key, created))
        steps += map(Delete, others)
    # Without a key they are of no use, and no danger.
    steps += [Delete(each) for each in ours if not each.key]
    states = {each.labels.get(STATE_LABEL) for each in ours if each.key}
    action = "updated"
    if tenant.label not in states:
        action = "suspended" if tenant.state == SUSPENDED else "resumed"
    return _change(tenant, action, steps, ours)


def _in_order(credential: Credential, tenant: Tenant, key: str) -> bool:
    wanted = annotations_of(tenant, key)
    return (
        all(credential.labels.get(name) == value for name, value in labels_of(tenant).items())
        and all(credential.annotations.get(name) == value for name, value in wanted.items())
        and CREATED in credential.annotations
    )


def _makes_key(step: Step) -> bool:
    return isinstance(step, Create) and step.key is None


def _free_name(tenant: Tenant, key: str, taken: Collection[str]) -> str:
    revision = 0
    while (name := secret_name(tenant.name, key, tenant.tier, revision)) in taken:
        revision += 1
    return name


def _change(tenant: Tenant, action: str, steps: Sequence[Step], ours: Sequence[Credential]) -> Change | None:
    if not steps:
        return None
    before = tuple(_line(each.tier, each.labels.get(STATE_LABEL, ""), each.key) for each in ours)
    after: list[str] = []
    if tenant.state != GONE:
        kept: set[str | None] = {each.key for each in ours if each.key}
        kept |= {step.key for step in steps if isinstance(step, Create)}
        after = [_line(tenant.tier, tenant.label, key, "new") for key in sorted(kept, key=lambda key: key or "")]
    return Change(tenant, action, tuple(steps), before, tuple(after))


def _line(tier: str, state: str, key: str | None, without: str = "none") -> str:
    return f"tier {tier or 'none'}, {state or 'no state'}, key {fingerprint(key) if key else without}"


# --- Doing it ------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What was done, by names."""

    changes: list[Change] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def names(self, action: str) -> list[str]:
        return sorted(change.tenant.name for change in self.changes if change.action == action)


class Keeper:
    """Reads a namespace's tenants, and carries out a plan."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        files: KeyFiles,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        self._kube = kube
        self._collection = f"/api/v1/namespaces/{namespace}/secrets"
        self._files = files
        self._now = now
        self._fresh: dict[str, str] = {}

    def observe(self) -> Observed:
        """One list of the namespace, and the key files."""
        credentials = self._kube.list(self._collection, field_selector=NOT_HELM, each=observe)
        there = self._files.tenants() if self._files.check() else set()
        return Observed.of(credentials, {name: self._file(name) for name in sorted(there)})

    def _file(self, tenant: str) -> KeyFile:
        try:
            return KeyFile(self._files.read(tenant))
        except KeyFileError as error:
            return KeyFile(trouble=str(error))

    def carry_out(self, planned: Plan, observed: Observed) -> Result:
        """Do everything; a tenant that fails does not hold up the others."""
        result = Result(problems=dict(planned.problems))
        changes = self._write_files(planned.changes, result)
        for outcome in in_parallel(lambda change: self._reconcile(change, observed), changes, self._kube.workers):
            name = outcome.item.tenant.name
            if outcome.error is not None:
                result.problems[name] = str(outcome.error)
            elif not outcome.tried:
                result.problems[name] = "not tried, because of another failure"
            elif outcome.result is not None:
                done, problem = outcome.result
                if done:
                    result.changes.append(done)
                if problem:
                    result.problems[name] = problem
        for tenant in list(self._fresh):
            # Never sent to the server.
            self._files.remove(tenant)
        return result

    def _write_files(self, changes: Sequence[Change], result: Result) -> list[Change]:
        """Make all new keys and have them on the disk before the first one is sent; the changes that can go on."""
        new = [change.tenant.name for change in changes if any(_makes_key(step) for step in change.steps)]
        if new:
            self._files.make()
            self._fresh = {name: new_key() for name in new}
            for name, error in self._files.write_all(self._fresh).items():
                del self._fresh[name]
                result.problems[name] = str(error)
        return [change for change in changes if change.tenant.name not in new or change.tenant.name in self._fresh]

    def _reconcile(self, change: Change, observed: Observed) -> tuple[Change | None, str]:
        """Carry out one change; when somebody else was faster, look again and plan anew."""
        problem = ""
        done: Change | None = change
        for left in reversed(range(REPLANS)):
            try:
                for step in change.steps:
                    self._step(change.tenant, step)
                return done, problem
            except (KeyFileError, OSError) as error:
                return None, str(error)
            except KubeError as error:
                if error.status != 409 or not left:
                    raise self._without_keys(error, change) from None
            again, problem = plan_tenant(change.tenant, self._look_again(change.tenant, observed))
            if again is None:
                return None, problem
            change = done = again
        raise AssertionError("unreachable")

    def _look_again(self, tenant: Tenant, observed: Observed) -> Observed:
        found = self._kube.list(self._collection, f"{TENANT_LABEL}={tenant.name}", each=observe)
        # One that has lost the label meanwhile must not be taken for gone: that would make a second key.
        seen = {each.name for each in found}
        known = [*observed.ours.get(tenant.name, ()), *observed.foreign.get(tenant.name, ())]
        for name in {each.name for each in known} - seen:
            live = self._kube.get(f"{self._collection}/{name}")
            if live:
                found.append(observe(live))
        fresh = Observed.of(found, {tenant.name: self._file(tenant.name)})
        names = observed.names | {each.name for each in found}
        return Observed(fresh.ours, fresh.foreign, names, observed.holders, fresh.files)

    def _step(self, tenant: Tenant, step: Step) -> None:
        if isinstance(step, Create):
            self._create(tenant, step)
        elif isinstance(step, Write):
            old = step.credential
            touched = self._time() if step.touch else None
            created = old.annotations.get(CREATED) or self._time()
            body = secret(old.name, tenant, step.key, created, old.version, touched)
            self._kube.apply(f"{self._collection}/{old.name}", body, MANAGER)
        elif isinstance(step, Delete):
            gone = step.credential
            self._kube.delete(f"{self._collection}/{gone.name}", gone.uid, gone.version)
        elif isinstance(step, RemoveFile):
            self._files.remove(tenant.name)

    def _create(self, tenant: Tenant, step: Create) -> None:
        key, name = step.key, step.name
        if key is None:
            key = self._fresh.pop(tenant.name, None)
        if key is None:
            key = new_key()
            self._files.write(tenant.name, key)
        if name is None:
            name = secret_name(tenant.name, key, tenant.tier)
        body = secret(name, tenant, key, step.created or self._time())
        try:
            # A plain creation: it is much cheaper for the server than an apply, and cannot overwrite what has appeared
            # under this name meanwhile.
            self._kube.create(self._collection, body, MANAGER)
        except KubeError as error:
            if error.reason == "AlreadyExists" and self._is_made(name, body):
                return
            # Only when the server has surely not taken the key; else the next run finds it in the file.
            if step.key is None and error.definite:
                self._files.remove(tenant.name)
            raise

    def _is_made(self, name: str, body: Mapping[str, Any]) -> bool:
        """Whether this very Secret is there: when an answer is lost, the client asks again."""
        live = self._kube.get(f"{self._collection}/{name}")
        return live is not None and live.get("data") == body["data"] and observe(live).ours

    def _time(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    @staticmethod
    def _without_keys(error: KubeError, change: Change) -> KubeError:
        text = error.message
        keys = [step.key for step in change.steps if isinstance(step, Create) and step.key]
        keys += [
            step.credential.key for step in change.steps if isinstance(step, (Write, Delete)) and step.credential.key
        ]
        for key in keys:
            text = text.replace(key, "(hidden)").replace(base64.b64encode(key.encode()).decode(), "(hidden)")
        return KubeError(error.status, error.reason, text, error.target)
