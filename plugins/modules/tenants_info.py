#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tenants_info
short_description: Report on the tenants in the cluster
description:
  - Lists who the tenants are, their tiers, the states and ages of their keys, and what is due soon.
  - Keys are named by eight digits of their SHA-256.
version_added: 0.2.0
author:
  - TokenLabs platform developers (@tokenlabs)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - tokenlabs.platform.attributes
  - tokenlabs.platform.attributes.kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  namespace:
    description:
      - The namespace in which Authorino looks for keys.
    type: str
    default: kuadrant-system
  soon:
    description:
      - What ends within this time is pointed out, such as V(30d) or V(12h).
    type: str
    default: 30d
"""

EXAMPLES = r"""
- name: Look at the tenants
  tokenlabs.platform.tenants_info:
    kubeconfig: /var/snap/microk8s/current/credentials/client.config
  register: result
"""

RETURN = r"""
tenants:
  description: The tenants that are managed by M(tokenlabs.platform.tenants), by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The tenant.
      type: str
    tier:
      description: Its tier.
      type: str
    contact:
      description: Whom to ask.
      type: str
    keys:
      description: Its keys. Those that were replaced are among them until their grace is over.
      type: list
      elements: dict
      contains:
        name:
          description: What the key is called.
          type: str
        fingerprint:
          description: By what it can be told from others.
          type: str
          sample: sha256:1a2b3c4d
        state:
          description: Either V(active), V(suspended), V(expired), or V(replaced) during its grace.
          type: str
        generation:
          description: How often it was rotated, from 1 on.
          type: int
        created:
          description: When it was made.
          type: str
        age_days:
          description: How old it is.
          type: int
        due:
          description: When it ends to be let in.
          type: str
        overdue:
          description: Whether that time has come, and only a run of M(tokenlabs.platform.tenants) is missing.
          type: bool
report:
  description: The same as a table, line by line.
  type: list
  elements: str
  returned: success
"""

from datetime import UTC, datetime

from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_keeper import list_credentials
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import span
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_report import as_tenants, keys_of, table


def main() -> None:
    module = kube_module(
        argument_spec={
            "namespace": {"type": "str", "default": "kuadrant-system"},
            "soon": {"type": "str", "default": "30d"},
        },
        supports_check_mode=True,
    )
    now = datetime.now(UTC)
    try:
        soon = span(module.params["soon"])
        keys = keys_of(list_credentials(connect(module), module.params["namespace"]))
    except (ValueError, KubeError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, tenants=as_tenants(keys, now), report=table(keys, now, soon))


if __name__ == "__main__":
    main()
