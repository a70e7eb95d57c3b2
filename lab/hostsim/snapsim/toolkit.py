# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVIDIA's container toolkit (1.18) does to a host while the operator's pod runs there.

It completes a containerd configuration with runtime handlers: a drop-in file, made of what it takes for the running
configuration, and an `imports` line in the file that it was told of. Told nothing, it takes Docker's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .containerd import handlers, load_text
from .host import Host, write_file

DROP_IN = "etc/containerd/conf.d/99-nvidia.toml"
IMPORTS = 'imports = ["/etc/containerd/conf.d/*.toml"]\n'
DEFAULT_CONFIG = "/etc/containerd/config.toml"
SOCKET = "/var/snap/microk8s/common/run/containerd.sock"
RUNTIMES = ("nvidia", "nvidia-cdi", "nvidia-legacy")


def _table(name: str) -> str:
    program = {"nvidia": "", "nvidia-cdi": ".cdi", "nvidia-legacy": ".legacy"}[name]
    section = f'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}'
    return (
        f'\n[{section}]\nruntime_type = "io.containerd.runc.v2"\n[{section}.options]\n'
        f'BinaryName = "/usr/local/nvidia/toolkit/nvidia-container-runtime{program}"\n'
    )


def drop_in(source: str, as_default: bool) -> str:
    """The running configuration, as far as it was told which one that is, with the handlers that it lacks."""
    kept = "".join(f"{line}\n" for line in source.splitlines() if not line.startswith("imports"))
    have = handlers(load_text(kept))
    text = kept + "".join(_table(name) for name in RUNTIMES if name not in have)
    if as_default:
        text = text.replace('default_runtime_name = "${RUNTIME}"', 'default_runtime_name = "nvidia"')
    return text


def _file(host: Host, path: str) -> Path:
    return host.path(path.removeprefix("file="))


def install(host: Host, env: dict[str, str]) -> bool:
    """Write what the toolkit writes; true when it restarts MicroK8s' containerd."""
    config = _file(host, env.get("CONTAINERD_CONFIG", DEFAULT_CONFIG))
    source = _file(host, env.get("RUNTIME_CONFIG_SOURCE", DEFAULT_CONFIG))
    text = source.read_text() if source.exists() else ""
    write_file(host.path(DROP_IN), drop_in(text, env.get("CONTAINERD_SET_AS_DEFAULT", "0") in ("1", "true")))
    old = config.read_text() if config.exists() else ""
    if not old.startswith("imports"):
        write_file(config, IMPORTS + old)
    return env.get("CONTAINERD_SOCKET", "") == SOCKET


def remove(host: Host) -> bool:
    """The drop-in goes with the pod; the line that imports it stays."""
    there = host.path(DROP_IN).exists()
    host.path(DROP_IN).unlink(missing_ok=True)
    return there


def follow(host: Host, told: str) -> None:
    """Bring the host to what the toolkit's pod on it is told (nothing: there is none), once for each pod."""
    from .units import Services

    noted = host.state / "toolkit.json"
    before = noted.read_text() if noted.exists() else ""
    if told == before:
        return
    write_file(noted, told)
    wanted: dict[str, Any] = json.loads(told) if told else {}
    restart = install(host, wanted["env"]) if told else remove(host)
    if restart:
        Services(host).restart(["daemon-containerd"])
