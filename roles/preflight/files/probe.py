# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a host and print what was found as JSON. Reads only; runs on any Python 3 with nothing installed.

The argument is JSON: the control node's time, the host's cluster address, the peers that it must reach, the ports that
MicroK8s will need, and the directories whose file systems count.
"""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time

ARRIVED = time.time()


def text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def release():
    fields = dict(line.split("=", 1) for line in text("/etc/os-release").splitlines() if "=" in line)
    return " ".join(fields.get(key, "?").strip("\"'") for key in ("NAME", "VERSION_ID"))


def memory():
    for line in text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def space(path):
    """The file system on which a directory is, or will be."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    total, _used, free = shutil.disk_usage(path)
    return {"total": total, "free": free}


def can_bind(address, port):
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError:
        return False
    return True


def unreachable(peers):
    """Peers that swallow packets or have no way to them. One that refuses is there, only not installed yet."""
    lost = []

    def reach(name, address, port):
        try:
            socket.create_connection((address, port), timeout=5).close()
        except ConnectionRefusedError:
            pass
        except OSError as error:
            lost.append([name, f"{address}:{port}", str(error.strerror or error)])

    threads = [threading.Thread(target=reach, args=tuple(peer)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(lost)


def gpu():
    program = shutil.which("nvidia-smi")
    if not program:
        return {"error": "nvidia-smi is not installed", "names": [], "driver": ""}
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return {"error": "nvidia-smi does not answer", "names": [], "driver": ""}
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        return {"error": output.splitlines()[0] if output else "nvidia-smi failed", "names": [], "driver": ""}
    rows = [line.split(", ") for line in output.splitlines()]
    return {"error": "", "names": [row[0] for row in rows], "driver": rows[0][-1]}


def main():
    wanted = json.loads(sys.argv[1])
    installed = os.path.exists("/snap/bin/microk8s")
    try:
        address = socket.gethostbyname(wanted["address"])
    except OSError:
        address = ""
    print(
        json.dumps(
            {
                "release": release(),
                "machine": platform.machine(),
                "kernel": platform.release(),
                "python": list(sys.version_info[:2]),
                "host_name": socket.gethostname(),
                "memory": memory(),
                "spaces": {path: space(path) for path in wanted["paths"]},
                "skew": ARRIVED - wanted["sent"],
                "root": os.geteuid() == 0,
                "snapd": shutil.which("snap") is not None,
                "own_address": bool(address) and can_bind(address, 0),
                "ports_taken": [] if installed else [port for port in wanted["ports"] if not can_bind("", port)],
                "unreachable": unreachable(wanted["peers"]),
                "gpu": gpu() if wanted["gpu"] else None,
                "runtime": os.path.exists("/usr/bin/nvidia-container-runtime"),
            }
        )
    )


main()
