# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils import _status

DOCUMENTATION = r"""
name: status_page
short_description: One page about the platform
version_added: 0.2.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Renders what was found on the hosts and in the cluster as one page that ends with what is wrong and what to do next.
  - What could not be found out is a finding, too.
options:
  _input:
    description:
      - C(catalog) as derived; C(hosts) with the results of M(tokenlabs.platform.microk8s_info) by name; C(checks) and
        the C(objects) that M(tokenlabs.platform.wait_ready) returned for them; C(platform) from
        M(tokenlabs.platform.platform_info); C(drift) from M(tokenlabs.platform.tenants) in check mode.
    type: dict
    required: true
  form:
    description: A text for the terminal, or one HTML file that needs no other.
    type: str
    choices: [text, html]
    default: text
positional: form
"""

EXAMPLES = r"""
- name: Show the page
  ansible.builtin.debug:
    msg: "{{ found | tokenlabs.platform.status_page }}"
"""

RETURN = r"""
_value:
  description: The page.
  type: str
"""


class FilterModule:
    def filters(self):
        return {"status_page": _status.render}
