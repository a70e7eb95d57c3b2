# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brings new keys to the operator; documented in plugins/modules/fetch_keys.py."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import SHAPE, STEM, digits
from ansible_collections.tokenlabs.platform.plugins.plugin_utils._handover import Folder, HandoverError

REMOTE = "tokenlabs.platform.sealed_keys"


class ActionModule(ActionBase):
    """Asks the host for the keys, encrypted for this run, and writes them to the operator's folder."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"src", "names", "dest", "recipient"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec(
            {
                "src": {"type": "path", "required": True},
                "names": {"type": "list", "elements": "str", "required": True},
                "dest": {"type": "path", "required": True},
                "recipient": {"type": "str"},
            }
        )
        names, folder = arguments["names"], Folder(Path(arguments["dest"]).absolute(), arguments["recipient"])
        try:
            # Without names, that is all: a role can ask for it before keys are made.
            folder.check()
            if self._task.check_mode or not names:
                return {"changed": bool(names), "files": {name: str(folder.path(name)) for name in names}}
            folder.make()
            keys = self._ask(arguments["src"], names, task_vars)
            written = folder.write(keys)
        except (HandoverError, OSError) as error:
            raise AnsibleActionFail(str(error)) from None
        # Only now: what did not arrive is offered again.
        fingerprints = {name: digits(key) for name, key in keys.items()}
        self._remote({"src": arguments["src"], "fetched": fingerprints}, task_vars)
        return {"changed": True, "files": {name: str(path) for name, path in written.items()}}

    def _ask(self, src: str, names: list[str], task_vars: dict[str, Any] | None) -> dict[str, str]:
        # Only now: cryptography takes longer to load than a run takes in which no key is new.
        from ansible_collections.tokenlabs.platform.plugins.plugin_utils._envelope import Envelope

        envelope = Envelope()
        answer = self._remote({"src": src, "names": names, "certificate": envelope.certificate}, task_vars)
        if answer["missing"]:
            raise HandoverError(f"{src} has no key files of {', '.join(answer['missing'])}")
        keys = json.loads(envelope.open(base64.b64decode(answer["sealed"])))
        # They become names and contents of files here, so the host is not taken at its word.
        if set(keys) != set(names) or not all(
            STEM.fullmatch(name) and isinstance(key, str) and SHAPE.fullmatch(key) for name, key in keys.items()
        ):
            raise HandoverError("the host has answered with something else than keys")
        return keys

    def _remote(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer = self._execute_module(module_name=REMOTE, module_args=arguments, task_vars=task_vars)
        if answer.get("failed"):
            raise AnsibleActionFail(str(answer.get("msg")))
        return answer
