# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults by which a host looks like another machine: put on and taken off as /var/lib/snapsim/faults.json says.

Runs when a fault is set or cleared, and at boot. What a fault replaces is kept in /var/lib/snapsim/faces.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .host import Host, read_json, write_file

OS_RELEASES = {
    "ubuntu-22.04": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\nVERSION="22.04.5 LTS '
    '(Jammy Jellyfish)"\nVERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=jammy\n',
    "ubuntu-24.04": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nVERSION="24.04.3 LTS '
    '(Noble Numbat)"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=noble\n',
    "debian-12": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
    'VERSION="12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n',
}
_UNITS = {"Ki": 1, "Mi": 1024, "Gi": 1024**2}


def kibibytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", text)
    if not match:
        raise ValueError(f"not a size such as 8Gi: {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def dgx_release(versions: str) -> str:
    """A file as DGX OS has it: the version it was delivered with, and a block for each update since."""
    first, *later = versions.split(",")
    head = f'DGX_NAME="DGX Spark"\nDGX_PRETTY_NAME="NVIDIA DGX Spark"\nDGX_SWBUILD_VERSION="{first}"\n'
    return head + "".join(
        f'\nDGX_OTA_VERSION="{each}"\nDGX_OTA_DATE="Tue Oct 14 09:12:44 AM UTC 2025"\n' for each in later
    )


def _replace(host: Host, path: str, text: str | None) -> None:
    """Another content for a file (an empty one: it is not there), or with None its own again."""
    place, kept = host.path(path), host.state / "faces" / path.replace("/", "_")
    if text is None:
        if kept.exists():
            shutil.copy2(kept, place)
            kept.unlink()
        return
    if place.exists() and not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(place, kept)
    place.unlink(missing_ok=True)
    if text:
        write_file(place, text)


def _os_release(host: Host, value: Any) -> None:
    _replace(host, "etc/os-release", None if value is None else OS_RELEASES[value])


def _dgx_release(host: Host, value: Any) -> None:
    _replace(host, "etc/dgx-release", None if value is None else "" if value == "none" else dgx_release(str(value)))


def _driver_missing(host: Host, value: Any) -> None:
    _replace(host, "usr/bin/nvidia-smi", "" if value else None)


def _hostname(host: Host, value: Any) -> None:
    _replace(host, "etc/hostname", None if value is None else f"{value}\n")
    if host.settings.services == "systemd":
        socket.sethostname(host.path("etc/hostname").read_text().strip())


def _memory(host: Host, value: Any) -> None:
    """Sizes of /proc/meminfo, which is a file of the host's own (see host-init.sh)."""
    path, face = host.path("proc/meminfo"), host.path("usr/lib/snapsim/face")
    default = re.search(r"^memory=(\d+)", face.read_text() if face.exists() else "", re.MULTILINE)
    total = kibibytes(value) if value is not None else int(default[1]) if default else 0
    if total and path.exists():
        text = path.read_text()
        for name, amount in (("MemTotal", total), ("MemFree", total // 2), ("MemAvailable", total * 9 // 10)):
            text = re.sub(rf"^{name}:.*$", f"{name}: {amount:>14} kB", text, flags=re.MULTILINE)
        path.write_text(text)


def _small_disk(host: Host, value: Any) -> None:
    """A file system of a given size at a directory."""
    noted = host.state / "faces/small_disk"
    if noted.exists() and noted.read_text() != value:
        subprocess.run(["umount", noted.read_text().partition("=")[0]], check=False)
        noted.unlink()
    if value is not None and not noted.exists():
        place, _, size = str(value).partition("=")
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes(size)}k", "tmpfs", place], check=True)
        write_file(noted, str(value))


def _auto_refresh(host: Host, value: Any) -> None:
    if value is not None:
        subprocess.run(["systemd-run", "--no-block", "--quiet", "/usr/lib/snapsim/bin/snapd"], check=False)


ACTIONS: dict[str, Callable[[Host, Any], None]] = {
    "os_release": _os_release,
    "dgx_release": _dgx_release,
    "gpu_driver_missing": _driver_missing,
    "hostname": _hostname,
    "memory": _memory,
    "small_disk": _small_disk,
    "auto_refresh_in": _auto_refresh,
}
# Faults that programs read from /etc/lab-face.
FACE = {"machine": "machine", "kernel": "kernel", "clock_offset": "clock", "cores": "cores"}


def apply(host: Host) -> None:
    faults = read_json(host.state / "faults.json", {})
    lines = [f"{key}={faults[name]}" for name, key in FACE.items() if faults.get(name) is not None]
    if lines:
        write_file(host.path("etc/lab-face"), "\n".join(lines) + "\n")
    else:
        host.path("etc/lab-face").unlink(missing_ok=True)
    known = set(read_json(host.state / "faces.json", []))
    for name, act in ACTIONS.items():
        if name in faults or name in known:
            act(host, faults.get(name))
    write_file(host.state / "faces.json", json.dumps(sorted(set(ACTIONS) & set(faults))) + "\n")


def main(argv: Sequence[str]) -> int:
    apply(Host())
    return 0
