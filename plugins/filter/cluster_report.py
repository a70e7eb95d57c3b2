# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._cluster import report

DOCUMENTATION = r"""
name: cluster_report
short_description: Judge what preflight has found in a cluster
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Says what a cluster lacks that somebody else runs.
options:
  _input:
    description: What the module M(tokenlabs.platform.cluster_info) returned.
    type: dict
    required: true
  catalog:
    description: The catalog.
    type: dict
    required: true
positional: catalog
"""

EXAMPLES = r"""
- name: Report on the cluster
  ansible.builtin.debug:
    msg: "{{ (found | tokenlabs.platform.cluster_report(tokenlabs_catalog)).text }}"
"""

RETURN = r"""
_value:
  description:
    - C(text) with a table of what is missing and what to do, C(verdict) with a sentence, and C(fatal) with the number
      of lines that stop the run.
  type: dict
"""


class FilterModule:
    def filters(self):
        return {"cluster_report": report}
