# SPDX-License-Identifier: GPL-3.0-or-later
"""`nvidia-smi` of a GB10, whose memory is the host's: the driver reports none of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from . import journal
from .host import Host, read_json

NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)
_UNITS = {"memory.total": "MiB", "memory.free": "MiB", "memory.used": "MiB", "utilization.gpu": "%", "power.draw": "W"}


def _fields(gpu: dict[str, Any]) -> dict[str, str]:
    return {
        "index": "0",
        "name": gpu["name"],
        "gpu_name": gpu["name"],
        "uuid": gpu["uuid"],
        "gpu_uuid": gpu["uuid"],
        "driver_version": gpu["driver"],
        "count": "1",
        "memory.total": "[N/A]",
        "memory.free": "[N/A]",
        "memory.used": "[N/A]",
        "utilization.gpu": "0",
        "temperature.gpu": "36",
        "power.draw": "3.41",
        "compute_cap": "12.1",
        "pci.bus_id": "0000000F:01:00.0",
        "pstate": "P8",
        "mig.mode.current": "[N/A]",
        "persistence_mode": "Enabled",
    }


def query(fields: dict[str, str], wanted: str, form: str) -> tuple[int, str]:
    names = [n.strip() for n in wanted.split(",")]
    for name in names:
        if name not in fields:
            return 2, f'Field "{name}" is not a valid field to query.\n'
    options = [o.strip() for o in form.split(",")]
    units = "nounits" not in options

    def shown(name: str) -> str:
        value = fields[name]
        return f"{value} {_UNITS[name]}" if units and name in _UNITS and value != "[N/A]" else value

    lines = [", ".join(shown(n) for n in names)]
    if "noheader" not in options:
        lines.insert(0, ", ".join(f"{n} [{_UNITS[n]}]" if units and n in _UNITS else n for n in names))
    return 0, "\n".join(lines) + "\n"


def screen(gpu: dict[str, Any]) -> str:
    bar = "+" + "-" * 89 + "+"
    cells = "+" + "-" * 41 + "+" + "-" * 24 + "+" + "-" * 22 + "+"
    title = f" NVIDIA-SMI {gpu['driver']:<22} Driver Version: {gpu['driver']:<14} CUDA Version: {gpu['cuda']}"
    rows = [
        ("   0  " + gpu["name"] + "                    On", "   0000000F:01:00.0 Off", "                  N/A"),
        (" N/A   36C    P8              3W /  N/A", " Not Supported", "      0%      Default"),
        ("", "", "                  N/A"),
    ]
    body = [f"|{a:<41}|{b:<24}|{c:<22}|" for a, b, c in rows]
    return "\n".join([time.strftime("%a %b %d %H:%M:%S %Y"), bar, f"|{title:<89}|", cells, *body, cells]) + "\n"


def run(gpu: dict[str, Any], argv: Sequence[str]) -> tuple[int, str]:
    if gpu.get("driver_broken"):
        return 9, NO_DRIVER
    options = dict(a.partition("=")[::2] for a in argv)
    if "-L" in options or "--list-gpus" in options:
        return 0, f"GPU 0: {gpu['name']} (UUID: {gpu['uuid']})\n"
    if "--query-gpu" in options:
        return query(_fields(gpu), options["--query-gpu"], options.get("--format", "csv"))
    if "--query-compute-apps" in options:
        header = "" if "noheader" in options.get("--format", "") else "pid, process_name, used_gpu_memory [MiB]\n"
        return 0, header
    if "--version" in options:
        return (
            0,
            f"NVIDIA-SMI version  : {gpu['driver']}\nDRIVER version      : {gpu['driver']}\n"
            f"CUDA Version        : {gpu['cuda']}\n",
        )
    return 0, screen(gpu)


def main(argv: Sequence[str]) -> int:
    started = time.monotonic()
    host = Host()
    gpu = read_json(host.state / "gpu.json", {})
    gpu["driver"] = str(host.look_at_fault("gpu_driver") or gpu.get("driver", ""))
    if host.fault("gpu_driver_broken"):
        gpu["driver_broken"] = True
    rc, text = run(gpu, argv)
    sys.stdout.write(text)
    journal.record(host, "nvidia-smi", argv, rc, started)
    return rc
