# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's one parent process.

Two processes share this file. The *keeper* runs on the machine: it starts the supervisor in new namespaces, waits
for its end, however that comes, and removes what the kernel does not (control groups, commands still running in
the lab's network). The *supervisor* is PID 1 of those namespaces: it builds the network, boots the hosts, starts
the components and restarts those that die. When it ends, the kernel ends everything below it.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import controlplane, hosts, netns, processes, wire
from lab.controlplane import Component
from lab.paths import API_PORT, OUTSIDE, Host, Lab, LabError

PR_SET_PDEATHSIG = 1
FIRST_BACKOFF, LAST_BACKOFF = 0.5, 15.0
STEADY = 60.0  # a component that lived this long starts anew with the first back-off
REBOOT_SIGNAL = signal.SIGRTMIN + 5  # systemd: start reboot.target
LOOK_EAGER, LOOK_PATIENT, LOOK_IDLE = 0.05, 0.5, 2.0  # seconds between two looks at what is not ready yet
EAGER = 60.0  # how long one looks eagerly after something ended or began
LOG_LIMIT = 32 * 2**20


def say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}", flush=True)


# --- keeper ---------------------------------------------------------------------------------------------------------


def keep(lab: Lab) -> int:
    """Run the supervisor in namespaces of its own and clean up after it."""
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    command += ["--mount-proc", sys.executable, "-m", "lab.supervisor", "supervise", "--state", str(lab.state)]
    libc = ctypes.CDLL(None, use_errno=True)

    def die_with_keeper() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()

    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_keeper)
    (lab.state / "pid").write_text(f"{child.pid}\n")

    def end(_signal: int, _frame: object) -> None:
        child.kill()

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, end)
    status = child.wait()
    say(f"the supervisor ended ({describe_end(status)})")
    processes.end_all(processes.of_lab(lab.state))
    netns.clean_cgroups(lab.cgroup)
    return 0


def describe_end(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


# --- supervisor -----------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """What the supervisor knows about one component."""

    component: Component
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    ready_after: float | None = None
    restarts: int = 0
    backoff: float = FIRST_BACKOFF
    due: float = 0.0
    last_end: str = ""
    held: bool = False

    def ended(self, status: str, now: float) -> None:
        lived = now - self.started
        self.process, self.ready_after, self.last_end = None, None, status
        self.backoff = FIRST_BACKOFF if lived > STEADY else min(self.backoff * 2, LAST_BACKOFF)
        self.restarts += 1
        self.due = now + self.backoff


@dataclass
class Machine:
    """What the supervisor knows about one host."""

    host: Host
    process: subprocess.Popen[bytes] | None = None
    boots: int = 0
    started: float = 0.0
    ready_after: float | None = None
    plugged: bool = True
    last_end: str = ""
    unplugged: bool = False  # its power, by request


def after_host_end(status: int) -> str:
    """What a host's end means: reboot(2) in a PID namespace shows as a signal to whoever waits for it."""
    if status in (-signal.SIGHUP, 128 + signal.SIGHUP):
        return "reboot"
    if status in (-signal.SIGINT, 128 + signal.SIGINT):
        return "poweroff"
    return "crash"


@dataclass
class Supervisor:
    lab: Lab
    cgroup: Path
    parts: dict[str, Running] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    born: float = field(default_factory=time.monotonic)
    tls: ssl.SSLContext | None = None

    # set-up

    def prepare(self) -> None:
        os.umask(0o022)
        (self.lab.state / "network").write_text(processes.network_of("self") + "\n")
        os.makedirs("/run/netns", exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)  # names of this lab only
        netns.build(self.lab.hosts)
        for component in controlplane.components(self.lab):
            if component.name not in self.lab.without:
                self.parts[component.name] = Running(component)
        self.machines = {host.name: Machine(host) for host in self.lab.hosts}

    # hosts

    def boot(self, machine: Machine) -> None:
        group = self.cgroup / machine.host.name
        group.mkdir(parents=True, exist_ok=True)
        procs = str(group / "cgroup.procs")

        def join_group() -> None:
            Path(procs).write_text("0")

        with open(self.lab.logs / f"host-{machine.host.name}.log", "ab") as log:
            machine.process = subprocess.Popen(
                hosts.boot_command(self.lab, machine.host),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=join_group,
            )
        machine.boots += 1
        machine.unplugged = False
        machine.started, machine.ready_after = time.monotonic(), None
        say(f"{machine.host.name}: boot {machine.boots}")

    def halt(self, machine: Machine) -> None:
        """Power loss."""
        if machine.process:
            machine.process.kill()

    def systemd_of(self, machine: Machine) -> int:
        """PID of the host's systemd in our own PID namespace."""
        assert machine.process
        pid = machine.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            raise LabError(f"{machine.host.name} is just starting or ending; try again")
        return int(children[0])

    def file_root(self, machine: Machine) -> Path:
        """The host's files, as the host sees them when it runs."""
        if machine.process:
            return Path(f"/proc/{self.systemd_of(machine)}/root")
        return self.lab.host_dir(machine.host.name) / "upper"

    # components

    def start(self, part: Running) -> None:
        component = part.component
        path = self.lab.logs / f"{component.name}.log"
        if path.exists() and path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
        with open(path, "ab") as log:
            part.process = subprocess.Popen(
                component.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.lab.state,
                env=controlplane.child_environment(self.lab, component),
            )
        if component.probe.startswith("@"):
            (self.lab.state / component.probe[1:]).unlink(missing_ok=True)
        part.started, part.ready_after = time.monotonic(), None
        say(f"{component.name}: started" + (f" again ({part.restarts})" if part.restarts else ""))

    def is_ready(self, probe: str) -> bool:
        if not probe:
            return True
        if probe.startswith("@"):
            return (self.lab.state / probe[1:]).exists()
        if probe.startswith("tcp://"):
            address, port = probe.removeprefix("tcp://").rsplit(":", 1)
            return connects(address, int(port))
        return self.api_answers(probe)

    def api_answers(self, path: str) -> bool:
        if self.tls is None:
            self.tls = ssl.create_default_context(cafile=str(self.lab.pki / "ca.crt"))
            self.tls.load_cert_chain(self.lab.pki / "admin.crt", self.lab.pki / "admin.key")
        try:
            connection = http.client.HTTPSConnection(OUTSIDE, API_PORT, context=self.tls, timeout=1)
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False

    # the loop

    def tick(self, now: float) -> bool:
        """Start what is due and note what became ready; true while something is still on its way."""
        pending = False
        for part in self.parts.values():
            if part.process is None:
                if part.held:
                    continue
                pending = True
                waits = any(self.parts[name].ready_after is None for name in part.component.after if name in self.parts)
                if not waits and now >= part.due:
                    self.start(part)
            elif part.ready_after is None:
                pending = True
                if self.is_ready(part.component.probe):
                    part.ready_after = time.monotonic() - part.started
        for machine in self.machines.values():
            if machine.process and machine.ready_after is None:
                pending = True
                if machine.plugged and greets(machine.host.address):
                    machine.ready_after = time.monotonic() - machine.started
                    say(f"{machine.host.name}: answers on ssh")
        return pending

    def reap(self) -> None:
        """Collect every ended process: ours, and orphans, whose parent we are as PID 1."""
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.one_ended(pid, os.waitstatus_to_exitcode(raw))

    def one_ended(self, pid: int, status: int) -> None:
        for part in self.parts.values():
            if part.process and part.process.pid == pid:
                part.process.returncode = status
                part.ended(describe_end(status), time.monotonic())
                say(f"{part.component.name}: ended ({part.last_end})")
                return
        for machine in self.machines.values():
            if machine.process and machine.process.pid == pid:
                machine.process.returncode = status
                machine.process, machine.ready_after = None, None
                machine.last_end = "power loss" if machine.unplugged else after_host_end(status)
                say(f"{machine.host.name}: ended ({machine.last_end}, {describe_end(status)})")
                if machine.last_end == "reboot":
                    self.boot(machine)
                return

    def run(self) -> None:
        self.prepare()
        for machine in self.machines.values():
            self.boot(machine)
        server = wire.listen(self.lab.socket)
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        pending, busy_until = True, time.monotonic() + EAGER
        while True:
            pause = LOOK_IDLE if not pending else LOOK_EAGER if time.monotonic() < busy_until else LOOK_PATIENT
            readable = select.select([server.fileno(), woken], [], [], pause)[0]
            if woken in readable:
                drain(woken)
                busy_until = time.monotonic() + EAGER
            self.reap()
            if server.fileno() in readable:
                self.answer(server)
            pending = self.tick(time.monotonic())

    # requests

    def answer(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(5)
            try:
                request = json.loads(connection.makefile("rb").readline())
                reply = self.request(**request)
            except LabError as error:
                reply = {"error": str(error)}
            except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
                reply = {"error": f"request failed: {error}"}
            try:
                connection.sendall(json.dumps(reply).encode() + b"\n")
            except OSError:
                return

    def request(self, verb: str, **arguments: Any) -> dict[str, Any]:
        verbs: dict[str, Callable[..., dict[str, Any]]] = {
            "status": self.status,
            "stop": self.stop_host,
            "start": self.start_host,
            "cut": self.cut_host,
            "heal": self.heal_host,
            "filter": self.filter_port,
            "unfilter": self.unfilter_host,
            "run": self.run_on_host,
            "reboot": self.reboot_host,
            "restart": self.restart_part,
            "hold": self.hold_part,
            "read": self.read_file,
            "write": self.write_file,
        }
        if verb not in verbs:
            raise LabError(f"the supervisor knows no {verb!r}")
        return verbs[verb](**arguments)

    def machine(self, host: str) -> Machine:
        self.lab.host(host)
        return self.machines[host]

    def part(self, component: str) -> Running:
        if component not in self.parts:
            raise LabError(f"no component {component!r}; there are {', '.join(self.parts)}")
        return self.parts[component]

    def host_status(self, machine: Machine, memory: bool = False) -> dict[str, Any]:
        ready = machine.ready_after is not None
        return {
            "address": machine.host.address,
            "kind": machine.host.kind,
            "running": machine.process is not None,
            "ready": ready,
            "ready_after": round(machine.ready_after, 2) if machine.ready_after is not None else None,
            "network": "up" if machine.plugged else "cut",
            "boots": machine.boots,
            "last_end": machine.last_end,
            "memory_mib": processes.group_memory(self.cgroup / machine.host.name) if memory else None,
        }

    def part_status(self, part: Running, memory: bool = False) -> dict[str, Any]:
        pid = part.process.pid if part.process else None
        return {
            "running": part.process is not None,
            "ready": part.ready_after is not None,
            "ready_after": round(part.ready_after, 2) if part.ready_after is not None else None,
            "pid": pid,  # in the lab's own PID namespace
            "restarts": part.restarts,
            "last_end": part.last_end,
            "held": part.held,
            "memory_mib": (processes.tree_memory(pid) if pid else 0) if memory else None,
        }

    def status(self, memory: bool = False) -> dict[str, Any]:
        """Everything; memory only when asked for, because the kernel counts pages for that."""
        self.tick(time.monotonic())
        known_hosts = {name: self.host_status(machine, memory) for name, machine in self.machines.items()}
        parts = {name: self.part_status(part, memory) for name, part in self.parts.items()}
        everything = [*known_hosts.values(), *parts.values()]
        return {
            "name": self.lab.name,
            "state": str(self.lab.state),
            "running": True,
            "ready": all(each["ready"] for each in everything),
            "uptime_s": round(time.monotonic() - self.born, 1),
            "memory_mib": processes.total_memory() if memory else None,
            "hosts": known_hosts,
            "components": parts,
        }

    def stop_host(self, host: str) -> dict[str, Any]:
        machine = self.machine(host)
        machine.unplugged = True
        self.halt(machine)
        while machine.process:
            self.wait_for_end(machine)
        return self.host_status(machine)

    def wait_for_end(self, machine: Machine) -> None:
        assert machine.process
        try:
            machine.process.wait(timeout=10)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{machine.host.name} does not end") from error
        self.one_ended(machine.process.pid, machine.process.returncode)

    def start_host(self, host: str) -> dict[str, Any]:
        machine = self.machine(host)
        if not machine.process:
            self.boot(machine)
        return self.host_status(machine)

    def cut_host(self, host: str) -> dict[str, Any]:
        return self.set_cable(host, False)

    def heal_host(self, host: str) -> dict[str, Any]:
        return self.set_cable(host, True)

    def set_cable(self, host: str, plugged: bool) -> dict[str, Any]:
        machine = self.machine(host)
        netns.set_cable(machine.host, plugged)
        machine.plugged = plugged
        return self.host_status(machine)

    def filter_port(self, host: str, port: int) -> dict[str, Any]:
        netns.filter_port(self.machine(host).host, port)
        return {"filtered": port}

    def unfilter_host(self, host: str) -> dict[str, Any]:
        netns.unfilter(self.machine(host).host)
        return {"filtered": None}

    def run_on_host(self, host: str, argv: list[str]) -> dict[str, Any]:
        """Run a program of the host that takes no time; nothing where the host is off."""
        machine = self.machine(host)
        if not machine.process:
            return {"rc": None, "output": ""}
        command = ["nsenter", "-t", str(self.systemd_of(machine)), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run([*command, *argv], capture_output=True, text=True, timeout=15, env=environment)
        return {"rc": done.returncode, "output": (done.stdout + done.stderr).strip()}

    def reboot_host(self, host: str) -> dict[str, Any]:
        machine = self.machine(host)
        if not machine.process:
            raise LabError(f"{host} is off; start it")
        os.kill(self.systemd_of(machine), REBOOT_SIGNAL)
        return self.host_status(machine)

    def restart_part(self, component: str) -> dict[str, Any]:
        """End it (SIGKILL: a crash); the loop starts it again."""
        part = self.part(component)
        part.held = False
        part.due = 0.0
        if part.process:
            part.process.kill()
        return self.part_status(part)

    def hold_part(self, component: str) -> dict[str, Any]:
        """End it and leave it down until it is restarted."""
        part = self.part(component)
        part.held = True
        if part.process:
            part.process.kill()
        return self.part_status(part)

    def read_file(self, host: str, path: str) -> dict[str, Any]:
        target = self.file_root(self.machine(host)) / path.lstrip("/")
        return {"text": target.read_text(errors="replace") if target.exists() else None}

    def write_file(self, host: str, path: str, text: str | None) -> dict[str, Any]:
        """Write a file of a host (None removes it) through the host's own mounts, so that it sees it at once."""
        target = self.file_root(self.machine(host)) / path.lstrip("/")
        if text is None:
            target.unlink(missing_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + ".new")
            partial.write_text(text)
            partial.replace(target)
        return {"written": path}


def connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=0.3).close()
    except OSError:
        return False
    return True


def greets(address: str) -> bool:
    """Does sshd say its name there?"""
    try:
        with socket.create_connection((address, 22), timeout=0.2) as client:
            return client.recv(4) == b"SSH-"
    except OSError:
        return False


def drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        return


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab.supervisor")
    parser.add_argument("role", choices=["keep", "supervise"])
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    lab = Lab.load(arguments.state)
    if arguments.role == "keep":
        return keep(lab)
    # PID 1 takes no default action on a signal: ending must be asked for. Its end is the end of all.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: os._exit(0))
    Supervisor(lab, netns.cgroup_root() / lab.cgroup).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
