# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants by the thousand against a real API server, beside the other ways of making their Secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measure import Usage, usages
from tests.bench.report import Row, Section
from tests.integration import apiserver
from tests.integration.tenants_operator import REPO, Operator

MANY, VERY_MANY, FEW = 10_000, 100_000, 50
WORKERS = 8
MODULE = "AnsiballZ_tenants.py"
SHELL = """
set -eu
for i in $(seq "$1"); do
API_KEY="tlabs_sk_$(openssl rand -hex 24)"
cat <<EOF | kubectl apply -f - >/dev/null
apiVersion: v1
kind: Secret
metadata:
  name: tenant-s$i
  namespace: $2
  labels:
    authorino.kuadrant.io/managed-by: authorino
    app: token-labs
  annotations:
    kuadrant.io/groups: "pro"
    secret.kuadrant.io/user-id: "s$i"
stringData:
  api_key: "$API_KEY"
EOF
done
"""


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
        measure = f"PYTHONPATH={REPO} exec {sys.executable} -m tests.bench.measure {folder}/usage"
        (folder / "measured").write_text(f'#!/bin/sh\n{measure} "$@"\n')
        (folder / "measured").chmod(0o755)
        operator.controllers_python.write_text(f'#!/bin/sh\nexec {folder}/measured {sys.executable} "$@"\n')
        operator.command.insert(0, str(folder / "measured"))
        return operator

    def play(self, operator: Operator, module: str, play: str = "play.json", **variables: Any) -> Run:
        since = self.api.mark()
        # Not handed to the interpreter by a pipe: so the module's process can be told by its name.
        done = operator.start(variables, environment={"ANSIBLE_PIPELINING": "0"}, play=play)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        found = usages(operator.directory / "usage")
        modules = [usage for usage in found if module in usage.command]
        return Run(found[-1], modules[-1], len(self.api.requests(since)))

    def tenants(self, operator: Operator, wanted: list[dict[str, str]]) -> Run:
        return self.play(operator, MODULE, tokenlabs_tenants=wanted, tenants_fetch=False)

    def loop(self, number: int) -> float:
        """Seconds of the bare loop."""
        command = [
            "-m",
            "tests.bench.create_loop",
            self.api.url,
            self.api.pki,
            self.namespace(),
            str(number),
            str(WORKERS),
        ]
        return self.seconds(sys.executable, *command)

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
        return self.play(operator, "AnsiballZ_k8s.py")


def tenants(number: int) -> list[dict[str, str]]:
    return [{"name": f"t{position:06d}", "tier": "free"} for position in range(number)]


def run(directory: Path, scale: float) -> Section:
    tools = apiserver.find_tools()
    if tools is None:
        sys.exit("no kube-apiserver and etcd: run make setup")
    os.environ["PATH"] = f"{tools}:{os.environ['PATH']}"
    (directory / "api").mkdir()
    with apiserver.running(tools, directory / "api") as api:
        return measure(Bench(api, directory), scale)


def measure(bench: Bench, scale: float) -> Section:
    many, very_many, few = (max(5, int(number * scale)) for number in (MANY, VERY_MANY, FEW))
    section = Section(
        "Tenants",
        "The role `tenants`, run by ansible-playbook against a kube-apiserver and etcd of its own (etcd does not wait\n"
        "for the disk, the key files do). Each ratio was taken within one run of the benchmark; what is held against\n"
        "each other ran by turns.",
    )
    wanted = tenants(many)

    # New ones, between the two halves of the bare loop.
    loop = bench.loop(many // 2)
    new = bench.tenants(bench.operator, wanted)
    loop += bench.loop(many - many // 2)
    rate = loop / new.module.seconds
    section.rows.append(
        Row(
            f"{many:,} new",
            f"the module at ≥ 70 % of the rate of a bare loop that creates, {WORKERS} requests at a time for both",
            f"{rate:.0%} ({new.module.seconds:.1f} s against {loop:.1f} s; "
            f"the whole playbook {new.playbook.seconds:.1f} s)",
            rate >= 0.7,
        )
    )

    # Nothing to do, before and after the same with one task of kubernetes.core.k8s.
    unchanged = [bench.tenants(bench.operator, wanted)]
    core = bench.kubernetes_core(many, loop=False)
    unchanged.append(bench.tenants(bench.operator, wanted))
    slowest = max(each.playbook.seconds for each in unchanged)
    memory = max(each.module.memory for each in unchanged)
    requests = max(each.requests for each in unchanged)
    times = core.playbook.seconds / slowest
    section.rows += [
        Row(f"{many:,} unchanged", "≤ 25 requests", f"{requests}", requests <= 25),
        Row(
            "",
            "the whole playbook ≥ 15 × faster than one task of `kubernetes.core.k8s` with all documents",
            f"{times:.1f} × ({slowest:.1f} s against {core.playbook.seconds:.1f} s and {core.requests:,} requests)",
            times >= 15,
        ),
        Row("", "peak memory of the module ≤ 150 MB", f"{memory:.0f} MB", memory <= 150),
    ]

    changed = [{**each, "tier": "pro"} for each in wanted[:10]] + wanted[10:]
    ten = bench.tenants(bench.operator, changed)
    section.rows.append(
        Row(
            f"{many:,} present, 10 change tier",
            "≤ 45 requests",
            f"{ten.requests} ({ten.playbook.seconds:.1f} s)",
            ten.requests <= 45,
        )
    )

    large = bench.another("very-many")
    first = bench.tenants(large, tenants(very_many))
    again = bench.tenants(large, tenants(very_many))
    linear = slowest * very_many / many
    section.rows += [
        Row(
            f"{very_many:,} unchanged",
            f"no more than {very_many // many} × the time of {many:,}",
            f"{again.playbook.seconds:.1f} s, {again.playbook.seconds / slowest:.1f} × ({again.requests} requests)",
            again.playbook.seconds <= linear,
        ),
        Row(
            "",
            "",
            f"peak memory: the module {again.module.memory:.0f} MB, ansible-playbook {again.playbook.memory:.0f} MB",
        ),
        Row(f"{very_many:,} new", "", f"{first.module.seconds:.0f} s, {very_many / first.module.seconds:.0f} a second"),
    ]

    short, long = bench.kubernetes_core(few // 5, loop=True), bench.kubernetes_core(few, loop=True)
    each = (long.playbook.seconds - short.playbook.seconds) / (few - few // 5)
    section.rows.append(
        Row(
            f"`loop:` over `kubernetes.core.k8s`, {few} unchanged",
            "",
            f"{each:.2f} s each; {many:,} would take {each * many / 3600:.1f} h (extrapolated)",
        )
    )
    each = bench.seconds("sh", "-c", SHELL, "sh", str(few), bench.namespace()) / few
    section.rows.append(
        Row(
            f"a shell loop of `openssl` and `kubectl apply`, {few} new",
            "",
            f"{each:.2f} s each; {many:,} would take {each * many / 60:.0f} min (extrapolated)",
        )
    )
    return section
