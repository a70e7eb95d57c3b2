# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody who runs the role tenants with ansible-playbook, from a folder of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.apiserver import ApiServer

REPO = Path(__file__).resolve().parents[2]


class Operator:
    """A folder with an inventory of one controller, which is this machine, and ansible-playbook run in it."""

    def __init__(self, api: ApiServer, namespace: str, directory: Path):
        self.api = api
        self.path = f"/api/v1/namespaces/{namespace}/secrets"
        self.directory = directory
        self.credentials = directory / "credentials"
        self.keys = directory / "controller" / "keys"
        self.controllers_python = directory / "controllers-python"
        self.controllers_python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self.controllers_python.chmod(0o755)
        play: dict[str, Any] = {
            "hosts": "controllers[0]",
            "gather_facts": False,
            "become": True,
            "module_defaults": {"group/tokenlabs.platform.k8s": {"kubeconfig": str(api.kubeconfig)}},
            # As in the playbooks: the controller's interpreter is not there on the operator's machine.
            "vars": {"ansible_python_interpreter": str(self.controllers_python)},
            "roles": [{"role": "tokenlabs.platform.tenants"}],
        }
        (directory / "play.json").write_text(json.dumps([play]))
        variables = {
            "ansible_connection": "local",
            "tenants_namespace": namespace,
            "tenants_key_dir": str(self.keys),
            "tokenlabs_tiers": {"free": {}, "pro": {}},
        }
        hosts = {"all": {"children": {"controllers": {"hosts": {"controller": variables}}}}}
        (directory / "hosts.json").write_text(json.dumps(hosts))
        self.log = directory / "ansible.log"
        self.command = [str(Path(sys.executable).with_name("ansible-playbook"))]

    def entry_point(self, name: str) -> None:
        """Write a play NAME.json for another entry point of the role."""
        [play] = json.loads((self.directory / "play.json").read_text())
        del play["roles"]
        role = {"name": "tokenlabs.platform.tenants", "tasks_from": name}
        play["tasks"] = [{"name": "Run it", "ansible.builtin.include_role": role}]
        (self.directory / f"{name}.json").write_text(json.dumps([play]))

    def run(
        self,
        *tenants: dict[str, Any],
        options: tuple[str, ...] = (),
        rc: int = 0,
        play: str = "play.json",
        **variables: Any,
    ) -> dict[str, Any]:
        """Run the role and say what the recap counts."""
        done = self.start({"tokenlabs_tenants": list(tenants), **variables}, options, play=play)
        output = done.stdout + done.stderr
        assert done.returncode == rc, output
        recap = re.search(r"controller +: (.*)", output)
        assert recap, output
        return {"output": output, **{key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", recap[1])}}

    def start(
        self,
        variables: dict[str, Any],
        options: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        play: str = "play.json",
    ) -> subprocess.CompletedProcess[str]:
        # In a file: thousands of tenants do not fit on a command line.
        given = self.directory / "variables.json"
        given.write_text(json.dumps(variables))
        hosts = self.directory / "hosts.json"
        return subprocess.run(
            [*self.command, "-i", hosts, self.directory / play, "-e", f"@{given}", *options],
            cwd=self.directory,
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "K8S_"))},
                "ANSIBLE_COLLECTIONS_PATH": str(REPO / "collections"),
                "ANSIBLE_LOG_PATH": str(self.log),
                "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
                "ANSIBLE_NOCOLOR": "1",
                "LC_ALL": "C.UTF-8",
                **(environment or {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )
