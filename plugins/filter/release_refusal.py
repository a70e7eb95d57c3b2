# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._cluster import refusal

DOCUMENTATION = r"""
name: release_refusal
short_description: Say why a release must not replace the installed one
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Compares the versions that are installed with those of a release. What is installed is never replaced by something
    older.
options:
  _input:
    description: What the module M(tokenlabs.platform.cluster_info) returned as C(installed).
    type: dict
    required: true
  release:
    description: The release, as the catalog has it.
    type: dict
    required: true
positional: release
"""

EXAMPLES = r"""
- name: Refuse to go back
  ansible.builtin.assert:
    that: found.installed | tokenlabs.platform.release_refusal(tokenlabs_catalog.release) | length == 0
"""

RETURN = r"""
_value:
  description: What would go back, line by line, with what to do. Empty when nothing would.
  type: str
"""


class FilterModule:
    def filters(self):
        return {"release_refusal": refusal}
