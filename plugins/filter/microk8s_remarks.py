# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import remarks

DOCUMENTATION = r"""
name: microk8s_remarks
short_description: What a person should know of MicroK8s nodes
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Names certificates that end soon, nodes that have refreshed themselves, versions that differ, and aliases that are
    taken.
options:
  _input:
    description:
      - Host names with what the module M(tokenlabs.platform.microk8s_info) returned for
        O(tokenlabs.platform.microk8s_info#module:gather=[state]).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say what deserves attention
  ansible.builtin.debug:
    msg: "{{ {'spark-01': host} | tokenlabs.platform.microk8s_remarks }}"
"""

RETURN = r"""
_value:
  description: One line for each remark.
  type: list
  elements: str
"""


class FilterModule:
    def filters(self):
        return {"microk8s_remarks": remarks}
