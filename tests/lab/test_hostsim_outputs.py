# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated `microk8s` against outputs recorded from MicroK8s' own commands (microk8s_outputs.json).

56 recorded calls and four recordings of files. In the file, TOKEN, CHECK, CONTROLLER, NOWHERE and N stand
for what differs from run to run; tracebacks are cut to their first and last line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.hostsim.snapsim import tree
from tests.lab.hostsim_harness import FakeApi, SimHost, api_server

CASES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("microk8s_outputs.json").read_text())
NET = f"127.77.{os.getpid() % 250 + 1}"
CONTROLLER, NOWHERE, JOINER, API = (f"{NET}.{n}" for n in (2, 3, 4, 5))
AGREED: dict[str, bool] = {}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SimHost, FakeApi]]:
    """A controller with addresses as in the recordings, and its API."""
    root = tmp_path_factory.mktemp("single")
    with api_server(root / "var/lib/snapsim/seed", API) as api:
        host = SimHost(root, {"hostname": "vm", "address": "192.0.2.2", "addresses": ["192.0.2.2", "fd00::2"],
                              "api": api.url})  # fmt: skip
        yield host.install(), api


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimHost]:
    """A controller whose cluster-agent can be joined."""
    root = tmp_path_factory.mktemp("controller")
    with api_server(root / "var/lib/snapsim/seed", API):
        host = SimHost(root, {"hostname": "controller", "address": CONTROLLER}).install()
        (host.host.common / "etc/launcher/install.yaml").unlink()
        (host.data / "args/kube-apiserver").write_text("--authorization-mode=RBAC,Node\n")
        with open(host.data / "args/kubelet", "a") as out:
            out.write("--system-reserved=memory=8Gi\n--register-with-taints=a=b:NoSchedule\n")
        host.start_agent()
        try:
            yield host
        finally:
            host.stop()


@pytest.fixture(scope="module")
def joiner(tmp_path_factory: pytest.TempPathFactory) -> SimHost:
    return SimHost(tmp_path_factory.mktemp("joiner"), {"hostname": "vm", "address": JOINER}).install()


def stage(host: SimHost, api: FakeApi, state: str) -> None:
    """Bring the single node into a recorded state."""
    api.objects.clear()
    api.put("api/v1", "services", "default", "kubernetes")
    api.put("api/v1", "pods", "kube-system", "coredns-5986966c54-abcde")
    api.add_node("vm", "192.0.2.2", cordoned=state == "cordoned")
    for lock in ("stopped.lock", "clustered.lock"):
        host.host.lock(lock).unlink(missing_ok=True)
    tree.make_backend(host.host)
    backend = host.host.backend / "cluster.yaml"
    if state == "stopped":
        host.host.lock("stopped.lock").touch()
    if state == "worker":
        host.host.lock("clustered.lock").touch()
    if state == "ha":
        backend.write_text("".join(f"- Address: 192.0.2.{n}:19001\n  ID: {n}\n  Role: 0\n" for n in (3, 1, 2)))
    if state == "members":
        api.add_node("spark-01", "192.0.2.1")
        api.add_node("spark-02", "192.0.2.9")
        backend.write_text("".join(f"- Address: 192.0.2.{n}:19001\n  ID: {n}\n  Role: 0\n" for n in (1, 2)))


def normal(text: str) -> str:
    text = re.sub(r"Traceback \(most recent call last\):\n(?:.*\n)*?(\w*Error\b.*)",
                  r"Traceback (most recent call last):\n...\n\1", text)  # fmt: skip
    text = re.sub(r"\b[0-9a-f]{32}/[0-9a-f]{12}\b", "TOKEN/CHECK", text)
    text = re.sub(r"revision \d+", "revision N", text)
    return text.replace(CONTROLLER, "CONTROLLER").replace(NOWHERE, "NOWHERE").strip("\n")


def check(name: str, done: Any) -> None:
    case = CASES[name]
    AGREED[name] = False
    assert done.returncode == case["rc"], done.stderr
    assert normal(done.stdout) == case["stdout"]
    assert normal(done.stderr) == case["stderr"]
    AGREED[name] = True


def of_single_host(name: str) -> bool:
    return CASES[name]["state"] != "joiner" and name != "config"


@pytest.mark.parametrize("name", sorted(filter(of_single_host, CASES)))
def test_call_answers_as_recorded(name: str, cluster: tuple[SimHost, FakeApi]) -> None:
    host, api = cluster
    stage(host, api, CASES[name]["state"])
    check(name, host.microk8s(*CASES[name]["argv"]))


def test_config_names_the_default_address(cluster: tuple[SimHost, FakeApi]) -> None:
    """The recording had a stub of a kubeconfig: only the changed address can be compared."""
    host, api = cluster
    stage(host, api, "single")
    done = host.microk8s("config")
    lines = [line.strip() for line in done.stdout.splitlines()]
    AGREED["config"] = done.returncode == 0 and all(x in lines for x in CASES["config"]["stdout"].splitlines())
    assert AGREED["config"], lines[:8]


REFUSED = ("join-badtoken", "join-hostname", "join-invalid", "join-ipv6", "join-refused", "join-wrongfp")


@pytest.mark.parametrize("name", REFUSED)
def test_join_is_refused_as_recorded(name: str, controller: SimHost, joiner: SimHost) -> None:
    token, check_part = controller.token().split("/")
    before = (controller.data / "credentials/cluster-tokens.txt").read_text()
    argv = [_fill(a, token, check_part) for a in CASES[name]["argv"]]
    check(name, joiner.microk8s(*argv))
    assert (controller.data / "credentials/cluster-tokens.txt").read_text() == before, "the token must not be used up"


def _fill(text: str, token: str, check_part: str) -> str:
    for mark, value in (("CONTROLLER", CONTROLLER), ("NOWHERE", NOWHERE), ("TOKEN", token), ("CHECK", check_part)):
        text = text.replace(mark, value)
    return text


def test_join_effects_as_recorded(controller: SimHost, joiner: SimHost) -> None:
    """Locks after a failed join; then join, and join again: text, files, requests, restarts and arguments."""
    joiner.microk8s("join", f"{CONTROLLER}:25000/{'0' * 32}/{controller.token().split('/')[1]}", "--worker")
    AGREED["join-failed-locks"] = joiner.locks() == [
        "ha-cluster", "installed.lock", "join-in-progress", "lite.lock", "no-apiserver-proxy", "no-etcd",
        "no-flanneld"]  # fmt: skip
    assert AGREED["join-failed-locks"], joiner.locks()

    before = {p: set(os.listdir(joiner.data / p)) for p in ("certs", "credentials", "args", "args/traefik")}
    check("join-worker-ok", joiner.microk8s("join", f"{CONTROLLER}:25000/{controller.token()}", "--worker"))
    new = {p: set(os.listdir(joiner.data / p)) - old for p, old in before.items()}
    assert new["certs"] <= {"ca.remote.crt"}, "kubelet and proxy certificates were there before"
    assert new["credentials"] == {"callback-token.txt"}
    assert new["args"] == {"kubelet.backup", "kube-apiserver.backup", "kube-proxy.backup"}
    assert new["args/traefik"] == {"provider.yaml"}
    assert joiner.locks() == ["clustered.lock", "ha-cluster", "installed.lock", "lite.lock", "no-cert-reissue",
                              "no-etcd", "no-flanneld", "no-k8s-dqlite"]  # fmt: skip
    kubelet = (joiner.data / "args/kubelet").read_text().splitlines()
    for line in ("--client-ca-file=${SNAP_DATA}/certs/ca.remote.crt",
                 "--node-labels=microk8s.io/cluster=true,node.kubernetes.io/microk8s-worker=microk8s-worker",
                 "--system-reserved=memory=8Gi", "--register-with-taints=a=b:NoSchedule"):  # fmt: skip
        assert line in kubelet
    assert "--authorization-mode=RBAC,Node" in (joiner.data / "args/kube-apiserver").read_text()
    assert restarts(joiner) == RESTARTS
    AGREED["join-worker-effects"] = True

    token = controller.token()
    check("join-worker-again", joiner.microk8s("join", f"{CONTROLLER}:25000/{token}", "--worker"))
    assert restarts(joiner) == RESTARTS * 2
    assert token.split("/")[0] not in (controller.data / "credentials/cluster-tokens.txt").read_text()
    AGREED["join-worker-again-effects"] = True


ORDER = ("kubelite", "apiserver-proxy", "kubelite", "etcd", "apiserver-kicker", "apiserver-proxy", "k8s-dqlite")
RESTARTS = [f"snapctl restart microk8s.daemon-{name}" for name in ORDER]


def restarts(host: SimHost) -> list[str]:
    log = (host.root / "var/lib/snapsim/services.log").read_text().splitlines()
    return [line for line in log if line.startswith("snapctl restart")]


def test_token_file_as_recorded(cluster: tuple[SimHost, FakeApi]) -> None:
    host, api = cluster
    stage(host, api, "single")
    path = host.data / "credentials/cluster-tokens.txt"
    path.write_text("")
    one, timed = host.token(), host.token("--token-ttl", "300")
    lines = path.read_text().splitlines()
    assert lines[0] == one.split("/")[0]
    assert re.fullmatch(rf"{timed.split('/')[0]}\|\d{{10}}", lines[1])
    AGREED["cluster-tokens"] = True


def test_how_many_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """Last in this file: says how many of the sixty recordings were met in this run."""
    files = {"cluster-tokens", "join-failed-locks", "join-worker-effects", "join-worker-again-effects"}
    everything = sorted({*CASES, *files})
    assert len(everything) == 60
    if len(AGREED) < len(everything):
        pytest.skip(f"only {len(AGREED)} of {len(everything)} recordings were compared in this run")
    missed = [name for name in everything if not AGREED[name]]
    with capsys.disabled():
        print(f"\n{len(everything) - len(missed)} of {len(everything)} recordings agree", *missed, sep="\n  ")
    assert not missed
