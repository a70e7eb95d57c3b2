#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apply
short_description: Bring many Kubernetes objects to their wanted state, writing only what differs
description:
  - Applies any number of objects in one task, with server-side apply and eight requests at a time.
  - Reads every object first and sends no write request at all, not even a dry run, for an object that is as wanted.
    C(kubernetes.core.k8s) sends a write for every object in every run.
  - Notices a field that somebody else has changed or removed, and a field that was applied earlier and is no longer
    wanted, by the API server's own record of field owners (C(managedFields)) and by a digest of the applied
    definition, which it keeps in the annotation C(tokenlabs.io/applied). Fields that others have added are left
    alone.
  - Namespaces are applied first, then custom resource definitions, which are waited for until they can be used, then
    all other objects, and last the objects that can refuse others (webhook configurations, API services). Objects are
    removed in the reverse order.
  - One failing object does not stop the others of its group; all failures are reported together.
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
      - What differs is rehearsed by the API server with a dry run. What cannot be rehearsed, because its namespace or
        its custom resource definition is still to be made, is reported as what it would be.
  diff_mode:
    support: full
    details:
      - The values of Secrets are shown as marks that only tell them apart within one run.
  idempotent:
    support: full
options:
  definitions:
    description:
      - The objects. A C(List) stands for its items. A field that is null is not sent.
      - At least one of O(definitions) and O(src) is needed.
      - When a definition holds a secret, set C(no_log) on the task.
    type: list
    elements: dict
    default: []
  src:
    description:
      - Manifests on the host that the task runs on. Each is a file, a directory of C(.yaml), C(.yml) and C(.json)
        files, or a C(http) or C(https) URL.
    type: list
    elements: str
    default: []
  checksum:
    description:
      - The SHA-256 that the manifest must have, as V(sha256:) and 64 hexadecimal digits. Needs O(src) with exactly
        one file or URL.
    type: str
  state:
    description:
      - V(present) makes the objects as defined. V(absent) removes them and waits until they are gone.
    type: str
    choices: [present, absent]
    default: present
  namespace:
    description:
      - The namespace of namespaced objects that name none. Without it such an object is an error.
    type: str
  field_manager:
    description:
      - The name under which the fields are owned.
    type: str
    default: tokenlabs
  force:
    description:
      - Take over fields that another manager owns. With V(false) such a conflict is a failure that names the other
        manager.
    type: bool
    default: true
  if_absent:
    description:
      - Create objects that are not there, and never touch those that are.
    type: bool
    default: false
  generated_data:
    description:
      - Keys of Secrets to fill with random characters that are safe in URLs. The value is the number of characters.
      - The values are made inside the module and go nowhere but into the Secret. Needs O(if_absent=true) and
        definitions of Secrets only.
    type: dict
    default: {}
  release_finalizers:
    description:
      - Finalizers that are taken from a removed object when it is still there after O(timeout), with a warning.
      - Name only those whose controller is to go as well. What it would have cleaned up stays.
      - Needs O(state=absent).
    type: list
    elements: str
    default: []
  timeout:
    description:
      - Seconds to wait for custom resource definitions to be usable, or for removed objects to be gone.
    type: int
    default: 120
notes:
  - C(metadata.generateName) and C(status) cannot be applied.
seealso:
  - module: kubernetes.core.k8s
  - module: tokenlabs.platform.wait_ready
"""

EXAMPLES = r"""
- name: Apply a namespace and its quota
  tokenlabs.platform.apply:
    definitions:
      - apiVersion: v1
        kind: Namespace
        metadata:
          name: token-labs
      - apiVersion: v1
        kind: ResourceQuota
        metadata:
          name: pods
          namespace: token-labs
        spec:
          hard:
            pods: "50"

- name: Apply the Gateway API custom resource definitions and wait until they can be used
  tokenlabs.platform.apply:
    src:
      - https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.1/standard-install.yaml

- name: Make a password once
  tokenlabs.platform.apply:
    definitions:
      - apiVersion: v1
        kind: Secret
        metadata:
          name: redis
          namespace: redis-system
    if_absent: true
    generated_data:
      password: 32

- name: Remove what a manifest describes
  tokenlabs.platform.apply:
    src:
      - /var/lib/tokenlabs/manifests
    state: absent
"""

RETURN = r"""
changed_objects:
  description: The objects that were created, updated or deleted, as kind, namespace and name.
  type: list
  elements: str
  returned: always
  sample: ["Namespace/token-labs", "ResourceQuota/token-labs/pods"]
counts:
  description: How many objects were treated in which way.
  type: dict
  returned: always
  contains:
    created:
      description: Objects that were not there.
      type: int
    updated:
      description: Objects that differed.
      type: int
    deleted:
      description: Objects that were removed.
      type: int
    unchanged:
      description: Objects for which there was nothing to do.
      type: int
  sample: {created: 2, updated: 0, deleted: 0, unchanged: 0}
reasons:
  description: Why each updated object was written.
  type: dict
  returned: always
  sample: {"ConfigMap/token-labs/models": "other content than last applied"}
failed_objects:
  description: The objects that failed, each with the reason.
  type: list
  elements: dict
  returned: failure
  contains:
    object:
      description: The object as kind, namespace and name.
      type: str
    reason:
      description: What the API server said.
      type: str
"""

from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._apply import (
    UPDATE,
    Applier,
    Mask,
    Report,
    describe,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._definitions import (
    DefinitionError,
    is_secret,
    prepare,
    read,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module

ARGUMENTS: dict[str, Any] = {
    "definitions": {"type": "list", "elements": "dict", "default": []},
    "src": {"type": "list", "elements": "str", "default": []},
    "checksum": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "namespace": {"type": "str"},
    "field_manager": {"type": "str", "default": "tokenlabs"},
    "force": {"type": "bool", "default": True},
    "if_absent": {"type": "bool", "default": False},
    # No secret: the numbers of characters to generate.
    "generated_data": {"type": "dict", "default": {}, "no_log": False},
    "release_finalizers": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "int", "default": 120},
}


def collect(params: dict[str, Any]) -> list[dict[str, Any]]:
    """All definitions of the task, checked."""
    problems: list[str] = []
    found = list(params["definitions"])
    if params["checksum"] and len(params["src"]) != 1:
        problems.append("checksum needs src with exactly one manifest")
    for source in params["src"]:
        try:
            found += read(source, params["checksum"])
        except DefinitionError as error:
            problems += error.problems
    bodies: list[dict[str, Any]] = []
    try:
        bodies = prepare(found)
    except DefinitionError as error:
        problems += error.problems
    if not found and not problems:
        problems.append("there is nothing to apply: give definitions or src")
    for key, length in params["generated_data"].items():
        if isinstance(length, bool) or not str(length).isdigit() or not 16 <= int(length) <= 512:
            problems.append(f"generated_data.{key} must be a number of characters from 16 to 512")
    if params["generated_data"] and not (params["if_absent"] and all(map(is_secret, bodies))):
        problems.append("generated_data needs if_absent=true and definitions of Secrets only")
    if params["release_finalizers"] and params["state"] != "absent":
        problems.append("release_finalizers needs state=absent")
    if problems:
        raise DefinitionError(problems)
    return bodies


def result(report: Report, diff: bool) -> dict[str, Any]:
    mask = Mask()
    shown = {"diff": [describe(change, mask) for change in report.changed]} if diff else {}
    return {
        "changed": bool(report.changed),
        "changed_objects": [change.title for change in report.changed],
        "counts": report.counts(),
        "reasons": {change.title: change.reason for change in report.changed if change.verb == UPDATE},
        **shown,
    }


def main() -> None:
    module = kube_module(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    try:
        bodies = collect(params)
        kube = connect(module)
        applier = Applier(
            kube,
            manager=params["field_manager"],
            force=params["force"],
            check=module.check_mode,
            namespace=params["namespace"],
            if_absent=params["if_absent"],
            generated={key: int(length) for key, length in params["generated_data"].items()},
            timeout=params["timeout"],
            release_finalizers=params["release_finalizers"],
        )
        report = applier.present(bodies) if params["state"] == "present" else applier.absent(bodies)
    except DefinitionError as error:
        module.fail_json(msg="; ".join(error.problems))
    except KubeError as error:
        module.fail_json(msg=str(error))
    for warning in [*kube.warnings, *report.warnings]:
        module.warn(warning)
    if report.failures:
        module.fail_json(msg=report.failure_message(), failed_objects=report.failures, **result(report, module._diff))
    module.exit_json(**result(report, module._diff))


if __name__ == "__main__":
    main()
