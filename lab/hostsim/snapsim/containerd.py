# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated containerd: reads its template at start, tells the kubelet what came of it, then sleeps."""

from __future__ import annotations

import json
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import snapstate, tree
from .host import Host, read_json, write_file

_CRI = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
NO_CRI = "rpc error: code = Unimplemented desc = unknown service runtime.v1.RuntimeService"


def version(snap_version: str) -> str:
    minor = int((snap_version or "v1.34").lstrip("v").split(".")[1])
    return "1.7.29" if minor <= 34 else "2.1.6" if minor == 35 else "2.2.3"


def load_text(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def load(template: Path, root: Path) -> dict[str, Any]:
    """The template with the files that it imports.

    Later files win, plugin by plugin: a section of theirs replaces the whole section of that plugin, it does not
    complete it (containerd 1.7, services/server/config: mergeConfig).
    """
    config = load_text(template.read_text())
    for pattern in config.get("imports", []):
        for path in sorted(root.glob(str(pattern).lstrip("/"))):
            extra = load_text(path.read_text())
            plugins = {**(config.get("plugins") or {}), **(extra.get("plugins") or {})}
            disabled = [*(config.get("disabled_plugins") or []), *(extra.get("disabled_plugins") or [])]
            config = {**config, **extra, "plugins": plugins, "disabled_plugins": disabled}
    return config


def handlers(config: dict[str, Any]) -> list[str]:
    plugins = config.get("plugins") or {}
    found: set[str] = set()
    for name in _CRI:
        found |= set(((plugins.get(name) or {}).get("containerd") or {}).get("runtimes") or {})
    return sorted(found)


def problem(config: dict[str, Any]) -> str:
    disabled = config.get("disabled_plugins") or []
    if any(name in disabled for name in ("cri", *_CRI)):
        return NO_CRI
    return "" if any((config.get("plugins") or {}).get(name) for name in _CRI) else NO_CRI


def start(host: Host) -> bool:
    """Write the outcome; False when the daemon cannot run."""
    template = host.args / "containerd-template.toml"
    state: dict[str, Any] = {"started": time.time(), "running": False, "handlers": [], "error": ""}
    tree.write_apparmor(host)
    try:
        config = load(template, host.root)
        write_file(host.args / "containerd.toml", template.read_text(), 0o660)
    except (tomllib.TOMLDecodeError, OSError) as error:
        state["error"] = f"failed to connect to containerd.sock: connect: connection refused ({error})"
        print(f"containerd: failed to load TOML: {host.args / 'containerd.toml'}: {error}", file=sys.stderr)
        write_file(host.runtime_file, json.dumps(state))
        return False
    snap = snapstate.load(host).get("microk8s")
    state |= {
        "running": True,
        "handlers": handlers(config),
        "error": problem(config),
        "version": version(snap.version if snap else ""),
    }
    write_file(host.runtime_file, json.dumps(state))
    (host.common / "run/containerd.sock").touch()
    return True


def stopped(host: Host) -> None:
    (host.common / "run/containerd.sock").unlink(missing_ok=True)
    state = read_json(host.runtime_file, {})
    if state.get("running"):
        error = "failed to connect to containerd.sock: connect: no such file or directory"
        write_file(host.runtime_file, json.dumps({**state, "running": False, "error": error}))


def main(argv: Sequence[str]) -> int:
    host = Host()
    if "--stopped" in argv:
        stopped(host)
        return 0
    if not start(host):
        return 1
    os.execv("/bin/sleep", ["containerd", "infinity"])
