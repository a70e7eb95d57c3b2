# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Validates the inventory and derives the catalog; documented in plugins/modules/catalog.py."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible_collections.tokenlabs.platform.plugins.module_utils._catalog import derive, summarize
from ansible_collections.tokenlabs.platform.plugins.module_utils._gateway import certificate_files
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Problem, file_order
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory_rules import validate
from ansible_collections.tokenlabs.platform.plugins.module_utils._model_rules import remarks
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import path_text
from ansible_collections.tokenlabs.platform.plugins.plugin_utils._certificates import problem_of
from ansible_collections.tokenlabs.platform.plugins.plugin_utils._reader import Reader


class ActionModule(ActionBase):
    """Runs on the control node; no host is contacted."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset()

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        groups = variables.get("groups", {})
        hostvars = variables["hostvars"]
        raw = {name: hostvars.raw_get(name) for group in ("controllers", "sparks") for name in groups.get(group, ())}
        templars: dict[str, Templar] = {}

        def render(host: str, value: Any) -> Any:
            if host not in templars:
                templars[host] = Templar(loader=self._loader, variables=raw[host])
            return templars[host].template(value)

        reader = Reader(
            raw,
            groups,
            render,
            variables.get("inventory_dir"),
            variables.get("ansible_inventory_sources") or (),
            self._loader.get_text_file_contents,
        )
        inventory = reader.read()
        problems = sorted({*reader.problems, *validate(inventory, reader.locate)}, key=file_order)
        files = certificate_files(inventory.shared, inventory.directory)
        if files and (found := self._certificate(files)):
            path = ("tokenlabs_gateway", "tls", found[0])
            problem = Problem(reader.locate(None, path), path_text(path), *found[1:])
            problems = sorted({*problems, problem}, key=file_order)
        if problems:
            return {"failed": True, "changed": False, "msg": _message([str(problem) for problem in problems])}
        catalog = derive(inventory)
        in_files = [tenant for file in inventory.tenant_files for tenant in file.entries]
        tenants = [*(inventory.shared.get("tokenlabs_tenants") or []), *in_files]
        summary = summarize(catalog, tenants, remarks(inventory, reader.locate))
        return {"changed": False, "catalog": catalog, "summary": summary}

    def _certificate(self, tls: dict[str, Any]) -> tuple[str, str, str] | None:
        """What is wrong with the gateway's certificate and key; a vault-encrypted file is read like any other."""
        files = {}
        for what in ("certificate", "key"):
            try:
                files[what] = self._loader.get_real_file(tls[what])
            except AnsibleError:
                return what, f"names {tls[what]}, which cannot be read", "create it beside the inventory"
        return problem_of(**files)


def _message(problems: list[str]) -> str:
    count = "one mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    return "\n".join([f"The inventory has {count}; nothing was changed.", *problems])
