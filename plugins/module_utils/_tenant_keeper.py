# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a namespace's tenants and their key files, and carries out a plan.

This module util is private to the collection: it may change in any way at any time.

One list of what is there, and then as many requests as there are changes. The order of things makes every interruption
harmless: a key is in its file before it is in the cluster, a file is shelved before its key is taken from the cluster.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import (
    PREFIX,
    KeyFileError,
    KeyFiles,
    Stored,
    new_key,
    read_key,
    stem,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import (
    MANAGER,
    Kube,
    KubeError,
    Outcome,
    in_parallel,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_change import TenantPlan
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import Tenant
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import (
    TENANT_LABEL,
    Credential,
    observe,
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
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenants import Plan

# Everything in the namespace, so that foreign objects are seen too; but not Helm's, which are many and large.
NOT_HELM = "type!=helm.sh/release.v1"
REPLANS = 3
# So many changes' keys are waited for at a time.
BATCH = 1000
# A key that was just made, plain or encoded: the prefix is three times three bytes long, so it has one encoding.
_MADE_HERE = re.compile(f"({PREFIX}|{base64.b64encode(PREFIX.encode()).decode()})[A-Za-z0-9+/=_-]+")


@dataclass
class Result:
    """What was done, by names."""

    changes: list[Change] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Outcome[Change, tuple[Change | None, str]]) -> None:
        name = outcome.item.tenant.name
        if outcome.error is not None:
            self.problems[name] = str(outcome.error)
        elif not outcome.tried:
            self.problems[name] = "not tried, because of another failure"
        elif outcome.result is not None:
            done, problem = outcome.result
            if done:
                self.changes.append(done)
            if problem:
                self.problems[name] = problem

    def names(self, action: str) -> list[str]:
        return sorted(change.tenant.name for change in self.changes if action in change.actions)


def secrets_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"


def list_credentials(kube: Kube, namespace: str) -> list[Credential]:
    """Everything in the namespace that could be a tenant's key."""
    return kube.list(secrets_path(namespace), field_selector=NOT_HELM, each=observe)


class Keeper:
    """Reads and changes the tenants of one namespace."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        files: KeyFiles,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        self._kube = kube
        self._namespace = namespace
        self._collection = secrets_path(namespace)
        self._files = files
        self._now = now
        self._fresh: dict[str, tuple[str, str]] = {}
        self._imports: dict[str, Stored] = {}
        self._importers: dict[str, str] = {}

    def observe(self, tenants: Sequence[Tenant] = ()) -> Observed:
        """One list of the namespace, the key files, and the keys that these tenants import."""
        credentials = list_credentials(self._kube, self._namespace)
        stored = self._files.read_all() if self._files.check() else {}
        self._importers = {key.key_file: tenant.name for tenant in tenants for key in tenant.keys or () if key.key_file}
        self._imports = {path: _import(path) for path in self._importers}
        return Observed.of(credentials, stored, self._imports, self._importers)

    def carry_out(self, planned: Plan, observed: Observed) -> Result:
        """Do everything; a tenant that fails does not hold up the others."""
        result = Result(problems=dict(planned.problems))
        stop = Event()

        def work(change: Change) -> tuple[Change | None, str]:
            return self._reconcile(change, observed, planned.rules)

        with ThreadPoolExecutor(max_workers=1) as writer:
            # While the first keys are sent, the next ones get to the disk.
            batches = [
                writer.submit(self._store_keys, planned.changes[begin : begin + BATCH], stop)
                for begin in range(0, len(planned.changes), BATCH)
            ]
            for batch in batches:
                changes, failed = batch.result()
                result.problems.update(failed)
                for outcome in in_parallel(work, changes, self._kube.workers, stop=stop):
                    result.add(outcome)
        for name, (slot, _key) in self._fresh.items():
            # Never sent to the server.
            self._files.remove(name, slot)
        if planned.changes and self._files.check():
            # A file that was taken away must not come back with the power.
            self._files.sync()
        return result

    def _store_keys(self, changes: Sequence[Change], stop: Event) -> tuple[list[Change], dict[str, str]]:
        """Make new keys and have them on the disk before they are sent; the changes that can go on, and problems."""
        stores = [(change, step) for change in changes for step in change.steps if isinstance(step, Store)]
        if not stores or stop.is_set():
            return list(changes), {}
        keys = {(step.stem, step.slot): step.key or new_key() for _change, step in stores}
        fresh = {step.stem: (step.slot, keys[step.stem, step.slot]) for _change, step in stores if step.key is None}
        errors: dict[str, KeyFileError | OSError]
        try:
            self._files.make()
            errors = self._files.write_all(keys, fresh)
        except (KeyFileError, OSError) as error:
            errors = dict.fromkeys((step.stem for _change, step in stores), error)
        self._fresh |= {name: made for name, made in fresh.items() if name not in errors}
        failed = {change.tenant.name: str(errors[step.stem]) for change, step in stores if step.stem in errors}
        return [change for change in changes if change.tenant.name not in failed], failed

    def _reconcile(self, change: Change, observed: Observed, rules: Rules) -> tuple[Change | None, str]:
        """Carry out one change; when somebody else was faster, look again and plan anew."""
        problem = ""
        stored = True
        for left in reversed(range(REPLANS)):
            try:
                for step in change.steps:
                    if not (stored and isinstance(step, Store)):
                        self._step(step)
                return change, problem
            except (KeyFileError, OSError) as error:
                return None, str(error)
            except KubeError as error:
                if error.status != 409 or not left:
                    raise _without_keys(error, change) from None
            again, problem = TenantPlan(change.tenant, self._look_again(change.tenant, observed), rules).result()
            if again is None:
                return None, problem
            change, stored = again, False
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
        fresh = Observed.of(found, self._files.read_all(tenant.name), self._imports, self._importers)
        names = {*observed.names, *seen}
        return Observed(
            fresh.ours,
            fresh.foreign,
            names,
            observed.holders,
            fresh.files,
            self._imports,
            fresh.tenants_with_files,
        )

    def _step(self, step: Step) -> None:
        if isinstance(step, Create):
            self._create(step)
        elif isinstance(step, Write):
            old = step.credential
            body = step.target.patch(old, step.key, self._now(), step.touch)
            try:
                self._kube.patch(f"{self._collection}/{old.name}", body, MANAGER)
            except KubeError as error:
                if error.status == 404:
                    raise KubeError(409, "Conflict", "the Secret has been deleted meanwhile", old.name) from None
                raise
        elif isinstance(step, Delete):
            gone = step.credential
            self._kube.delete(f"{self._collection}/{gone.name}", gone.uid, gone.version)
        elif isinstance(step, Store):
            key = step.key or new_key()
            self._files.write(step.stem, key, step.slot, mark=step.key is None)
            if step.key is None:
                self._fresh[step.stem] = (step.slot, key)
        elif isinstance(step, Promote):
            self._files.promote(step.stem, mark=not step.known)
        elif isinstance(step, Shelve):
            self._files.shelve(step.stem)
        elif isinstance(step, Forget):
            self._files.forget(step.stem, step.old)

    def _create(self, step: Create) -> None:
        name = stem(step.target.tenant.name, step.target.key_name)
        key, fresh = step.key, None
        if name in self._fresh and key in (None, self._fresh[name][1]):
            fresh = self._fresh.pop(name)
            key = fresh[1]
        if key is None:
            raise AssertionError("a key is made and written to its file before the API is asked")
        body = step.target.secret(step.name, key, self._now())
        try:
            # A plain creation: it is much cheaper for the server than an apply, and cannot overwrite what has appeared
            # under this name meanwhile.
            self._kube.create(self._collection, body, MANAGER)
        except KubeError as error:
            if error.reason == "AlreadyExists" and self._is_made(step.name, body):
                return
            # Only when the server has surely not taken the key; else the next run finds it in the file.
            if fresh and error.definite:
                self._files.remove(name, fresh[0])
            raise

    def _is_made(self, name: str, body: Mapping[str, Any]) -> bool:
        """Whether this very Secret is there: when an answer is lost, the client asks again."""
        live = self._kube.get(f"{self._collection}/{name}")
        return live is not None and live.get("data") == body["data"] and observe(live).ours


def _import(path: str) -> Stored:
    try:
        return Stored(read_key(path))
    except KeyFileError as error:
        return Stored(trouble=str(error))


def _without_keys(error: KubeError, change: Change) -> KubeError:
    """The server's words, should they quote what was sent."""
    text = error.message
    keys = [step.key for step in change.steps if isinstance(step, (Create, Write, Store)) and step.key]
    keys += [step.credential.key for step in change.steps if isinstance(step, Delete) and step.credential.key]
    for key in keys:
        text = text.replace(key, "(hidden)").replace(base64.b64encode(key.encode()).decode(), "(hidden)")
    text = _MADE_HERE.sub("(hidden)", text)
    return KubeError(error.status, error.reason, text, error.target)
