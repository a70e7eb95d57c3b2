# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated dqlite: who belongs to the datastore, and whether enough voters run for it to answer.

The data itself is the lab's etcd; what is played here is membership (`cluster.yaml`, `info.yaml`), the roles that
go-dqlite gives out, the leader through which every change goes, and the majority without which the API server
behind port 16443 is of no use. Members speak one JSON line each way on port 19001 and show that they have the
cluster's key.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from .host import Host, write_file
from .units import Services

PORT = 19001
VOTER, STANDBY, SPARE = 0, 1, 2
ROLES = ("voter", "standby", "spare")
VOTERS, STANDBYS = 3, 3  # how many of each go-dqlite wants
PATIENCE = 0.5
ELECTION = 4.0


class Member(NamedTuple):
    address: str
    id: int
    role: int

    @property
    def ip(self) -> str:
        return self.address.rpartition(":")[0]


class DqliteError(Exception):
    """No majority, no leader, or not a member."""


# -- files
def render(members: Sequence[Member]) -> str:
    return "".join(f"- Address: {m.address}\n  ID: {m.id}\n  Role: {m.role}\n" for m in members)


def read(host: Host) -> list[Member]:
    """The members as this host knows them, in the order of their addresses."""
    try:
        text = (host.backend / "cluster.yaml").read_text()
    except FileNotFoundError:
        return []
    found = re.findall(r"Address: (\S+)\n\s+ID: (\d+)\n\s+Role: (\d)", text)
    return sorted(Member(address, int(number), int(role)) for address, number, role in found)


def version(host: Host) -> int:
    """How many changes of the membership this host has seen."""
    try:
        return int((host.backend / "metadata1").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def write(host: Host, members: Sequence[Member], number: int) -> None:
    write_file(host.backend / "cluster.yaml", render(members), 0o660)
    mine = next((m for m in members if m.address == own_address(host)), None)
    if mine is not None:
        write_info(host, mine)
    write_file(host.backend / "metadata1", f"{number}\n", 0o660)


def write_info(host: Host, mine: Member) -> None:
    text = f"Address: {mine.address}\nID: {mine.id}\nRole: {mine.role}\n"
    write_file(host.backend / "info.yaml", text, 0o660)


def own_address(host: Host) -> str:
    return _field(host, "info.yaml", "Address")


def _field(host: Host, name: str, key: str) -> str:
    try:
        found = re.search(rf"^{key}: (\S+)", (host.backend / name).read_text(), re.MULTILINE)
    except FileNotFoundError:
        return ""
    return found[1] if found else ""


def member_id(host: Host) -> int:
    return int.from_bytes(hashlib.sha256(host.node_name.encode()).digest()[:8], "big")


def key_of(host: Host) -> str:
    return hashlib.sha256((host.backend / "cluster.key").read_bytes()).hexdigest()


# -- who has which role
def leader(members: Sequence[Member], alive: set[str]) -> str:
    """The voter that decides, or nothing without a majority of voters."""
    voters = [m.address for m in members if m.role == VOTER]
    running = [address for address in voters if address in alive]
    return running[0] if 2 * len(running) > len(voters) else ""


def role_for_new(members: Sequence[Member]) -> int:
    """A cluster of two keeps one voter; from three on there are three, then stand-bys, then spares."""
    if len(members) + 1 < VOTERS:
        return SPARE
    if sum(m.role == VOTER for m in members) < VOTERS:
        return VOTER
    return STANDBY if sum(m.role == STANDBY for m in members) < STANDBYS else SPARE


def adjusted(members: Sequence[Member], alive: set[str], first: str) -> list[Member]:
    """What the leader `first` makes of the roles: running members replace voters that are gone."""
    if len(members) < VOTERS:
        return [m._replace(role=VOTER if m.address == first else SPARE) for m in members]
    # The leader stays, then running voters, running stand-bys, running spares; those that are gone come last.
    order = sorted(members, key=lambda m: (m.address != first, m.address not in alive, m.role))
    roles = {m.address: VOTER if i < VOTERS else STANDBY if i < VOTERS + STANDBYS else SPARE
             for i, m in enumerate(order)}  # fmt: skip
    return [m._replace(role=roles[m.address]) for m in members]


# -- asking others
def ask(address: str, request: dict[str, Any], timeout: float = PATIENCE) -> dict[str, Any] | None:
    """One question to the member at `address`; None when it does not answer."""
    ip, _, port = address.rpartition(":")
    try:
        with socket.create_connection((ip, int(port)), timeout) as there:
            there.settimeout(timeout)
            there.sendall(json.dumps(request).encode() + b"\n")
            with there.makefile("rb") as stream:
                line = stream.readline()
        return dict(json.loads(line)) if line else None
    except (OSError, ValueError):
        return None


def change(host: Host, verb: str, address: str, through: Sequence[str] = (), number: int = 0) -> dict[str, Any]:
    """Have the leader `add` or `remove` a member; `through` are the members to begin with (default: all known).

    A leader that has just gone is noticed by the others within some seconds: so long one tries.
    """
    request = {"key": key_of(host), "verb": verb, "address": address, "id": number}
    end = time.monotonic() + ELECTION
    while True:
        todo, tried = list(through) or [m.address for m in read(host)], set()
        while todo:
            here = todo.pop(0)
            if here in tried:
                continue
            tried.add(here)
            answer = ask(here, request, timeout=5)
            if answer and "error" not in answer:
                return answer
            if answer and answer.get("leader"):
                todo.insert(0, answer["leader"])
        if time.monotonic() > end:
            raise DqliteError("no available dqlite leader server found")
        time.sleep(0.5)


def running(host: Host, members: Sequence[Member] | None = None) -> set[str]:
    """Addresses of the members whose datastore answers; a member that asks counts itself."""
    known = read(host) if members is None else members
    state = {"key": key_of(host), "verb": "state"}
    mine = own_address(host)
    return {m.address for m in known if m.address == mine or ask(m.address, state)}


def has_quorum(host: Host) -> bool:
    members = read(host)
    return bool(leader(members, running(host, members)))


# -- the daemon
class Daemon:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.busy = threading.Lock()
        self.alive: set[str] = set()
        self.gone_since: dict[str, float] = {}
        self.adjusted_at = time.monotonic()
        self.open = False

    # requests of others
    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("key") != key_of(self.host):
            return {"error": "tls: bad certificate"}
        with self.busy:
            self.learn(request)
            if request["verb"] == "state":
                return self.state()
            return self.decide(str(request["verb"]), str(request["address"]), int(request.get("id") or 0))

    def state(self) -> dict[str, Any]:
        return {"version": version(self.host), "members": read(self.host)}

    def learn(self, told: dict[str, Any]) -> None:
        if int(told.get("version", 0)) > version(self.host):
            write(self.host, [Member(*m) for m in told["members"]], int(told["version"]))

    def decide(self, verb: str, address: str, number: int) -> dict[str, Any]:
        members, mine = read(self.host), own_address(self.host)
        first = leader(members, self.alive | {mine})
        if first != mine:
            return {"error": "not the leader", "leader": first}
        if verb == "add" and all(m.address != address for m in members):
            members = sorted([*members, Member(address, number, role_for_new(members))])
        if verb == "remove":
            members = [m for m in members if m.address != address]
        if members != read(self.host):
            write(self.host, members, version(self.host) + 1)
        return self.state()

    def serve(self, listener: socket.socket) -> None:
        while True:
            there, _peer = listener.accept()
            with there:
                there.settimeout(PATIENCE)
                try:
                    with there.makefile("rb") as stream:
                        answer = self.handle(json.loads(stream.readline()))
                    there.sendall(json.dumps(answer).encode() + b"\n")
                except (OSError, ValueError, KeyError, TypeError):
                    continue

    # own work
    def enter(self) -> None:
        """Become a member of the cluster that `init.yaml` names; for ever, as the real one."""
        path = self.host.backend / "init.yaml"
        if not path.exists():
            return
        address = _field(self.host, "init.yaml", "Address")
        voters = re.findall(r"^\s*- (\S+)$", path.read_text(), re.MULTILINE)
        mine = Member(address, member_id(self.host), SPARE)
        while True:
            try:
                answer = change(self.host, "add", address, voters, mine.id)
                break
            except DqliteError as error:
                print(f"k8s-dqlite: {error}", file=sys.stderr, flush=True)
                time.sleep(1)
        write_info(self.host, mine)
        write(self.host, [Member(*m) for m in answer["members"]], int(answer["version"]))
        path.unlink()

    def tick(self) -> None:
        mine = own_address(self.host)
        told = {"key": key_of(self.host), "verb": "state", **self.state()}
        answers = {m.address: ask(m.address, told) for m in read(self.host) if m.address != mine}
        with self.busy:
            for answer in answers.values():
                if answer and "error" not in answer:
                    self.learn(answer)
            members = read(self.host)
            self.alive = {a for a, answer in answers.items() if answer and "error" not in answer} | {mine}
            first = leader(members, self.alive)
            if first == mine:
                self.adjust(members)
        self.set_open(bool(first) and any(m.address == mine for m in members))

    def adjust(self, members: list[Member]) -> None:
        """A voter that is gone keeps its role for a while: it may only be restarting."""
        now, delay = time.monotonic(), self.host.settings.role_delay
        gone = {m.address for m in members} - self.alive
        self.gone_since = {a: self.gone_since.get(a, now) for a in gone}
        patient = self.alive | {a for a, since in self.gone_since.items() if now - since < delay}
        if now - self.adjusted_at < delay:
            return
        self.adjusted_at = now
        wanted = adjusted(members, patient, own_address(self.host))
        if wanted != members:
            write(self.host, wanted, version(self.host) + 1)

    def set_open(self, on: bool) -> None:
        """Tell the API server's port whether the datastore answers; again when a restart of kubelite came between."""
        if on != self.open or (on and Services(self.host).api_port_missing()):
            self.open = on
            announce(self.host, on)

    def run(self) -> None:
        announce(self.host, False)
        self.enter()
        ip, _, port = own_address(self.host).rpartition(":")
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, int(port)))
        listener.listen(16)
        threading.Thread(target=self.serve, args=(listener,), daemon=True).start()
        while True:
            self.tick()
            time.sleep(1)


def announce(host: Host, on: bool) -> None:
    if on:
        host.quorum_file.parent.mkdir(parents=True, exist_ok=True)
        host.quorum_file.touch()
    else:
        host.quorum_file.unlink(missing_ok=True)
    Services(host).api_port(on)


def main(argv: Sequence[str]) -> int:
    host = Host()
    if "--stopped" in argv:
        announce(host, False)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Daemon(host).run()
    return 0
