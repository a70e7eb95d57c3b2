# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s addons repo`: the lists of addons, which a refresh of the snap does not renew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError

from . import options
from .addons import table
from .console import finish, need_permission, usage
from .host import Host

BUILT_IN = "/snap/microk8s/current/addons/core"


def _branch(repository: Path) -> str:
    return (repository / ".git/HEAD").read_text()


def _folder(host: Host, argv: Sequence[str], command: str) -> tuple[str, Path]:
    found = options.parse(f"microk8s addons repo {command}", "[OPTIONS] NAME", argv, {}, [])
    if not found.arguments:
        usage(f"microk8s addons repo {command}", "[OPTIONS] NAME", "Missing argument 'NAME'.")
    name = found.arguments[0]
    path = host.common / "addons" / name
    if not path.exists():
        finish(1, err=f"Error: repository '{name}' does not exist")
    return name, path


def listing(host: Host, argv: Sequence[str]) -> None:
    style = options.parse("microk8s addons repo list", "[OPTIONS]", argv, {"--format": "format"}, []).options
    repo = {
        "name": "core",
        "addons": len(table.available(host.arch)),
        "source": "(built-in)",
        "description": "List of all addons included in Microk8s.",
    }
    form = style.get("format", "table")
    if form == "json":
        finish(0, out=json.dumps([repo]))
    if form == "yaml":
        finish(0, out="\n".join(("- " if i == 0 else "  ") + f"{k}: {v}" for i, (k, v) in enumerate(repo.items())))
    finish(0, out=f"{'REPO':<10} {'ADDONS':>6} SOURCE\n{repo['name']:<10} {repo['addons']:>6} {repo['source']}")


def update(host: Host, argv: Sequence[str]) -> None:
    """Follows the branch; when the snap has gone to another one the real command fails, and so does this."""
    name, path = _folder(host, argv, "update")
    print(f"Updating repository {name}", flush=True)
    source = host.path(BUILT_IN)
    if _branch(path) != _branch(source):
        print(f"fatal: destination path '{path}' already exists and is not an empty directory.", flush=True)
        raise CalledProcessError(128, ["/snap/microk8s/current/git.wrapper", "clone", BUILT_IN, str(path)])
    print("Already up to date.")


def add(host: Host, argv: Sequence[str]) -> None:
    command, synopsis = "microk8s addons repo add", "[OPTIONS] NAME REPOSITORY"
    found = options.parse(command, synopsis, argv, {"--reference": "reference"}, ["--force"])
    if len(found.arguments) != 2:
        usage(command, synopsis, "Missing argument 'REPOSITORY'." if found.arguments else "Missing argument 'NAME'.")
    name, source = found.arguments
    path = host.common / "addons" / name
    if path.exists():
        if not found.flag("--force"):
            finish(1, err=f"Error: repository '{name}' already exists!\nUse the --force flag to overwrite it")
        print(f"Removing {path}", flush=True)
        shutil.rmtree(path)
    if not (host.path(source) / ".git").exists():
        raise CalledProcessError(128, ["/snap/microk8s/current/git.wrapper", "clone", source, str(path)])
    shutil.copytree(host.path(source), path)


def remove(host: Host, argv: Sequence[str]) -> None:
    _name, path = _folder(host, argv, "remove")
    print(f"Removing {path}")
    shutil.rmtree(path)


COMMANDS = {"list": listing, "update": update, "add": add, "remove": remove}


def run(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    if list(argv[:1]) != ["repo"] or len(argv) < 2 or argv[1] not in COMMANDS:
        group = "microk8s addons repo" if list(argv[:1]) == ["repo"] else "microk8s addons"
        usage(group, "[OPTIONS] COMMAND [ARGS]...", "Missing command.")
    COMMANDS[argv[1]](host, argv[2:])
    finish(0)
