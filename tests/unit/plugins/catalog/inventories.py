# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventories as files on disk, read by Ansible itself."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.task import Task
from ansible.plugins.loader import init_plugin_loader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.tokenlabs.platform.plugins.action.catalog import ActionModule

GOOD = {
    "hosts.yml": """\
controllers:
  hosts:
    controller:
      ansible_host: 192.168.1.10
sparks:
  hosts:
    spark-01:
      ansible_host: 192.168.1.11
    spark-02:
      ansible_host: 192.168.1.12
""",
    "host_vars/spark-01.yml": """\
tokenlabs_models:
  - name: llama-8b
    model: nvidia/Llama-3.1-8B-Instruct
    image: ghcr.io/llm-d/llm-d-cuda:v0.5.0
    args: [--max-model-len=32768]
""",
    "host_vars/spark-02.yml": """\
tokenlabs_models:
  - name: qwen-7b
    model: Qwen/Qwen2.5-7B-Instruct
    image: ghcr.io/llm-d/llm-d-cuda:v0.5.0
""",
    "group_vars/all/tiers.yml": """\
tokenlabs_tiers:
  free:
    requests: {1m: 10, 24h: 100}
    tokens: {1m: 5000}
    models: [llama-8b]
  pro:
    requests: {1m: 100}
    tokens: {1m: 50000}
""",
    "group_vars/all/tenants.yml": """\
tokenlabs_tenants:
  - {name: acme, tier: pro}
  - {name: initech, tier: free, state: suspended}
""",
    "group_vars/all/main.yml": """\
tokenlabs_loadbalancer_range: 192.168.1.240-192.168.1.250
""",
}


def write(directory: Path, changes: dict[str, str | None]) -> Path:
    """The good inventory with some files replaced, added or (None) left out."""
    for name, text in {**GOOD, **changes}.items():
        if text is not None:
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return directory


@functools.cache
def load_plugins() -> None:
    """Ansible takes this once in a process."""
    init_plugin_loader()


def load(directory: Path, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the action plugin answers to an inventory."""
    load_plugins()
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[str(directory)])
    variables = VariableManager(loader=loader, inventory=inventory)
    # A copy: Ansible reads the command line's variables once for the whole process.
    variables._extra_vars = {**variables._extra_vars, **(extra or {})}
    hostvars = HostVars(inventory, variables, loader)
    task_vars = {
        "groups": inventory.get_groups_dict(),
        "hostvars": hostvars,
        "inventory_dir": str(directory),
        "ansible_inventory_sources": (str(directory),),
    }
    task = Task.load({"action": "tokenlabs.platform.catalog"}, loader=loader)
    shell = SimpleNamespace(tmpdir=None)
    connection = SimpleNamespace(_shell=shell, _load_name="local", transport="local")
    action = ActionModule(task, connection, SimpleNamespace(), loader, None, None)
    return action.run(task_vars=task_vars)


def problems(directory: Path, extra: dict[str, Any] | None = None) -> list[str]:
    answer = load(directory, extra)
    return str(answer["msg"]).splitlines()[1:] if answer.get("failed") else []
