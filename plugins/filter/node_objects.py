# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._node import node_objects

DOCUMENTATION = r"""
name: node_objects
short_description: Node manifests with the platform's labels
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Makes the manifests that server-side apply needs to set the platform's labels on the Nodes that exist.
  - An annotation names the taints that are the platform's; P(tokenlabs.platform.node_taints#filter) tells
    which come and go.
options:
  _input:
    description:
      - Node names with the C(labels) and C(taints) that they shall have.
      - Nodes with C(gpu=true) are labelled C(tokenlabs.io/spark=true) as well, and those with several
        C(gpu_slots) with the configuration that the role P(tokenlabs.platform.gpu_operator#role) makes for them.
    type: dict
    required: true
  live:
    description: The Nodes as RV(tokenlabs.platform.microk8s_info#module:cluster.nodes) has them.
    type: dict
    required: true
positional: live
"""

EXAMPLES = r"""
- name: Label the nodes
  tokenlabs.platform.apply:
    definitions: "{{ tokenlabs_catalog.nodes | tokenlabs.platform.node_objects(cluster.cluster.nodes) }}"
"""

RETURN = r"""
_value:
  description: Manifests of Nodes.
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self):
        return {"node_objects": node_objects}
