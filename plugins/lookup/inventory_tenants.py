# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: inventory_tenants
short_description: All tenants of the inventory
version_added: 0.2.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - The tenants of the variable C(tokenlabs_tenants), and those in the files of C(tokenlabs_tenants_files), whose names
    are relative to the inventory.
  - Whether they are as they should be is found out by M(tokenlabs.platform.catalog), with file and line.
options:
  _terms:
    description: The names of the tenants to give, which must be in the inventory; without any, all.
    type: list
    elements: str
  json:
    description:
      - Whether to give one text in JSON instead of a list, as O(tokenlabs.platform.tenants#module:tenants) takes it.
        Ansible looks at every value of a list, which takes longer with thousands than all that is done with them.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Count the tenants
  ansible.builtin.debug:
    msg: "{{ query('tokenlabs.platform.inventory_tenants') | length }}"

- name: Reconcile two of them
  tokenlabs.platform.tenants:
    key_dir: /var/lib/tokenlabs/keys
    tiers: [free, pro]
    tenants: "{{ lookup('tokenlabs.platform.inventory_tenants', 'acme', 'initech', json=true) }}"
"""

RETURN = r"""
_list:
  description: The tenants, as they are written, or one text with all of them.
  type: list
  elements: raw
"""


import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.tokenlabs.platform.plugins.plugin_utils._tenant_files import read_tenants


class LookupModule(LookupBase):
    """Reads the files anew whenever it is asked."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        given = variables or {}
        tenants = _plain(given.get("tokenlabs_tenants"))
        if not isinstance(tenants, list):
            tenants = list(self._templar.template(given.get("tokenlabs_tenants")) or [])
        directory = Path(given.get("inventory_dir") or self._loader.get_basedir())
        for name in self._templar.template(given.get("tokenlabs_tenants_files")) or []:
            found, problems = read_tenants(directory / name, name, self._loader.get_text_file_contents)
            if problems:
                raise AnsibleLookupError("\n".join(map(str, problems)))
            tenants += found.entries
        if terms:
            known = {tenant.get("name") for tenant in tenants if isinstance(tenant, Mapping)}
            unknown = [name for name in terms if name not in known]
            if unknown:
                raise AnsibleLookupError(f"The inventory has no such tenants: {', '.join(unknown)}")
            tenants = [tenant for tenant in tenants if isinstance(tenant, Mapping) and tenant.get("name") in terms]
        # A date in a YAML file is one here; it becomes the text that it was.
        return [json.dumps(tenants, default=str)] if self.get_option("json") else tenants


def _plain(value: Any) -> Any:
    """A copy without Ansible's tags, which cost more than all else with thousands; None where there are templates."""
    if isinstance(value, str):
        return None if "{{" in value or "{%" in value or "{#" in value else str(value)
    if isinstance(value, Mapping):
        found = {str(name): _plain(each) for name, each in value.items() if each is not None}
        return None if None in found.values() else found
    if isinstance(value, list):
        items = [_plain(each) for each in value]
        return None if None in items else items
    return value
