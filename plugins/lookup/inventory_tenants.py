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
    description: Not used.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Count the tenants
  ansible.builtin.debug:
    msg: "{{ query('tokenlabs.platform.inventory_tenants') | length }}"
"""

RETURN = r"""
_list:
  description: The tenants, as they are written.
  type: list
  elements: dict
"""


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
        return tenants


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
