# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's network and control groups, by iproute2 and the cgroup file system."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from lab.paths import HOSTS_SIDE, NETWORK, OUTSIDE, Host, LabError


def ip_batch(lines: Iterable[str], netns: str | None = None) -> None:
    command = ["ip", *(["-n", netns] if netns else []), "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"ip: {done.stderr.strip() or 'failed'}")


def build(hosts: list[Host]) -> None:
    """A bridge and a cable to each host; called inside the lab's own network namespace."""
    prefix = NETWORK.prefixlen
    lines = [
        "link set lo up",
        "link add br0 type bridge",
        f"addr add {OUTSIDE}/{prefix} dev br0",
        f"addr add {HOSTS_SIDE}/{prefix} dev br0",
        "link set br0 up",
        # What lies beyond the lab is refused at once instead of swallowed, as by a router without a way out.
        "route add unreachable default",
    ]
    ip_batch(f"netns add {host.name}" for host in hosts)
    for host in hosts:
        lines += [
            f"link add {host.link} type veth peer name eth0 netns {host.name}",
            f"link set {host.link} master br0 up",
        ]
    ip_batch(lines)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    for host in hosts:
        ip_batch(
            [
                "link set lo up",
                f"addr add {host.address}/{prefix} dev eth0",
                "link set eth0 up",
                f"route add default via {OUTSIDE}",
            ],
            host.name,
        )


def set_cable(host: Host, plugged: bool) -> None:
    ip_batch([f"link set {host.link} {'up' if plugged else 'down'}"])


def filter_port(host: Host, port: int) -> None:
    """Packets to this TCP port vanish on their way into the host, as by a firewall that drops."""
    anywhere = "src 0.0.0.0/0 dst 0.0.0.0/0"
    ip_batch([f"xfrm policy update {anywhere} proto tcp dport {port} dir in action block"], host.name)


def unfilter(host: Host) -> None:
    ip_batch(["xfrm policy flush"], host.name)


def cgroup_mount(mounts: str) -> Path:
    """The cgroup2 hierarchy in a mount table: the whole of /sys/fs/cgroup, or a part of a hybrid one."""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1])
    raise LabError("no cgroup2 hierarchy is mounted on this machine; systemd on the hosts needs one")


def cgroup_root() -> Path:
    return cgroup_mount(Path("/proc/self/mounts").read_text())


def check_cgroups() -> None:
    """Can hosts have control groups of their own here? In a container without privileges they cannot."""
    root = cgroup_root()
    if not os.access(root, os.W_OK):
        raise LabError(f"{root} is read-only here (a container?); hosts need control groups of their own")


def remove_cgroup(top: Path) -> bool:
    """Remove a tree of control groups; true when nothing of it is left."""
    for directory, _subdirs, _files in os.walk(top, topdown=False):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return not top.exists()


def clean_cgroups(name: str, limit: float = 10.0) -> bool:
    """Remove a lab's control groups, waiting for processes that are just ending."""
    top = cgroup_root() / name
    deadline = time.monotonic() + limit
    while not remove_cgroup(top):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
