# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils import _verify

DOCUMENTATION = r"""
name: verify_rows
short_description: The rows of a verification from its findings
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Puts together what the tasks of the role P(tokenlabs.platform.verify#role) have found. A task that could not do its
    work makes its checks fail.
options:
  _input:
    description:
      - C(catalog), C(checks) and C(plan) as derived; C(objects) from M(tokenlabs.platform.wait_ready), C(filters) (the
        EnvoyExtensionPolicies), C(drift) and C(made) from M(tokenlabs.platform.tenants), C(answer) and C(cases) from
        M(tokenlabs.platform.gateway_probe).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Put the findings together
  ansible.builtin.set_fact:
    rows: "{{ findings | tokenlabs.platform.verify_rows }}"
"""

RETURN = r"""
_value:
  description: Rows, each with C(group), C(name), C(status) (ok, FAILED or skipped), C(expected), C(got) and C(hint).
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self):
        return {"verify_rows": _verify.report}
