# SPDX-License-Identifier: GPL-3.0-or-later
"""The first inventory that the README shows is one that works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"```yaml\n(# inventories/mine/.*?)```", re.DOTALL)


def files_of_readme() -> dict[str, str]:
    """PATH -> text, from the block whose comments name files of inventories/mine."""
    (block,) = BLOCK.findall((REPO / "README.md").read_text())
    parts = re.split(r"^# inventories/mine/(\S+)\n", block, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_inventory_of_the_readme_is_valid(tmp_path: Path) -> None:
    files = files_of_readme()
    assert {"hosts.yml", "host_vars/spark-01.yml"} <= set(files)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    ansible = Path(sys.executable).with_name("ansible")
    command = [ansible, "controllers", "-i", tmp_path, "-m", "tokenlabs.platform.catalog"]
    result = subprocess.run(
        command,
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "json", "HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (told,) = [
        host for play in json.loads(result.stdout)["plays"] for task in play["tasks"] for host in task["hosts"].values()
    ]
    served = yaml.safe_load(files["host_vars/spark-01.yml"])["tokenlabs_models"]
    assert [model["name"] for model in told["catalog"]["models"]] == [model["name"] for model in served]
