# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._node import node_taints

DOCUMENTATION = r"""
name: node_taints
short_description: The platform's taints that have to go from Nodes, or come
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Compares the taints that Nodes shall have with those that they have.
  - Taints of others, such as those of the node lifecycle controller, are left alone, as are Nodes that are not there.
options:
  _input:
    description:
      - Node names with the C(taints) that they shall have.
    type: dict
    required: true
  live:
    description: The Nodes as RV(tokenlabs.platform.microk8s_info#module:cluster.nodes) has them.
    type: dict
    required: true
positional: live
"""

EXAMPLES = r"""
- name: Take back the taints that are no longer wanted
  kubernetes.core.k8s_taint:
    name: "{{ item.name }}"
    taints: "{{ item.taints }}"
    state: absent
  loop: "{{ (tokenlabs_catalog.nodes | tokenlabs.platform.node_taints(cluster.cluster.nodes)).absent }}"
"""

RETURN = r"""
_value:
  description:
    - Under C(absent) and C(present) one item for each Node that differs, with its C(name) and the C(taints).
  type: dict
"""


class FilterModule:
    def filters(self):
        return {"node_taints": node_taints}
