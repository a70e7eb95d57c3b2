#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: wait_models
short_description: Wait until models can be used, and tell what they do meanwhile
version_added: 0.2.0
description:
  - Waits for all models at once. Each has its own time, which begins anew when its server runs; a model that does not
    start does not stop the others, and ends the task as failed when all others are done.
  - Prints a line when a model does something else than before, and one a minute - it waits for a place, its image is
    downloaded, its server starts, it is ready - and how long that has taken.
  - A model is ready when its workers and its endpoint picker are available and its pool is accepted.
  - In check mode it looks once and never fails.
author: TokenLabs platform developers (@tokenlabs)
options:
  namespace:
    description: Where the models are.
    type: str
    required: true
  models:
    description: The models. Other keys than these are passed over, so that they can be those of the catalog.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name by which the model is spoken of.
        type: str
        required: true
      pool:
        description: The name of its InferencePool.
        type: str
        required: true
      picker:
        description: The name of its endpoint picker's Deployment.
        type: str
        required: true
      deployment:
        description: The name of its workers' Deployment.
        type: str
        required: true
      label:
        description: The value of its workers' label C(llm-d.ai/model).
        type: str
        required: true
      startup_seconds:
        description: How long its server may take from its start to the first answer.
        type: int
        default: 1800
  pull_timeout:
    description: Seconds until a model's server must run, which is the time for a place and for its image.
    type: int
    default: 600
  seen:
    description: Used by the action plugin. What was known before; the module returns when that is not so any more.
    type: dict
  look_timeout:
    description: Used by the action plugin. Seconds after which the module returns without news.
    type: float
    default: 0
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - tokenlabs.platform.attributes
  - tokenlabs.platform.attributes.kubernetes
attributes:
  action:
    description: Has an action plugin, which tells on the control node what the module finds.
    support: full
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Wait until the models can be used
  tokenlabs.platform.wait_models:
    namespace: token-labs
    models:
      - name: qwen-7b
        pool: pool-qwen-7b
        picker: pool-qwen-7b-epp
        deployment: ms-qwen-7b-decode
        label: qwen-7b
        startup_seconds: 900
"""

RETURN = r"""
ready:
  description: The models that can be used.
  returned: always
  type: list
  elements: str
  sample: [qwen-7b]
pending:
  description: The models that did not start in their time, each with what it did last and the last events of its pods.
  returned: always
  type: dict
  sample: {"qwen-7b": "its image cannot be pulled on spark-01: not found (after 10m 00s)"}
states:
  description: What each model does, for the action plugin.
  returned: when called by the action plugin
  type: dict
"""

from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module
from ansible_collections.tokenlabs.platform.plugins.module_utils._model_wait import Looker, Model, as_data

NAMES = ("name", "pool", "picker", "deployment", "label")
ARGUMENTS = {
    "namespace": {"type": "str", "required": True},
    "models": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            **{name: {"type": "str", "required": True} for name in NAMES},
            "startup_seconds": {"type": "int", "default": 1800},
        },
    },
    "pull_timeout": {"type": "int", "default": 600},
    "seen": {"type": "dict"},
    "look_timeout": {"type": "float", "default": 0},
}


def main() -> None:
    module = kube_module(argument_spec=ARGUMENTS, supports_check_mode=True)
    models = [Model(**{name: entry[name] for name in NAMES}) for entry in module.params["models"]]
    try:
        looker = Looker(connect(module), module.params["namespace"])
        states = looker.watch(models, module.params["seen"] or {}, module.params["look_timeout"])
    except KubeError as error:
        module.fail_json(msg=str(error), ready=[], pending={})
    ready = [name for name, state in states.items() if state.ready]
    pending = {name: state.doing for name, state in states.items() if not state.ready}
    module.exit_json(changed=False, ready=ready, pending=pending, states=as_data(states))


if __name__ == "__main__":
    main()
