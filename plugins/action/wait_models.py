# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waits for models and tells what they do; documented in plugins/modules/wait_models.py."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.tokenlabs.platform.plugins.module_utils._model_wait import Patience, duration, from_data

display = Display()
REMOTE = "tokenlabs.platform.wait_models"
# The host is asked again at least this often, so that a broken connection is noticed.
LONGEST_LOOK = 30.0
KEYS = ("name", "pool", "picker", "deployment", "label", "startup_seconds")


class ActionModule(ActionBase):
    """Has the host look at the models, again and again, until each is ready or has used up its time."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        models = {model["name"]: {key: model[key] for key in KEYS if key in model} for model in arguments["models"]}
        begun = time.monotonic()
        startup = {name: float(model.get("startup_seconds", 1800)) for name, model in models.items()}
        patience = Patience(startup, float(arguments.get("pull_timeout", 600)), begun)
        look = 0.0
        while patience.pending:
            asked = {
                **arguments,
                "models": [models[name] for name in patience.pending],
                "seen": patience.seen,
                "look_timeout": look,
            }
            answer = self._execute_module(module_name=REMOTE, module_args=asked, task_vars=task_vars)
            if answer.get("failed") or self._task.check_mode:
                return answer
            lines = patience.see(from_data(answer["states"]), time.monotonic())
            # On most runs all are ready at the first look, and there is nothing to tell.
            for line in lines if look or patience.pending else ():
                display.display(f"  {line}")
            look = max(1.0, min(LONGEST_LOOK, patience.left(time.monotonic())))
        result = {"changed": False, "ready": patience.ready, "pending": patience.failed}
        if not patience.failed:
            return result
        spent = duration(time.monotonic() - begun)
        told = "\n".join(f"- {name}: {reason}" for name, reason in patience.failed.items())
        count = f"{len(patience.failed)} of {len(models)} models did not start within {spent}"
        return {**result, "failed": True, "msg": f"{count}; the others can be used.\n{told}"}
