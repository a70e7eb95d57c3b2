# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at processes through /proc: memory, and which of them belong to a lab."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    pid: int
    command: str


def pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def memory_kib(pid: int) -> int:
    """Private and shared-in-proportion memory of one process; its resident set where the kernel does not tell."""
    for name, label in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            for line in (PROC / str(pid) / name).read_text().splitlines():
                if line.startswith(label):
                    return int(line.split()[1])
        except OSError:
            continue
    return 0


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in (PROC / f"{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def tree(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        found += children(each)
    return found


def tree_memory(pid: int) -> int:
    return sum(memory_kib(each) for each in tree(pid)) // 1024


def total_memory() -> int:
    """Everything in this PID namespace; asked by the supervisor, that is the whole lab."""
    return sum(memory_kib(each) for each in pids()) // 1024


def group_memory(group: Path) -> int:
    total = 0
    for directory, _subdirs, files in os.walk(group):
        if "cgroup.procs" in files:
            try:
                listed = (Path(directory) / "cgroup.procs").read_text().split()
            except OSError:
                continue
            total += sum(memory_kib(int(pid)) for pid in listed if int(pid))
    return total // 1024


def _parent(pid: int) -> int:
    try:
        return int((PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> str:
    try:
        return (PROC / f"{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _lineage(pid: int) -> set[int]:
    found = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        pid = _parent(pid)
    return found


def network_of(pid: int | str) -> str:
    try:
        return os.readlink(PROC / f"{pid}/ns/net")
    except OSError:
        return ""


def of_lab(state: Path) -> list[Process]:
    """Processes started in the network of the lab with this state directory, but us and our ancestors.

    Two signs must agree: the network namespace (its number may be in use again) and the environment (anybody may
    have copied it).
    """
    try:
        network = (state / "network").read_text().strip()
    except OSError:
        return []
    mark = f"TOKENLABS_LAB={state}".encode()
    ours = _lineage(os.getpid())
    found = []
    for pid in pids():
        if pid in ours or network_of(pid) != network:
            continue
        try:
            marked = mark in (PROC / f"{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if marked and _command(pid):
            found.append(Process(pid, _command(pid)))
    return found


def holders(pid: int) -> list[Process]:
    """The process that holds a lab's namespaces, the supervisor below it, and the keeper above."""
    keeper = _parent(pid)
    pids_found = [*children(pid), pid, *([keeper] if "lab.supervisor keep" in _command(keeper) else [])]
    return [Process(each, _command(each)) for each in pids_found]


def end_all(found: Iterable[Process], patience: float = 2.0, kill_at_once: bool = False) -> None:
    """SIGTERM, and SIGKILL for what is still there after a while; by pidfd, so that no pid is mistaken."""
    open_fds = {}
    for process in found:
        try:
            open_fds[os.pidfd_open(process.pid)] = process
        except ProcessLookupError:
            continue
    try:
        for name in (signal.SIGKILL,) if kill_at_once else (signal.SIGTERM, signal.SIGKILL):
            waiting = [fd for fd in open_fds if not _ended(fd, 0)]
            for fd in waiting:
                try:
                    signal.pidfd_send_signal(fd, name)
                except ProcessLookupError:
                    continue
            deadline = time.monotonic() + patience
            for fd in waiting:
                _ended(fd, max(0.0, deadline - time.monotonic()))
    finally:
        for fd in open_fds:
            os.close(fd)


def _ended(fd: int, timeout: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout * 1000))
