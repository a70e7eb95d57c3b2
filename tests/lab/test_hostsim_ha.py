# SPDX-License-Identifier: GPL-3.0-or-later
"""Several controllers: joining as a control plane, dqlite's members and majority, leaving, and the workers' proxy."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.hostsim.snapsim import dqlite, endpoints, ports
from lab.hostsim.snapsim.dqlite import SPARE, STANDBY, VOTER, Member
from tests.lab.hostsim_harness import FakeApi, SimHost, api_server, eventually

NET = f"127.79.{os.getpid() % 250 + 1}"
API = f"{NET}.9"


def address(number: int) -> str:
    return f"{NET}.{number}"


# -- roles


def members(*roles: int) -> list[Member]:
    return [Member(f"10.0.0.{n}:19001", n, role) for n, role in enumerate(roles, 1)]


def up(*numbers: int) -> set[str]:
    return {f"10.0.0.{n}:19001" for n in numbers}


@pytest.mark.parametrize(
    ("roles", "alive", "first"),
    [
        ([VOTER], [1], 1),
        ([VOTER, SPARE], [1], 1),
        ([VOTER, SPARE], [2], 0),
        ([VOTER, VOTER, VOTER], [2, 3], 2),
        ([VOTER, VOTER, VOTER], [3], 0),
        ([VOTER, VOTER, VOTER, STANDBY], [3, 4], 0),
    ],
)
def test_only_a_majority_of_voters_has_a_leader(roles: list[int], alive: list[int], first: int) -> None:
    assert dqlite.leader(members(*roles), up(*alive)) == (f"10.0.0.{first}:19001" if first else "")


@pytest.mark.parametrize(
    ("before", "role"),
    [([VOTER], SPARE), ([VOTER, SPARE], VOTER), ([VOTER] * 3, STANDBY), ([VOTER] * 3 + [STANDBY] * 3, SPARE)],
)
def test_role_of_a_new_member(before: list[int], role: int) -> None:
    assert dqlite.role_for_new(members(*before)) == role


@pytest.mark.parametrize(
    ("before", "alive", "after"),
    [
        ([VOTER, SPARE, VOTER], [1, 2, 3], [VOTER, VOTER, VOTER]),
        ([VOTER, VOTER], [1, 2], [VOTER, SPARE]),
        ([VOTER, VOTER, VOTER], [1, 2], [VOTER, VOTER, VOTER]),
        ([VOTER, VOTER, VOTER, STANDBY], [1, 2, 4], [VOTER, VOTER, STANDBY, VOTER]),
    ],
)
def test_leader_gives_out_roles(before: list[int], alive: list[int], after: list[int]) -> None:
    found = dqlite.adjusted(members(*before), up(*alive), "10.0.0.1:19001")
    assert [m.role for m in found] == after


# -- three controllers


class Trio:
    def __init__(self, folder: Path, api: FakeApi) -> None:
        self.api = api
        base = {"api": api.url, "role_delay": 0.5}
        self.hosts = {
            n: SimHost(folder / f"c{n}", {"hostname": f"controller-0{n}", "address": address(n), **base})
            for n in (1, 2, 3)
        }
        for n, host in self.hosts.items():
            host.install("1.34/stable")
            (host.host.common / "etc/launcher/install.yaml").unlink()
            api.add_node(f"controller-0{n}", address(n))
        self.datastores: dict[int, subprocess.Popen[bytes]] = {}

    def join(self, number: int) -> subprocess.CompletedProcess[str]:
        """The joiner's and the contacted one's datastores are started when systemd would start them."""
        first, joiner = self.hosts[1], self.hosts[number]
        token = first.token()
        done: list[subprocess.CompletedProcess[str]] = []
        call = threading.Thread(target=lambda: done.append(joiner.microk8s("join", f"{address(1)}:25000/{token}")))
        call.start()
        eventually(lambda: (joiner.host.backend / "init.yaml").exists() or not call.is_alive())
        for n in (1, number):
            if n not in self.datastores:
                self.start(n)
        call.join(30)
        return done[0]

    def start(self, number: int) -> None:
        self.datastores[number] = self.hosts[number].start("dqlite")

    def stop(self, number: int) -> None:
        self.datastores[number].kill()
        self.datastores.pop(number).wait()

    def voters(self, number: int) -> list[str]:
        return [m.ip for m in dqlite.read(self.hosts[number].host) if m.role == VOTER]

    def open(self, number: int) -> bool:
        return self.hosts[number].host.quorum_file.exists()


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    folder = tmp_path_factory.mktemp("trio")
    with api_server(folder / "c1/var/lib/snapsim/seed", API) as api:
        api.put("api/v1", "services", "default", "kubernetes")
        made = Trio(folder, api)
        made.hosts[1].start_agent()
        try:
            yield made
        finally:
            for host in made.hosts.values():
                host.stop()


def test_control_plane_join_takes_the_cluster_over(trio: Trio) -> None:
    first, second = trio.hosts[1], trio.hosts[2]
    with open(first.data / "args/kubelet", "a") as out:
        out.write("--max-pods=77\n")
    locks = second.locks()
    done = trio.join(2)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"Contacting cluster at {address(1)}"
    assert lines[1].startswith("Waiting for this node to finish joining the cluster. ")
    assert lines[-1] == "Successfully joined the cluster."
    for name in ("ca.crt", "ca.key", "serviceaccount.key"):
        assert (second.data / "certs" / name).read_text() == (first.data / "certs" / name).read_text()
        assert (second.data / "certs" / f"{name}.backup").exists()
    assert (second.host.backend / "cluster.key").read_text() == (first.host.backend / "cluster.key").read_text()
    assert (second.data / "args/kubelet").read_text() == (first.data / "args/kubelet").read_text()
    assert second.locks() == sorted([*locks, "no-cert-reissue"]), "no lock of a worker"
    assert second.host.api_url == trio.api.url
    assert trio.voters(1) == [address(1)], "of two members one votes"
    assert second.microk8s("status").stdout.splitlines()[1] == "high-availability: no"


def test_a_member_is_refused_a_second_time(trio: Trio) -> None:
    again = trio.hosts[2].microk8s("join", f"{address(1)}:25000/{trio.hosts[1].token()}")
    assert again.returncode == 6
    assert f"the joining node ({address(2)}) is already known to dqlite (500)." in again.stdout


def test_three_are_highly_available_and_a_majority_is_needed(trio: Trio) -> None:
    assert trio.join(3).returncode == 0
    everyone = [address(n) for n in (1, 2, 3)]
    eventually(lambda: all(trio.voters(n) == everyone for n in (1, 2, 3)))
    lines = trio.hosts[3].microk8s("status").stdout.splitlines()
    assert lines[1] == "high-availability: yes"
    assert lines[2] == "  datastore master nodes: " + " ".join(f"{a}:19001" for a in everyone)
    eventually(lambda: all(trio.open(n) for n in (1, 2, 3)))
    trio.stop(1)
    eventually(lambda: trio.open(2) and trio.open(3))
    trio.stop(2)
    eventually(lambda: not trio.open(3))
    refused = trio.hosts[2].microk8s("join", f"{address(1)}:25000/{trio.hosts[1].token()}")
    assert refused.returncode == 6
    trio.start(1)
    trio.start(2)
    eventually(lambda: all(trio.open(n) for n in (1, 2, 3)))


def test_leaving_and_removing(trio: Trio) -> None:
    refused = trio.hosts[1].microk8s("remove-node", "controller-03")
    assert (refused.returncode, "is registered with dqlite" in refused.stdout) == (1, True)
    trio.stop(3)
    assert trio.hosts[1].microk8s("remove-node", "controller-03", "--force").returncode == 0
    assert address(3) not in [m.ip for m in dqlite.read(trio.hosts[1].host)]
    assert ("api/v1", "nodes", "", "controller-03") not in trio.api.objects
    eventually(lambda: trio.voters(1) == [address(1)])
    assert trio.hosts[1].microk8s("leave").returncode == 3, "the only voter"
    left = trio.hosts[2].microk8s("leave")
    assert left.returncode == 0, left.stdout
    assert left.stdout.splitlines()[0] == "Generating new cluster certificates."
    assert [m.ip for m in dqlite.read(trio.hosts[1].host)] == [address(1)]
    ca = (trio.hosts[2].data / "certs/ca.crt").read_text()
    assert ca != (trio.hosts[1].data / "certs/ca.crt").read_text()
    assert trio.hosts[2].host.api_url == ""


def test_a_wrong_cluster_key_is_not_listened_to(trio: Trio) -> None:
    daemon = dqlite.Daemon(trio.hosts[1].host)
    assert daemon.handle({"key": "x", "verb": "remove", "address": f"{address(1)}:19001"})["error"]


# -- where the control plane is


def ready(name: str, ip: str, status: str = "True") -> dict[str, object]:
    return {
        "metadata": {"labels": {"node.kubernetes.io/microk8s-controlplane": "x"}},
        "status": {
            "conditions": [{"type": "Ready", "status": status}],
            "addresses": [{"type": "InternalIP", "address": ip}],
        },
    }


def test_endpoints_are_those_that_run_and_workers_follow(trio: Trio) -> None:
    host, api = trio.hosts[1].host, trio.api
    key = ("api/v1", "endpoints", "default", "kubernetes")
    for number, state in ((1, "Unknown"), (2, "True"), (3, "Unknown")):
        api.put("api/v1", "nodes", "", f"controller-0{number}", ready("", address(number), state))
    client = endpoints.kube.server_client(host)
    endpoints.announce(host, client)
    assert endpoints.addresses_of(api.objects[key]) == [address(1), address(2)], "the asking one and the ready one"
    endpoints.follow(host, client)
    provider = host.args / "traefik/provider.yaml"
    assert ports.endpoints(provider.read_text()) == [f"{address(n)}:16443" for n in (1, 2)]
    (host.args / "apiserver-proxy").write_text("--refresh-interval=0s\n")
    provider.write_text("mine\n")
    endpoints.follow(host, client)
    assert provider.read_text() == "mine\n"


def test_proxy_takes_an_endpoint_that_answers(tmp_path: Path) -> None:
    provider = tmp_path / "provider.yaml"
    listener = socket.create_server((address(4), 0))
    port = listener.getsockname()[1]
    provider.write_text(f"        - address: {address(5)}:1\n        - address: {address(4)}:{port}\n")
    proxy = ports.Proxy(provider)
    here = socket.create_server((address(6), 0))
    threading.Thread(target=proxy.run, args=(here,), daemon=True).start()
    with socket.create_connection(here.getsockname(), 5) as client:
        there, _peer = listener.accept()
        client.sendall(b"question")
        assert there.recv(64) == b"question"
        there.sendall(b"answer")
        assert client.recv(64) == b"answer"
        there.close()
        assert client.recv(64) == b""
    listener.close()
    with socket.create_connection(here.getsockname(), 5) as client:
        assert client.recv(64) == b"", "no endpoint answers: closed at once"
