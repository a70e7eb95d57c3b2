# SPDX-License-Identifier: GPL-3.0-or-later
"""What every role must have, and what its files must agree on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (REPO / "roles").iterdir() if path.is_dir())


class Loader(yaml.SafeLoader):
    """YAML with Ansible's own tags."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader) if path.exists() else None


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_spec_and_the_defaults_agree(role: Path) -> None:
    defaults = load(role / "defaults/main.yml") or {}
    entries = load(role / "meta/argument_specs.yml")["argument_specs"]
    options = {name: option for entry in entries.values() for name, option in (entry.get("options") or {}).items()}
    assert set(defaults) <= set(options), "defaults that no spec describes"
    told = {name: option["default"] for name, option in options.items() if "default" in option}
    # A default that follows another variable is told in words.
    fixed = {name: value for name, value in defaults.items() if "{{" not in str(value)}
    assert {name: told[name] for name in told if name in fixed} == {name: fixed[name] for name in fixed if name in told}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_role_tells_what_it_is_for(role: Path) -> None:
    text = (role / "README.md").read_text()
    assert text.startswith(f"# {role.name}\n")
    assert len(text.split()) > 40


def test_the_tables_of_variables_are_fresh() -> None:
    command = [sys.executable, REPO / "scripts/role_readmes.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_charts_are_installed_in_one_way() -> None:
    """By helm_release, or helmfile for the models: both hold them against checksums. Others only take releases away."""
    tasks = [task for path in REPO.glob("roles/*/tasks/*.yml") for task in load(path) or []]
    helm = [task["kubernetes.core.helm"] for task in tasks if "kubernetes.core.helm" in task]
    assert helm and all((each.get("release_state") or each.get("state")) == "absent" for each in helm), helm
