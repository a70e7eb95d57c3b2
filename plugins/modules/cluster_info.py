#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_info
short_description: Tell what a cluster has
description:
  - Reads which versions of the platform's parts are installed, from helm's records and from the definitions, and what
    the platform needs of a cluster that somebody else runs.
version_added: 0.1.0
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
      - The namespace of the gateway and the models.
    type: str
    default: token-labs
seealso:
  - module: tokenlabs.platform.helm_release
"""

EXAMPLES = r"""
- name: Look at what is installed
  tokenlabs.platform.cluster_info:
  register: result
"""

RETURN = r"""
installed:
  description: By component, its version and what tells it.
  returned: success
  type: dict
  sample: {envoy_gateway: {version: v1.7.5, source: helm release eg in envoy-gateway-system}}
kubernetes:
  description: The version of the API server.
  returned: success
  type: str
  sample: v1.34.4
nodes:
  description: By name, the number of allocatable GPUs, whether it is Ready, its host name, and whether a cloud runs it.
  returned: success
  type: dict
  sample: {spark-01: {gpus: 1, ready: true, hostname: spark-01, cloud: false}}
storage_classes:
  description: By name, whether it is the default.
  returned: success
  type: dict
  sample: {microk8s-hostpath: true}
load_balancer:
  description: Who gives addresses to Services of type LoadBalancer. Empty when nobody seems to.
  returned: success
  type: str
  sample: MetalLB
"""

from ansible_collections.tokenlabs.platform.plugins.module_utils._cluster import installed, look
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module


def main() -> None:
    module = kube_module(
        argument_spec={"namespace": {"type": "str", "default": "token-labs"}}, supports_check_mode=True
    )
    try:
        kube = connect(module)
        module.exit_json(changed=False, installed=installed(kube, module.params["namespace"]), **look(kube))
    except KubeError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
