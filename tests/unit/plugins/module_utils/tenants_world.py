# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster in memory whose gateway keeps keys as Authorino does, and runs of the tenants' logic on it."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import KeyFiles
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_keeper import Keeper, Result
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import Tenant
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import (
    STATE_LABEL,
    TENANT_LABEL,
    TIER,
    USER,
    Target,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_steps import Rules
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenants import Plan, plan

Body = dict[str, Any]
TIERS = ("free", "pro")
SELECTOR = {"app": "token-labs", STATE_LABEL: "active"}


class Crash(BaseException):
    """The process is killed."""


class Gateway:
    """How Authorino keeps keys: one Secret per key, read when the key becomes known, forgotten by the Secret's name."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, str, str]] = {}

    def event(self, item: Body, gone: bool = False) -> None:
        metadata = item["metadata"]
        known = {name: key for key, (name, _user, _tier) in self.keys.items()}
        key = base64.b64decode(item.get("data", {}).get("api_key", "")).decode()
        labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
        old = known.get(metadata["name"])
        if gone or not all(labels.get(name) == value for name, value in SELECTOR.items()) or not key:
            if old is not None:
                del self.keys[old]
            return
        if old == key:
            return  # known already: whatever else has changed is not looked at
        if old is not None:
            del self.keys[old]
        self.keys[key] = (metadata["name"], annotations.get(USER, ""), annotations.get(TIER, ""))


class Cluster:
    """The part of a Kubernetes API that tenants need."""

    workers = 1

    def __init__(self) -> None:
        self.secrets: dict[str, Body] = {}
        self.gateway = Gateway()
        self.versions = itertools.count(1)
        self.writes = 0
        self.lists = 0
        self.crash_at: int | None = None
        self.before_write: Callable[[str, str], None] = lambda verb, name: None
        self.after_event: Callable[[], None] = lambda: None
        self.after_create: Callable[[], None] = lambda: None

    def _write(self, verb: str, name: str) -> None:
        if self.crash_at is not None and self.writes >= self.crash_at:
            raise Crash
        self.writes += 1
        self.before_write(verb, name)

    def put(self, item: Body) -> None:
        """As somebody with kubectl."""
        metadata = item["metadata"]
        metadata.setdefault("uid", f"uid-{next(self.versions)}")
        metadata["resourceVersion"] = str(next(self.versions))
        self.secrets[metadata["name"]] = item
        self.gateway.event(item)
        self.after_event()

    def list(
        self,
        path: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        each: Callable[[Body], Any] = lambda item: item,
    ) -> list[Any]:
        assert path.endswith("/secrets")
        self.lists += 1
        wanted = dict(part.split("=") for part in label_selector.split(",")) if label_selector else {}
        return [
            each(item)
            for item in self.secrets.values()
            if all(item["metadata"].get("labels", {}).get(key) == value for key, value in wanted.items())
        ]

    def get(self, path: str) -> Body | None:
        return self.secrets.get(path.rpartition("/")[2])

    def patch(self, path: str, body: Body, manager: str) -> Body:
        name = path.rpartition("/")[2]
        self._write("patch", name)
        # A key that is there already is not sent again.
        assert set(body) == {"metadata"} and set(body["metadata"]) == {"resourceVersion", "labels", "annotations"}
        old = self.secrets.get(name)
        if old is None:
            raise KubeError(404, "NotFound", f'secrets "{name}" not found')
        if old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise KubeError(409, "Conflict", "the object has been modified")
        new = {**old, "metadata": {**old["metadata"]}}
        for part in ("labels", "annotations"):
            merged = {**old["metadata"].get(part, {}), **body["metadata"][part]}
            new["metadata"][part] = {key: value for key, value in merged.items() if value is not None}
        if new != old:  # what changes nothing is no event
            self.put(new)
        return self.secrets[name]

    def create(self, path: str, body: Body, manager: str) -> Body:
        name = body["metadata"]["name"]
        self._write("create", name)
        assert path.endswith("/secrets") and "stringData" not in body
        if name in self.secrets:
            raise KubeError(409, "AlreadyExists", f'secrets "{name}" already exists')
        self.put({**body, "metadata": dict(body["metadata"])})
        self.after_create()
        return self.secrets[name]

    def delete(self, path: str, uid: str | None = None, resource_version: str | None = None) -> Body | None:
        name = path.rpartition("/")[2]
        self._write("delete", name)
        old = self.secrets.get(name)
        if old is None:
            return None
        if uid != old["metadata"]["uid"] or resource_version != old["metadata"]["resourceVersion"]:
            raise KubeError(409, "Conflict", "the object has been modified")
        del self.secrets[name]
        self.gateway.event(old, gone=True)
        self.after_event()
        return old

    def of(self, tenant: str) -> list[Body]:
        return [item for item in self.secrets.values() if item["metadata"]["labels"].get(TENANT_LABEL) == tenant]

    def key_of(self, tenant: str) -> str:
        [item] = self.of(tenant)
        return base64.b64decode(item["data"]["api_key"]).decode()


class World:
    """A cluster, a directory of keys, and runs of the module's logic between them."""

    def __init__(self, directory: Path):
        self.cluster = Cluster()
        self.directory = directory / "keys"
        self.files = KeyFiles(self.directory)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def keeper(self) -> Keeper:
        return Keeper(self.cluster, "kuadrant-system", self.files, lambda: self.now)  # type: ignore[arg-type]

    def run(self, *tenants: Tenant, **rules: Any) -> Result:
        keeper = self.keeper()
        observed = keeper.observe(tenants)
        return keeper.carry_out(plan(tenants, observed, Rules(self.now, **rules)), observed)

    def plan(self, *tenants: Tenant, **rules: Any) -> Plan:
        return plan(tenants, self.keeper().observe(tenants), Rules(self.now, **rules))

    def on_disk(self) -> set[str]:
        return {path.read_text() for path in self.directory.glob("*.key*")}

    def hand_made(self, name: str, tenant: str, tier: str, key: str, **labels: str) -> None:
        item = Target(Tenant(tenant, tier)).secret(name, key, datetime(2025, 1, 1, tzinfo=UTC))
        item["metadata"]["labels"] = {k: v for k, v in {**item["metadata"]["labels"], **labels}.items() if v}
        self.cluster.put(item)
