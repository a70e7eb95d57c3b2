# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils import _verify

DOCUMENTATION = r"""
name: verify_checks
short_description: What must be ready for the platform to work
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Lists the objects of the cluster that must be ready, each with a name for people and what to look at when it is not.
options:
  _input:
    description: The catalog, as the module M(tokenlabs.platform.catalog) derives it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Look at everything at once
  tokenlabs.platform.wait_ready:
    objects: "{{ tokenlabs_catalog | tokenlabs.platform.verify_checks | map(attribute='object') }}"
"""

RETURN = r"""
_value:
  description: Checks, each with C(group), C(name), C(hint) and the C(object) for M(tokenlabs.platform.wait_ready).
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self):
        return {"verify_checks": _verify.checks}
