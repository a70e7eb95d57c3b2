#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: wait_ready
short_description: Wait until many Kubernetes objects are ready
description:
  - Waits for any number of objects in one task, for all at once.
  - Knows what "ready" means for the usual kinds. For others, or for something else, name conditions or fields.
  - When the time is up, the failure names every object that is not ready, what is missing, why its pods do not run,
    and the last events about it.
  - An API server that does not answer for a moment is waited for too.
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
    details:
      - Looks once and does not wait, because what an earlier task would have made is not there. What is not ready is
        returned in RV(pending) and is no failure.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  objects:
    description:
      - The objects to wait for.
    type: list
    elements: dict
    required: true
    suboptions:
      api_version:
        description:
          - The API version.
        type: str
        default: v1
      kind:
        description:
          - The kind. Without O(objects[].conditions) and O(objects[].fields), workloads must be rolled out with all
            their replicas available, a C(Job) complete, a claim bound, a C(Service) of type C(LoadBalancer) must have
            its address, a gateway be programmed, routes and policies accepted (by all their parents) and enforced, a
            custom resource definition established. Of any other kind, the object must exist.
        type: str
        required: true
      name:
        description:
          - The name.
        type: str
        required: true
      namespace:
        description:
          - The namespace, for namespaced kinds.
        type: str
      conditions:
        description:
          - Types of conditions that must be true, or C(TYPE=STATUS). They are looked for in the status, or, where
            there is one status per parent or ancestor, in each of these.
          - A condition about an earlier generation of the object does not count.
        type: list
        elements: str
        default: []
      fields:
        description:
          - Fields that must have a value.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description:
              - Where the field is, as in V(status.state), V(status.addresses[0].value) or
                V(status.allocatable["nvidia.com/gpu"]).
            type: str
            required: true
          value:
            description:
              - The value, which is compared as text too. Without it, the field must be set and not empty.
            type: raw
  timeout:
    description:
      - Seconds until the task gives up.
    type: int
    default: 300
seealso:
  - module: tokenlabs.platform.apply
"""

EXAMPLES = r"""
- name: Wait for the gateway and everything that it is made of
  tokenlabs.platform.wait_ready:
    objects:
      - api_version: apps/v1
        kind: Deployment
        name: envoy-gateway
        namespace: envoy-gateway-system
      - api_version: gateway.networking.k8s.io/v1
        kind: Gateway
        name: token-labs-gateway
        namespace: token-labs
    timeout: 600

- name: Wait until the GPU operator has finished and a GPU can be used
  tokenlabs.platform.wait_ready:
    objects:
      - api_version: nvidia.com/v1
        kind: ClusterPolicy
        name: cluster-policy
        fields:
          - path: status.state
            value: ready
      - kind: Node
        name: spark-01
        conditions: [Ready]
        fields:
          - path: status.allocatable["nvidia.com/gpu"]
            value: 1
"""

RETURN = r"""
ready:
  description: The objects that are ready, as kind, namespace and name.
  type: list
  elements: str
  returned: always
  sample: ["Gateway/token-labs/token-labs-gateway"]
pending:
  description: The objects that are not ready, each with what is missing.
  type: dict
  returned: always
  sample: {"Deployment/redis-system/redis": "0 of 1 replicas are available"}
waited_seconds:
  description: How long the task has waited.
  type: float
  returned: always
  sample: 12.1
"""

from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module
from ansible_collections.tokenlabs.platform.plugins.module_utils._wait import Target, Waiter

ARGUMENTS: dict[str, Any] = {
    "objects": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "api_version": {"type": "str", "default": "v1"},
            "kind": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "namespace": {"type": "str"},
            "conditions": {"type": "list", "elements": "str", "default": []},
            "fields": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": {"type": "str", "required": True}, "value": {"type": "raw"}},
            },
        },
    },
    "timeout": {"type": "int", "default": 300},
}


def target(entry: dict[str, Any]) -> Target:
    return Target(
        entry["api_version"],
        entry["kind"],
        entry["name"],
        entry["namespace"],
        tuple(entry["conditions"]),
        tuple((each["path"], each["value"]) for each in entry["fields"]),
    )


def main() -> None:
    module = kube_module(argument_spec=ARGUMENTS, supports_check_mode=True)
    timeout = 0 if module.check_mode else module.params["timeout"]
    try:
        verdict = Waiter(connect(module)).wait(list(map(target, module.params["objects"])), timeout)
    except (KubeError, ValueError) as error:
        module.fail_json(msg=str(error), ready=[], pending={}, waited_seconds=0.0)
    result = {"ready": verdict.ready, "pending": verdict.pending, "waited_seconds": round(verdict.waited, 1)}
    if verdict.pending and not module.check_mode:
        module.fail_json(msg=verdict.message(verdict.waited), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
