#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_info
short_description: Look at the platform in a cluster
description:
  - Reads nodes, Helm releases, certificates, the models' workers, the Gateway's address and the tenants, in a few
    requests, and returns what a person would ask for. It changes nothing.
  - Of Helm's records only names, versions and states are returned, of certificates when they end, of tenants
    numbers and the names of those whose keys are due.
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
      - The namespace of the Gateway and the models.
    type: str
    required: true
  gateway:
    description:
      - The name of the Gateway.
    type: str
    required: true
  soon:
    description:
      - Keys of tenants that end within this time are pointed out, such as V(30d) or V(12h).
    type: str
    default: 14d
seealso:
  - module: tokenlabs.platform.wait_ready
  - module: tokenlabs.platform.tenants_info
"""

EXAMPLES = r"""
- name: Look at the platform
  tokenlabs.platform.platform_info:
    kubeconfig: /var/snap/microk8s/current/credentials/client.config
    namespace: token-labs
    gateway: token-labs-gateway
  register: platform
"""

RETURN = r"""
nodes:
  description:
    - The Nodes, each with C(name), C(ready), C(reason), C(kubelet), C(gpus), C(gpus_used) and what else is said of it.
  type: list
  elements: dict
  returned: success
releases:
  description: The Helm releases, each with C(name), C(namespace), C(chart), C(version) and C(status).
  type: list
  elements: dict
  returned: success
certificates:
  description: The certificates in TLS Secrets, each with C(name) and C(ends).
  type: list
  elements: dict
  returned: success
workers:
  description: The Deployments of the namespace, each with C(name), C(wanted) and C(available).
  type: list
  elements: dict
  returned: success
addresses:
  description: The addresses of the Gateway.
  type: list
  elements: str
  returned: success
tenants:
  description:
    - Numbers of tenants by C(tiers) and of keys by state, and the tenants whose keys are C(overdue) or end C(soon).
  type: dict
  returned: success
unread:
  description: What could not be read, and why.
  type: dict
  returned: success
"""

from datetime import UTC, datetime

from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module
from ansible_collections.tokenlabs.platform.plugins.module_utils._platform import look
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import span


def main() -> None:
    module = kube_module(
        argument_spec={
            "namespace": {"type": "str", "required": True},
            "gateway": {"type": "str", "required": True},
            "soon": {"type": "str", "default": "14d"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        found = look(connect(module), params["namespace"], params["gateway"], datetime.now(UTC), span(params["soon"]))
    except (ValueError, KubeError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
