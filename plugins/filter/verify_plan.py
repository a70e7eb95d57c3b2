# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils import _verify

DOCUMENTATION = r"""
name: verify_plan
short_description: The requests that prove that the gateway does what it should
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Derives from the catalog the requests for M(tokenlabs.platform.gateway_probe), and what is expected of them.
  - When O(run) is given, the requests come from tenants made for this run; limits are used up then, and one tenant is
    suspended. Without it, they come from tenants of the inventory, and nothing uses up a limit.
options:
  _input:
    description: The catalog, as the module M(tokenlabs.platform.catalog) derives it.
    type: dict
    required: true
  tenants:
    description: The tenants of the inventory.
    type: list
    elements: dict
    required: true
  key_files:
    description: The paths of key files that are on the controller.
    type: list
    elements: str
    required: true
  run:
    description: A name for this run, from which the names of its tenants are made. Empty to make none.
    type: str
    default: ""
  directory:
    description: Where the key files of this run's tenants are.
    type: str
    default: ""
  largest_burst:
    description: The most requests to send for one limit. A higher limit is not tried.
    type: int
    default: 60
  most_tenants:
    description: How many tenants of the inventory to try the key of.
    type: int
    default: 20
positional: tenants, key_files, run, directory
"""

EXAMPLES = r"""
- name: Send the requests
  tokenlabs.platform.gateway_probe:
    base_url: http://192.168.1.200
    cases: "{{ (tokenlabs_catalog | tokenlabs.platform.verify_plan(tokenlabs_tenants, key_files)).cases }}"
"""

RETURN = r"""
_value:
  description:
    - The C(tenants) to make, those to C(suspend) in between, the C(cases) to send before and C(later) after that, the
      C(groups) of the cases by name, and rows for what is C(skipped).
  type: dict
"""


class FilterModule:
    def filters(self):
        return {"verify_plan": _verify.plan}
