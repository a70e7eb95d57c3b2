# SPDX-License-Identifier: GPL-3.0-or-later
"""An API server, and operators of it whose every run is measured."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measure import Usage, usages
from tests.integration import apiserver
from tests.integration.tenants_operator import REPO, Operator

WORKERS = 8
SETTING = (
    "The role `tenants`, run by ansible-playbook against a kube-apiserver and etcd of its own (etcd does not wait\n"
    "for the disk, the key files do)."
)


@dataclass(frozen=True)
class Run:
    """One run of ansible-playbook: all of it, its module, and the requests that the API server got."""

    playbook: Usage
    module: Usage
    requests: int


class Bench:
    """A server, and an operator whose every run is measured."""

    def __init__(self, api: apiserver.ApiServer, directory: Path):
        self.api = api
        self.directory = directory
        self._namespaces = 0
        self.operator = self.another("role")

    def namespace(self) -> str:
        self._namespaces += 1
        name = f"bench-{self._namespaces}"
        self.api.raw("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def another(self, name: str) -> Operator:
        """An operator with a namespace and a folder of their own."""
        folder = self.directory / name
        folder.mkdir()
        operator = Operator(self.api, self.namespace(), folder)
        measure = f"exec {sys.executable} -I -S {REPO}/tests/bench/measure.py {folder}/usage"
        (folder / "measured").write_text(f'#!/bin/sh\n{measure} "$@"\n')
        (folder / "measured").chmod(0o755)
        operator.controllers_python.write_text(f'#!/bin/sh\nexec {folder}/measured {sys.executable} "$@"\n')
        operator.command.insert(0, str(folder / "measured"))
        return operator

    def play(self, operator: Operator, **variables: Any) -> Run:
        since = self.api.mark()
        # As in ansible.cfg.
        done = operator.start(variables, environment={"ANSIBLE_PIPELINING": "1"})
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        # The module that it is about runs first, and ansible-playbook ends last.
        module, *_, playbook = usages(operator.directory / "usage")
        return Run(playbook, module, len(self.api.requests(since)))

    def tenants(self, wanted: list[dict[str, str]]) -> Run:
        """Thousands are in a file, as docs/operations.md says."""
        (self.operator.directory / "tenants.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in wanted))
        return self.play(self.operator, tokenlabs_tenants_files=["tenants.jsonl"])

    def loop(self, number: int) -> float:
        """Seconds of the bare loop."""
        where = (self.api.url, self.api.pki, self.namespace())
        return self.seconds(sys.executable, "-m", "tests.bench.create_loop", *where, str(number), str(WORKERS))

    def seconds(self, *command: str | Path) -> float:
        begin = time.monotonic()
        environment = {**os.environ, "KUBECONFIG": str(self.api.kubeconfig)}
        subprocess.run(command, check=True, cwd=REPO, env=environment)
        return time.monotonic() - begin

    def kubernetes_core(self, number: int, loop: bool) -> Run:
        """One task of kubernetes.core.k8s with the Secrets that are there, or one for each of them."""
        operator = self.another(f"core-{number}-{loop}")
        items = self.api.raw("GET", f"{self.operator.path}?limit={number}")["items"]
        for item in items:
            kept = {key: item["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
            item.update(apiVersion="v1", kind="Secret", metadata=kept)
        (operator.directory / "secrets.json").write_text(json.dumps(items))
        play = json.loads((operator.directory / "play.json").read_text())[0]
        documents = f"{{{{ lookup('ansible.builtin.file', '{operator.directory}/secrets.json') | from_json }}}}"
        task: dict[str, Any] = {"kubernetes.core.k8s": {"definition": "{{ item }}" if loop else documents}}
        if loop:
            task |= {"loop": documents, "loop_control": {"label": "{{ item.metadata.name }}"}}
        defaults = {"group/kubernetes.core.k8s": {"kubeconfig": str(self.api.kubeconfig)}}
        play |= {"roles": [], "tasks": [task], "module_defaults": defaults}
        (operator.directory / "play.json").write_text(json.dumps([play]))
        return self.play(operator)


def tenants(number: int) -> list[dict[str, str]]:
    return [{"name": f"t{position:06d}", "tier": "free"} for position in range(number)]


@contextlib.contextmanager
def bench(directory: Path) -> Iterator[Bench]:
    tools = apiserver.find_tools()
    if tools is None:
        sys.exit("no kube-apiserver and etcd: run make setup")
    os.environ["PATH"] = f"{tools}:{os.environ['PATH']}"
    (directory / "api").mkdir()
    with apiserver.running(tools, directory / "api") as api:
        yield Bench(api, directory)
