# SPDX-License-Identifier: GPL-3.0-or-later
"""A namespace, a key directory, and the module tenants run on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_steps import ACTIONS
from ansible_collections.tokenlabs.platform.plugins.modules import tenants

from tests.integration.apiserver import ApiServer
from tests.integration.conftest import ModuleResult, RunModule

Body = dict[str, Any]
KEY = re.compile(r"tlabs_sk_[A-Za-z0-9_-]{43}")


class Site:
    """One namespace and one key directory, and the module run on them."""

    def __init__(self, api: ApiServer, run: RunModule, namespace: str, directory: Path):
        self.api = api
        self.run_module = run
        self.namespace = namespace
        self.keys = directory / "keys"
        self.path = f"/api/v1/namespaces/{namespace}/secrets"

    def arguments(self, wanted: list[Body], **more: Any) -> Body:
        return {
            "tenants": wanted,
            "tiers": ["free", "pro"],
            "namespace": self.namespace,
            "key_dir": str(self.keys),
            **more,
        }

    def run(self, *wanted: Body, check: bool = False, diff: bool = False, **more: Any) -> ModuleResult:
        result = self.run_module(tenants, check=check, diff=diff, **self.arguments(list(wanted), **more))
        # Whatever happens, no key is ever printed, in any form.
        assert not KEY.search(result.output)
        for item in self.secrets():
            assert item["data"].get("api_key", "-") not in result.output
        return result

    def secrets(self) -> list[Body]:
        return self.api.raw("GET", self.path)["items"]

    def key(self, tenant: str) -> str:
        return (self.keys / f"{tenant}.key").read_text()

    def only(self) -> Body:
        [item] = self.secrets()
        return item


def tenant(name: str = "acme", tier: str = "free", state: str = "present") -> Body:
    return {"name": name, "tier": tier, "state": state} if state != "absent" else {"name": name, "state": state}


def done(result: Body) -> dict[str, list[str]]:
    return {action: result[action] for action in ACTIONS if result[action]}
