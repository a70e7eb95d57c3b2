# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to one node: its system, its kubelet's arguments, containerd's runtimes, its labels and taints.

This module is private to the collection.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Run = Callable[[Sequence[str]], tuple[int, str, str]]

APPARMOR_RULE = "etc/apparmor.d/abstractions/base.d/50-microk8s-runc"
SSH_CLIENT = "etc/ssh/ssh_config.d/50-tokenlabs.conf"
# Beside a file: its content before a change that has not been proven good yet.
BEFORE_CHANGE = ".tokenlabs-good"
# The kubelet's flags that belong to one node. A join copies the file of the control plane, and these with it
# (canonical/microk8s v1.35, scripts/wrappers/join.py writes the received file and then sets only what names the node).
NODE_FLAGS = frozenset(
    f"--{name}"
    for name in (
        "cpu-manager-policy",
        "eviction-hard",
        "eviction-soft",
        "eviction-soft-grace-period",
        "kube-reserved",
        "max-pods",
        "memory-manager-policy",
        "register-with-taints",
        "reserved-cpus",
        "reserved-memory",
        "system-reserved",
        "topology-manager-policy",
    )
)
# On a Node: the taints that are ours, as KEY:EFFECT, so that those of others are left alone.
TAINTS_ANNOTATION = "tokenlabs.io/taints"
SPARK_LABEL = "tokenlabs.io/spark"
# Names the device plugin's configuration for a node; the role gpu_operator writes one for each number of slots.
SLOTS_LABEL = "nvidia.com/device-plugin.config"
# Of containerd 1.7 and of 2.x, which understands the former too.
CRI_PLUGINS = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
BLOCK = re.compile(r"^# BEGIN TOKENLABS$(.*?)^# END TOKENLABS$", re.MULTILINE | re.DOTALL)
CDI_BLOCK = "# BEGIN TOKENLABS CDI"


class MicroK8sError(Exception):
    """The state of the node could not be read."""


@dataclass(frozen=True)
class Template:
    """What containerd's template says.

    ``imported`` are the runtime handlers of imported files, by handler, ``block`` is what stands between our markers,
    ``cdi`` whether the CRI plugin is told to take CDI devices and ``cdi_ours`` whether by us, ``error`` why the file
    cannot be parsed or what switches the CRI plugin off.
    """

    cri_plugin: str | None = None
    handlers: dict[str, str] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    block: str = ""
    cdi: bool = False
    cdi_ours: bool = False
    error: str | None = None


def parse_args(text: str) -> dict[str, str]:
    """The flags of an argument file; as for the component itself, the last one of a name counts."""
    flags: dict[str, str] = {}
    for raw in text.splitlines():
        line = raw.strip().replace('"', "").replace("'", "")
        if not line.startswith("-"):
            continue
        name, separator, value = line.partition("=")
        if not separator:
            name, _blank, value = line.partition(" ")
        flags[name.strip()] = value.strip()
    return flags


def parse_managed_args(text: str) -> dict[str, str]:
    """The flags that stand between our markers."""
    match = BLOCK.search(text)
    return parse_args(match.group(1)) if match else {}


def parse_other_args(text: str) -> dict[str, str]:
    """The flags that stand outside of our markers."""
    return parse_args(BLOCK.sub("", text))


def parse_template(text: str, read: Callable[[str], Mapping[str, str]] = lambda pattern: {}) -> Template:
    """Containerd's template.

    :param read: gives the texts of the files that an entry of ``imports`` stands for, by path.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Template(error=str(error))
    block = BLOCK.search(text)
    wrong = _cri_off(document, "it")
    imported: dict[str, str] = {}
    for path, content in sorted(file for pattern in document.get("imports", []) for file in read(pattern).items()):
        try:
            extra = tomllib.loads(content)
        except tomllib.TOMLDecodeError as problem:
            wrong = wrong or f"{path}, which it imports: {problem}"
        else:
            wrong = wrong or _cri_off(extra, f"{path}, which it imports,")
            imported |= dict.fromkeys(_runtimes(extra)[1], path)
    plugin, handlers = _runtimes(document)
    return Template(
        cri_plugin=plugin,
        handlers=handlers,
        imported=imported,
        block=block.group(1).strip() if block else "",
        cdi=plugin is not None and document["plugins"][plugin].get("enable_cdi") is True,
        cdi_ours=CDI_BLOCK in text,
        error=wrong,
    )


def _runtimes(document: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The CRI plugin's name, and the runtime handlers with their programs."""
    plugins = document.get("plugins", {})
    for plugin in CRI_PLUGINS:
        runtimes = plugins.get(plugin, {}).get("containerd", {}).get("runtimes")
        if runtimes is not None:
            return plugin, {name: str(spec.get("options", {}).get("BinaryName", "")) for name, spec in runtimes.items()}
    return None, {}


def _cri_off(document: Mapping[str, Any], what: str) -> str | None:
    """Docker's own configuration of containerd does this, and the operator's toolkit may have copied it."""
    disabled = {"cri", *CRI_PLUGINS} & {str(name) for name in document.get("disabled_plugins", [])}
    return f"{what} switches the CRI plugin off ({', '.join(sorted(disabled))})" if disabled else None


def stray_args(other: Mapping[str, str], wanted: Mapping[str, str], inherited: Mapping[str, str]) -> list[str]:
    """The flags that have to go from outside of our markers.

    These are the ones that we set ourselves, as a kubelet adds up what is set twice, and those of NODE_FLAGS that the
    join has brought from the control plane.

    :param other: the flags of the node outside of our markers.
    :param wanted: the flags that we set.
    :param inherited: the flags of the control plane outside of our markers.
    """
    brought = {name for name in NODE_FLAGS & set(other) if inherited.get(name) == other[name]}
    return sorted(set(other) & set(wanted) | brought)


def parse_swaps(text: str) -> tuple[str, ...]:
    """What /proc/swaps has under its headline."""
    return tuple(line.split()[0] for line in text.splitlines()[1:] if line.strip())


def parse_time_sync(text: str) -> str:
    """``timedatectl show``: ``on``, ``off``, or ``missing`` when nothing that could be turned on is installed.

    A clock that something unknown to systemd keeps right counts as on.
    """
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if "yes" in (values.get("NTP"), values.get("NTPSynchronized")):
        return "on"
    return "off" if values.get("CanNTP") == "yes" else "missing"


# --- reading a host ---


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise MicroK8sError(f"{path}: {error.strerror}; read the state as root") from error


def imported(root: Path) -> Callable[[str], dict[str, str]]:
    def read(pattern: str) -> dict[str, str]:
        relative = pattern.lstrip("/")
        return {f"/{path.relative_to(root)}": text_of(path) for path in root.glob(relative)} if relative else {}

    return read


def _read_gpu(run: Run) -> tuple[str | None, str | None]:
    """The driver's version, or why there is none."""
    rc, out, err = run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    if rc == 0 and out.strip():
        return out.split()[0], None
    return None, " ".join((out.strip() or err.strip() or "nvidia-smi tells of no GPU").split())


def read_system(run: Run, root: Path, gpu: bool) -> dict[str, Any]:
    """What holds with and without MicroK8s."""
    mask = root / "etc/systemd/system/swap.target"
    _rc, clock, _err = run(["timedatectl", "show"])
    driver, error = _read_gpu(run) if gpu else (None, None)
    return {
        "node_name": socket.gethostname().lower(),
        "apparmor_rule": "peer=runc" in text_of(root / APPARMOR_RULE),
        "ssh_keepalive": "ServerAliveInterval" in text_of(root / SSH_CLIENT),
        "swaps": parse_swaps(text_of(root / "proc/swaps")),
        "swap_masked": mask.is_symlink() and os.readlink(mask) == "/dev/null",
        "time_sync": parse_time_sync(clock),
        "gpu_driver": driver,
        "gpu_error": error,
    }


# --- labels and taints ---


def node_objects(
    wanted: Mapping[str, Mapping[str, Any]], live: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The Nodes with our labels, and with the names of our taints, for server-side apply.

    A Node that is not there is left out. The taints themselves are not applied: their list belongs to one manager as a
    whole, and the control plane changes it whenever a node is away.
    """
    objects = []
    for name in sorted(set(wanted) & set(live)):
        labels = {SPARK_LABEL: "true"} if wanted[name].get("gpu") else {}
        if wanted[name].get("gpu_slots", 0) > 1:
            labels[SLOTS_LABEL] = f"slots-{wanted[name]['gpu_slots']}"
        labels |= {str(key): str(value) for key, value in wanted[name].get("labels", {}).items()}
        metadata: dict[str, Any] = {"name": name, "labels": labels}
        if marks := sorted(_marked(wanted[name].get("taints", []))):
            metadata["annotations"] = {TAINTS_ANNOTATION: ",".join(marks)}
        objects.append({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    return objects


def node_taints(
    wanted: Mapping[str, Mapping[str, Any]], live: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """What ``absent`` and ``present`` have to do: Nodes by ``name`` with the ``taints`` that go, or come.

    Those that are no longer wanted go before the Node's annotation forgets them, and new ones come when it names them.
    """
    absent, present = [], []
    for name in sorted(set(wanted) & set(live)):
        ours, there = _marked(wanted[name].get("taints", [])), _marked(live[name].get("taints", []))
        gone = [there[mark] for mark in live[name].get("managed_taints", []) if mark in there and mark not in ours]
        if gone:
            absent.append({"name": name, "taints": gone})
        if any(mark not in there or there[mark].get("value", "") != ours[mark].get("value", "") for mark in ours):
            present.append({"name": name, "taints": list(ours.values())})
    return {"absent": absent, "present": present}


def _marked(taints: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Taints by what tells one of a Node from another."""
    return {f"{taint['key']}:{taint['effect']}": dict(taint) for taint in taints}
