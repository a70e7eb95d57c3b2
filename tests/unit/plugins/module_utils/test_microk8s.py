from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _microk8s as mk
from ansible_collections.tokenlabs.platform.plugins.module_utils import _node as nd
from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import Action, State, Target, decide

SNAP_LIST = (
    "Name      Version  Rev   Tracking     Publisher    Notes\n"
    "microk8s  v1.34.3  8511  1.34/stable  canonical**  classic,held\n"
)
TEMPLATE = """
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "${RUNTIME}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "${RUNTIME_TYPE}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia-container-runtime.options]
    BinaryName = "nvidia-container-runtime"
"""
KUBELET = """\
--kubeconfig=${SNAP_DATA}/credentials/kubelet.config
--eviction-hard="memory.available<100Mi,nodefs.available<1Gi"
--read-only-port 0
--fail-swap-on=false
# BEGIN TOKENLABS
--system-reserved=memory=8Gi
--fail-swap-on=true
# END TOKENLABS
"""
READY = {"ready": True, "message": ""}
DOWN = {"ready": False, "message": "Kubelet stopped posting node status."}


def worker(**more) -> State:
    return State(**{"installed": True, "role": "worker", "member": True} | more)


def alone(**more) -> State:
    return State(**{"installed": True, "role": "controlplane", "member": False} | more)


def pem(text: str) -> str:
    body = base64.encodebytes(text.encode()).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"


class Host:
    """A MicroK8s tree in a temporary directory, and the commands that its state is read with."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current = root / mk.CURRENT
        self.answers: dict[str, tuple[int, str, str]] = {
            "snap list microk8s": (0, SNAP_LIST, ""),
        }
        self.calls: list[str] = []
        self.write("var/lock/installed.lock")
        self.write("certs/ca.crt", pem("own"))
        self.write("args/kubelet", KUBELET)
        self.write("args/kube-apiserver", "--authorization-mode=AlwaysAllow\n")
        self.write("args/containerd-template.toml", TEMPLATE)
        self.datastore("127.0.0.1:19001")

    def write(self, path: str, text: str = "") -> Path:
        target = self.current / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def datastore(self, *members: str, own: str | None = None) -> None:
        entries = (f"- Address: {member}\n  ID: {n}\n  Role: {min(n // 3, 2)}\n" for n, member in enumerate(members))
        self.write("var/kubernetes/backend/cluster.yaml", "".join(entries))
        self.write("var/kubernetes/backend/info.yaml", f"Address: {own or members[0]}\nID: 1\nRole: 0\n")

    def join(self, ca: str = "ours") -> None:
        self.write("certs/ca.remote.crt", pem(ca))
        self.write("var/lock/clustered.lock")
        self.write("var/lock/no-cert-reissue")

    def run(self, argv):
        line = " ".join(argv)
        self.calls.append(line)
        return self.answers.get(line, (0, "", ""))

    def read(self, expected: str | None = "ours") -> State:
        return mk.read_state(self.run, expected and mk.certificate_fingerprint(pem(expected)), self.root)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# --- the decision table: a worker ---

OURS = ("10.0.0.1:19001", "10.0.0.2:19001", "10.0.0.3:19001")
WORKER = Target(address="10.0.0.9", datastore=OURS[:1])


@pytest.mark.parametrize(
    ("state", "node", "kind", "word"),
    [
        pytest.param(State(snapd=False), {}, "fail", "snapd", id="no snapd"),
        pytest.param(State(), {}, "install", "not installed", id="absent, no Node"),
        pytest.param(State(), DOWN, "install", "not installed", id="absent, stale Node: replaced later"),
        pytest.param(alone(), {}, "join", "not a member", id="standalone, no Node"),
        pytest.param(alone(), None, "join", "not a member", id="standalone, controller not asked"),
        pytest.param(alone(), DOWN, "replace", "earlier installation", id="standalone, stale Node"),
        pytest.param(alone(), READY, "fail", "same host name", id="standalone, but a Ready Node of that name lives"),
        pytest.param(alone(user_namespaces=("shop",)), {}, "fail", "shop", id="standalone with data"),
        pytest.param(alone(has_peers=True), {}, "fail", "other nodes", id="standalone with peers"),
        pytest.param(worker(), READY, "none", "Ready member", id="our worker, Ready"),
        pytest.param(worker(), None, "none", "not looked at", id="our worker, controller not asked"),
        pytest.param(worker(), DOWN, "wait", "stopped posting", id="our worker, NotReady: never joined again"),
        pytest.param(worker(), {}, "restart", "missing", id="our worker, Node deleted"),
        pytest.param(worker(member=False), {}, "fail", "another cluster", id="foreign worker"),
        pytest.param(worker(member=None), {}, "fail", "no cluster yet", id="worker, but no cluster"),
        pytest.param(alone(member=True), READY, "fail", "remove_node", id="control plane of our cluster"),
        pytest.param(worker(half_joined=True), READY, "repair", "half-way", id="half joined"),
        pytest.param(alone(half_joined=True), {}, "repair", "half-way", id="half joined, no lock yet"),
        pytest.param(worker(stopped=True), DOWN, "start", "stopped", id="stopped"),
        pytest.param(worker(broken=True), DOWN, "fail", "snap enable", id="disabled snap"),
    ],
)
def test_worker_row(state: State, node, kind: str, word: str) -> None:
    action = decide(state, node, WORKER)
    assert action.kind == kind
    assert word in action.reason


@pytest.mark.parametrize("state", [alone(), alone(half_joined=True)])
def test_a_worker_that_the_datastore_counts_is_refused(state: State) -> None:
    action = decide(state, {}, replace(WORKER, address="10.0.0.1"))
    assert (action.kind, "as a controller" in action.reason) == ("fail", True)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        pytest.param(worker(member=False), "rejoin", id="foreign worker"),
        pytest.param(alone(user_namespaces=("shop",)), "join", id="data"),
        pytest.param(alone(has_peers=True), "join", id="peers"),
        pytest.param(alone(has_peers=True, datastore=("a:1", "b:1")), "rejoin", id="controller of another cluster"),
        pytest.param(alone(member=True), "fail", id="our control plane is spared"),
    ],
)
def test_force_takes_a_worker_over(state: State, kind: str) -> None:
    assert decide(state, {}, replace(WORKER, force=True)).kind == kind


# --- the decision table: the chosen controller ---


@pytest.mark.parametrize(
    ("state", "node", "kind"),
    [
        pytest.param(State(), {}, "install", id="absent"),
        pytest.param(alone(stopped=True), {}, "start", id="stopped"),
        pytest.param(worker(), {}, "fail", id="a worker"),
        pytest.param(alone(half_joined=True), READY, "fail", id="half joined elsewhere"),
        pytest.param(alone(has_peers=True, user_namespaces=("a",)), READY, "none", id="in use"),
        pytest.param(alone(join_in_progress=True), READY, "finish", id="a member with the mark of its join"),
        pytest.param(alone(), DOWN, "wait", id="not Ready"),
        pytest.param(alone(), {}, "restart", id="Node deleted"),
        pytest.param(alone(), None, "none", id="not asked"),
    ],
)
def test_chosen_controller_row(state: State, node, kind: str) -> None:
    assert decide(state, node, Target("controller", chosen=True)).kind == kind


# --- the decision table: a further controller ---

SECOND = Target("controller", address="10.0.0.2", datastore=OURS)
NEW = Target("controller", address="10.0.0.9", datastore=OURS)


def member(**more) -> State:
    return alone(**{"member": True, "has_peers": True, "datastore": OURS} | more)


@pytest.mark.parametrize(
    ("state", "node", "target", "kind", "word"),
    [
        pytest.param(State(snapd=False), {}, NEW, "fail", "snapd", id="no snapd"),
        pytest.param(State(), {}, NEW, "install", "not installed", id="absent"),
        pytest.param(State(), DOWN, SECOND, "install", "not installed", id="absent, stale: replaced later"),
        pytest.param(alone(broken=True), {}, NEW, "fail", "snap enable", id="disabled snap"),
        pytest.param(member(stopped=True), DOWN, SECOND, "start", "stopped", id="stopped"),
        pytest.param(alone(), {}, NEW, "join", "not a member", id="standalone"),
        pytest.param(alone(member=None), None, NEW, "join", "not a member", id="standalone, no cluster yet"),
        pytest.param(alone(), DOWN, NEW, "replace", "earlier", id="standalone, stale Node"),
        pytest.param(alone(), {}, SECOND, "replace", "earlier", id="standalone, the datastore still counts it"),
        pytest.param(alone(), READY, NEW, "fail", "same host name", id="standalone, but a Ready Node lives"),
        pytest.param(alone(user_namespaces=("shop",)), {}, NEW, "fail", "shop", id="standalone with data"),
        pytest.param(alone(has_peers=True), {}, NEW, "fail", "other nodes", id="controller of another cluster"),
        pytest.param(worker(), READY, NEW, "fail", "remove_node", id="worker of our cluster"),
        pytest.param(worker(member=False), {}, NEW, "fail", "another cluster", id="worker of another cluster"),
        pytest.param(member(), READY, SECOND, "none", "Ready member", id="member, Ready"),
        pytest.param(member(), DOWN, SECOND, "wait", "stopped posting", id="member, NotReady"),
        pytest.param(member(), {}, SECOND, "restart", "missing", id="member, Node deleted"),
        pytest.param(member(join_in_progress=True), READY, SECOND, "finish", "cut off", id="only the marks are left"),
        pytest.param(member(), {}, NEW, "fail", "has removed it", id="member that the cluster has removed"),
        pytest.param(alone(half_joined=True), {}, SECOND, "repair", "half-way", id="half joined, counted"),
        pytest.param(alone(half_joined=True), {}, NEW, "repair", "half-way", id="half joined, not counted"),
        pytest.param(worker(half_joined=True), {}, NEW, "repair", "half-way", id="half joined as a worker"),
        pytest.param(alone(half_joined=True, user_namespaces=("a",)), {}, NEW, "fail", "orphan", id="half, with data"),
    ],
)
def test_controller_row(state: State, node, target: Target, kind: str, word: str) -> None:
    action = decide(state, node, target)
    assert action.kind == kind
    assert word in action.reason


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        pytest.param(worker(member=False), "rejoin", id="worker of another cluster"),
        pytest.param(alone(has_peers=True, datastore=("a:1", "b:1")), "rejoin", id="controller of another cluster"),
        pytest.param(member(), "repair", id="removed member"),
        pytest.param(alone(half_joined=True, user_namespaces=("a",)), "repair", id="half joined, with data"),
        pytest.param(worker(), "fail", id="our worker is spared"),
    ],
)
def test_force_takes_a_controller_over(state: State, kind: str) -> None:
    assert decide(state, {}, replace(NEW, force=True)).kind == kind


# --- the decision table: channels ---


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        pytest.param("1.33/stable", ["platform.upgrade, or set"], id="one minor"),
        pytest.param("1.34/candidate", ["platform.upgrade, or set"], id="another risk"),
        pytest.param("latest/stable", ["platform.upgrade, or set"], id="no track"),
        pytest.param("1.32/stable", ["one minor version at a time", "set to 1.33/stable first"], id="two minors"),
        pytest.param("1.35/stable", ["cannot be downgraded", "set tokenlabs_microk8s_channel to 1.35"], id="downgrade"),
    ],
)
def test_another_channel_is_refused(installed: str, words: list[str]) -> None:
    for state in (worker(channel=installed), alone(channel=installed, stopped=True)):
        action = decide(state, READY, replace(WORKER, channel="1.34/stable"))
        assert action.kind == "fail"
        assert all(word in action.reason for word in words), action.reason


def test_the_wanted_channel_is_not_refused() -> None:
    assert decide(worker(channel="1.34/stable"), READY, replace(WORKER, channel="1.34/stable")).kind == "none"


def test_a_channel_that_the_store_lacks_is_refused_before_the_installation() -> None:
    wanted = replace(WORKER, channel="1.99/stable")
    action = decide(State(store_channels=("1.33/stable", "1.34/stable")), {}, wanted)
    assert (action.kind, "only 1.33/stable, 1.34/stable" in action.reason) == ("fail", True)
    assert decide(State(store_channels=("1.99/stable",)), {}, wanted).kind == "install"
    # What the store has is not known while it cannot be reached; the installation tries again then.
    assert decide(State(), {}, wanted).kind == "install"


def test_actions_are_values() -> None:
    assert decide(worker(), READY, WORKER) == Action("none", "the node is a Ready member")


# --- choosing a controller ---


def found(state: State, api: bool = True) -> dict:
    return {**mk.describe(state), "cluster": {"api": api}}


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        pytest.param(found(State(), False), found(State(), False), "a", id="nothing anywhere: the first"),
        pytest.param(found(member()), found(member()), "a", id="both members: the first"),
        pytest.param(found(State(), False), found(member()), "b", id="re-imaged"),
        pytest.param(found(alone()), found(alone(has_peers=True)), "b", id="the one that others have joined"),
        pytest.param(found(member(), False), found(member()), "b", id="API down"),
        pytest.param(found(member(stopped=True), False), found(alone()), "a", id="stopped member, new host"),
        pytest.param(found(alone(half_joined=True), False), found(alone()), "b", id="half joined"),
        pytest.param(found(worker(), False), found(State(), False), "b", id="a worker is the last resort"),
        pytest.param(found(State(), False), found(alone()), "b", id="installed before"),
        pytest.param(found(alone(), False), found(alone()), "b", id="standalone and down"),
    ],
)
def test_choice(first: dict, second: dict, chosen: str) -> None:
    assert mk.choose({"a": first, "b": second}) == chosen


# --- remarks ---

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def test_nothing_to_remark() -> None:
    states = {"a": member(version="v1.34.3", certificates={"server.crt": "2027-01-01T00:00:00+00:00"}), "b": State()}
    assert mk.remarks({name: mk.describe(state) for name, state in states.items()}, NOW) == []


def test_remarks() -> None:
    states = {
        "a": member(version="v1.34.3", aliases={"kubectl": "/usr/bin/snap", "helm": "microk8s.helm"}),
        "b": worker(version="v1.34.4", refreshes=("7 Done Auto-refresh snap microk8s",)),
        "c": worker(version="v1.34.3", certificates={"kubelet.crt": "2026-12-01T00:00:00+00:00"}),
    }
    lines = mk.remarks({name: mk.describe(state) for name, state in states.items()}, NOW)
    assert lines == [
        "a: kubectl is another snap's command, so it is no alias",
        "b: MicroK8s has refreshed itself, and is held from now on: 7 Done Auto-refresh snap microk8s",
        "c: the certificate kubelet.crt ends in 10 days; look at 'microk8s refresh-certs'",
        "versions of MicroK8s differ: v1.34.3 on a, c; v1.34.4 on b; run the playbook tokenlabs.platform.upgrade",
    ]


# --- reading a host ---


def test_absent_snap(host: Host) -> None:
    host.answers["snap list microk8s"] = (1, "", "error: no matching snaps installed\n")
    state = host.read()
    assert not state.installed
    assert state.snapd
    assert state.role is None


def test_no_snapd(host: Host) -> None:
    host.answers["snap list microk8s"] = (127, "", "snap is not installed")
    assert not host.read().snapd


def test_unreadable_snapd_is_an_error_and_never_absence(host: Host) -> None:
    host.answers["snap list microk8s"] = (1, "", "error: cannot communicate with server: timeout\n")
    with pytest.raises(mk.MicroK8sError, match="cannot communicate"):
        host.read()


def test_standalone(host: Host) -> None:
    state = host.read()
    assert (state.installed, state.version, state.revision, state.channel) == (True, "v1.34.3", "8511", "1.34/stable")
    assert (state.held, state.broken, state.stopped, state.launch_done) == (True, False, False, True)
    assert (state.role, state.member, state.half_joined, state.has_peers) == ("controlplane", False, False, False)
    assert state.ca_fingerprint == mk.certificate_fingerprint(pem("own"))


def test_aliases(host: Host) -> None:
    assert host.read().aliases == {"kubectl": "", "helm": ""}
    (host.root / "snap/bin").mkdir(parents=True)
    (host.root / "snap/bin/kubectl").symlink_to("microk8s.kubectl")
    (host.root / "snap/bin/helm").symlink_to("/usr/bin/snap")
    assert host.read().aliases == {"kubectl": "microk8s.kubectl", "helm": "/usr/bin/snap"}


CHANGES = (
    "ID   Status  Spawn                   Ready                   Summary\n"
    '7    Done    today at 03:11 UTC      today at 03:12 UTC      Auto-refresh snap "microk8s"\n'
    '8    Done    today at 04:11 UTC      today at 04:12 UTC      Auto-refresh snap "core24"\n'
)


def test_refreshes_count_only_when_they_are_not_held(host: Host) -> None:
    host.answers["snap changes microk8s"] = (0, CHANGES, "")
    assert host.read().refreshes == ()
    host.answers["snap list microk8s"] = (0, SNAP_LIST.replace(",held", ""), "")
    assert host.read().refreshes == ('7 Done today at 03:11 UTC today at 03:12 UTC Auto-refresh snap "microk8s"',)


SNAP_INFO = """\
name:      microk8s
channels:
  1.34/stable:      v1.34.3  2025-12-18 (8511) 171MB classic
  1.34/candidate:   ^
  1.33/stable:      --
installed:          v1.34.3             (8511) 171MB classic
"""


def test_channels_of_the_store(host: Host) -> None:
    host.answers["snap list microk8s"] = (1, "", "error: no matching snaps installed\n")
    host.answers["snap info microk8s"] = (0, SNAP_INFO, "")
    state = mk.read_state(host.run, None, host.root, store=True)
    assert state.store_channels == ("1.34/stable", "1.34/candidate")
    assert host.read().store_channels == ()
    host.answers["snap info microk8s"] = (1, "", 'error: no snap found for "microk8s"\n')
    assert mk.read_state(host.run, None, host.root, store=True).store_channels == ()


def test_first_controller_has_no_expectation(host: Host) -> None:
    assert host.read(None).member is None


def test_worker_of_ours(host: Host) -> None:
    host.join()
    state = host.read()
    assert (state.role, state.member, state.half_joined) == ("worker", True, False)
    assert state.remote_ca_fingerprint == mk.certificate_fingerprint(pem("ours"))


def test_worker_of_others(host: Host) -> None:
    host.join("theirs")
    assert host.read().member is False


def test_white_space_around_the_certificate_does_not_matter(host: Host) -> None:
    host.join()
    host.write("certs/ca.remote.crt", "\n" + pem("ours") + "\n\n")
    assert host.read().member is True


def test_control_plane_member(host: Host) -> None:
    host.write("certs/ca.crt", pem("ours"))
    host.datastore(*OURS, "10.0.0.4:19001", own=OURS[1])
    state = host.read()
    assert (state.member, state.has_peers, state.half_joined) == (True, True, False)
    assert (state.datastore_address, state.datastore) == (OURS[1], (*OURS, "10.0.0.4:19001"))
    assert state.voters == OURS


def test_control_plane_of_others(host: Host) -> None:
    host.datastore(*OURS)
    assert (host.read().member, host.read().has_peers, host.read().half_joined) == (False, True, False)


def test_control_plane_that_its_datastore_does_not_count_is_half_joined(host: Host) -> None:
    host.write("certs/ca.crt", pem("ours"))
    host.datastore(*OURS, own="10.0.0.9:19001")
    assert (host.read().member, host.read().half_joined) == (False, True)
    # Its own cluster is what the chosen controller is measured by, so that it cannot be half of it.
    assert host.read(None).half_joined is False


def test_mark_of_a_join_alone_is_no_half_join_of_a_member(host: Host) -> None:
    host.write("certs/ca.crt", pem("ours"))
    host.datastore(*OURS)
    host.write("var/lock/join-in-progress")
    assert (host.read().half_joined, host.read().join_in_progress) == (False, True)


def test_datastore_without_files(host: Host) -> None:
    for name in ("cluster", "info"):
        (host.current / f"var/kubernetes/backend/{name}.yaml").unlink()
    assert (host.read().datastore, host.read().datastore_address) == ((), "")


def test_tokens_with_a_time_limit_are_counted(host: Host) -> None:
    assert host.read().join_tokens == 0
    host.write("credentials/cluster-tokens.txt", "0a1b|1766000000\nffff\n2c3d|1766000001\n")
    assert host.read().join_tokens == 2


# Made by openssl; the second one ends after 2049, which X.509 writes in another way.
CERTIFICATES = {
    "2027-11-21T15:00:00+00:00": """-----BEGIN CERTIFICATE-----
MIH/MIGmAgEBMAoGCCqGSM49BAMCMAwxCjAIBgNVBAMMAXgwHhcNMjYxMTIxMTUw
MDAwWhcNMjcxMTIxMTUwMDAwWjAMMQowCAYDVQQDDAF4MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAERuenHK3MiY9u4V+GO8IXH0rH+OopGxaCeU9NoZiezUZ0sd1i
pv3yWfp1KRBgfWrxquYV5VueCgkwppqbpol/wDAKBggqhkjOPQQDAgNIADBFAiEA
uPgaFn8J9G1bZPCLANPZzQBcwst+gjyZ10wVmXXY2pMCIEMBbm5zI9Rc7v+A65MX
WIHUOEkEd++l5mD/3vVoVNMK
-----END CERTIFICATE-----
""",
    "2061-01-02T03:04:05+00:00": """-----BEGIN CERTIFICATE-----
MIIBATCBqAIBAjAKBggqhkjOPQQDAjAMMQowCAYDVQQDDAF4MCAXDTI2MTEyMTE1
MDAwMFoYDzIwNjEwMTAyMDMwNDA1WjAMMQowCAYDVQQDDAF4MFkwEwYHKoZIzj0C
AQYIKoZIzj0DAQcDQgAERuenHK3MiY9u4V+GO8IXH0rH+OopGxaCeU9NoZiezUZ0
sd1ipv3yWfp1KRBgfWrxquYV5VueCgkwppqbpol/wDAKBggqhkjOPQQDAgNIADBF
AiEA8l16Y3QMzYkxt75qZSM3FMOhCDaFklZJCvCTF/pqwL4CIHLjpFzlfUcpKLMV
CqPvEQNkqud20bIooCXEZlBKN/cY
-----END CERTIFICATE-----
""",
}


def test_certificates_end(host: Host) -> None:
    for end, text in CERTIFICATES.items():
        host.write("certs/server.crt", text)
        assert host.read().certificates == {"server.crt": end}


def test_controller_that_workers_joined_has_peers(host: Host) -> None:
    host.write("var/lock/no-cert-reissue", "")
    assert host.read().has_peers


@pytest.mark.parametrize("missing", ["certs/ca.remote.crt", "var/lock/clustered.lock", "var/lock/no-cert-reissue"])
def test_half_joined_when_a_trace_is_missing(host: Host, missing: str) -> None:
    host.join()
    (host.current / missing).unlink()
    assert host.read().half_joined


def test_half_joined_when_the_marker_is_left(host: Host) -> None:
    host.write("var/lock/join-in-progress")
    assert host.read().half_joined
    assert host.read().join_in_progress


@pytest.mark.parametrize(
    ("command", "running"),
    [
        ("python3\0/snap/microk8s/1/scripts/wrappers/join.py\x0010.0.0.1:25000/t\0--worker\0", True),
        ("/bin/sh\0/snap/bin/microk8s\0join\x0010.0.0.1:25000/t\0", True),
        ("/bin/sh\0/snap/bin/microk8s\0kubectl\0get\0nodes\0", False),
    ],
)
def test_a_join_at_work_is_seen(host: Host, command: str, running: bool) -> None:
    host.write("var/lock/join-in-progress")
    (host.root / "proc/12").mkdir(parents=True)
    (host.root / "proc/12/cmdline").write_text(command)
    (host.root / "proc/self").mkdir()
    assert host.read().join_running is running


def test_stopped_and_launching(host: Host) -> None:
    host.write("var/lock/stopped.lock")
    launcher = host.root / mk.COMMON / "etc/launcher"
    launcher.mkdir(parents=True)
    (launcher / "install.yaml").write_text("version: 0.1.0\n")
    assert (host.read().stopped, host.read().launch_done) == (True, False)
    (launcher / "install.yaml").rename(launcher / "install.yaml.applied")
    assert host.read().launch_done


def test_only_pods_since_the_installation_count_as_data(host: Host) -> None:
    pods = host.root / "var/log/pods"
    for name in ("kube-system_coredns-1_u1", "shop_cart-0_u2", "old_pod_u3"):
        (pods / name).mkdir(parents=True)
    future, past = time.time() + 60, time.time() - 3600
    os.utime(pods / "shop_cart-0_u2", (future, future))
    os.utime(pods / "old_pod_u3", (past, past))
    assert host.read().user_namespaces == ("shop",)
    host.join()
    assert host.read().user_namespaces == ()


def test_arguments(host: Host) -> None:
    state = host.read()
    assert state.args["kubelet"]["--eviction-hard"] == "memory.available<100Mi,nodefs.available<1Gi"
    assert state.args["kubelet"]["--read-only-port"] == "0"
    assert state.args["kubelet"]["--fail-swap-on"] == "true"
    assert state.args["kube-apiserver"] == {"--authorization-mode": "AlwaysAllow"}
    assert state.managed_args == {"--system-reserved": "memory=8Gi", "--fail-swap-on": "true"}
    assert state.other_args["--fail-swap-on"] == "false"
    assert "--system-reserved" not in state.other_args


def test_configuration_newer_than_the_process_is_pending(host: Host) -> None:
    units = "systemctl show --property=Id,ExecMainStartTimestampMonotonic"
    units += " snap.microk8s.daemon-kubelite.service snap.microk8s.daemon-containerd.service"
    started = int(time.monotonic() * 1e6)
    show = f"Id=snap.microk8s.daemon-kubelite.service\nExecMainStartTimestampMonotonic={started}\n\n"
    show += "Id=snap.microk8s.daemon-containerd.service\nExecMainStartTimestampMonotonic=0\n"
    host.answers[units] = (0, show, "")
    later, earlier = time.time() + 30, time.time() - 30
    os.utime(host.current / "args/kubelet", (earlier, earlier))
    assert host.read().pending_restart == ()
    os.utime(host.current / "args/kubelet", (later, later))
    os.utime(host.current / "args/containerd-template.toml", (later, later))
    assert host.read().pending_restart == ("kubelite",)


def test_a_copy_beside_a_file_is_an_unproven_change(host: Host) -> None:
    assert not host.read().unproven
    host.write("args/containerd-template.toml.tokenlabs-good")
    assert host.read().unproven


def test_apparmor_rule(host: Host) -> None:
    assert not host.read().apparmor_rule
    path = host.root / nd.APPARMOR_RULE
    path.parent.mkdir(parents=True)
    path.write_text("signal (receive) peer=runc,\n")
    assert host.read().apparmor_rule


def test_unreadable_file_names_the_remedy(host: Host) -> None:
    (host.current / "args/kubelet").unlink()
    (host.current / "args/kubelet").mkdir()
    with pytest.raises(mk.MicroK8sError, match="as root"):
        host.read()


def test_description_is_plain_data(host: Host) -> None:
    json.dumps(mk.describe(host.read()))


# --- reading the cluster ---

KUBECTL = "/snap/bin/microk8s kubectl get nodes -o json --request-timeout=10s"
STATUS = "/snap/bin/microk8s status --format short"
NODE = {
    "metadata": {"name": "spark-01", "uid": "u-1", "annotations": {"tokenlabs.io/taints": "a,b"}},
    "spec": {"unschedulable": True},
    "status": {
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "message": "runtime is down",
                "lastHeartbeatTime": "2026-01-02T03:04:05Z",
            }
        ],
        "nodeInfo": {"kubeletVersion": "v1.34.3"},
        "addresses": [{"type": "InternalIP", "address": "10.0.0.5"}],
    },
}


SILENT = {"api": False, "running": False, "addons": {}, "nodes": {}, "arguments": {}}


def test_arguments_of_addons(host: Host) -> None:
    corefile = ".:53 {\n    errors\n    forward . 10.0.0.53 1.1.1.1\n    cache 30\n}\n"
    dns = KUBECTL.replace("nodes", "configmap/coredns -n kube-system")
    pool = KUBECTL.replace("nodes", "ipaddresspools.metallb.io/default-addresspool -n metallb-system")
    host.answers[KUBECTL] = (0, '{"items": []}', "")
    host.answers[dns] = (0, json.dumps({"data": {"Corefile": corefile}}), "")
    host.answers[pool] = (0, json.dumps({"spec": {"addresses": ["10.0.0.200-10.0.0.210"]}}), "")
    assert mk.read_cluster(host.read(None), host.run, addons=False, arguments=True)["arguments"] == {
        "dns": {"corefile": corefile, "servers": ["10.0.0.53", "1.1.1.1"]},
        "metallb": {"addresses": ["10.0.0.200-10.0.0.210"]},
    }
    host.answers[dns] = host.answers[pool] = (1, "", "Error from server (NotFound)")
    assert mk.read_cluster(host.read(None), host.run, addons=False, arguments=True)["arguments"] == {
        "dns": {"corefile": None, "servers": []},
        "metallb": {"addresses": []},
    }


def test_cluster(host: Host) -> None:
    host.answers[KUBECTL] = (0, json.dumps({"items": [NODE]}), "")
    host.answers[STATUS] = (0, "microk8s is running\naddons:\ncore/dns: enabled\ncore/rbac: disabled\n", "")
    assert mk.read_cluster(host.read(None), host.run) == {
        "api": True,
        "running": True,
        "addons": {"dns": True, "rbac": False},
        "arguments": {},
        "nodes": {
            "spark-01": {
                "uid": "u-1",
                "ready": False,
                "message": "runtime is down",
                "kubelet_version": "v1.34.3",
                "address": "10.0.0.5",
                "unschedulable": True,
                "maintenance": "",
                "heartbeat": "2026-01-02T03:04:05Z",
                "taints": [],
                "managed_taints": ["a", "b"],
            }
        },
    }


def test_nodes_only(host: Host) -> None:
    host.answers[KUBECTL] = (0, json.dumps({"items": [NODE]}), "")
    state = host.read(None)
    host.calls.clear()
    cluster = mk.read_cluster(state, host.run, addons=False)
    assert (list(cluster["nodes"]), cluster["addons"], host.calls) == (["spark-01"], {}, [KUBECTL])


def test_cluster_that_answers_but_is_not_running(host: Host) -> None:
    host.answers[KUBECTL] = (0, '{"items": []}', "")
    host.answers[STATUS] = (1, "microk8s is not running. Use microk8s inspect for a deeper inspection.\n", "")
    cluster = mk.read_cluster(host.read(None), host.run)
    assert (cluster["api"], cluster["running"], cluster["addons"]) == (True, False, {})


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((1, "", "connection refused"), id="refused"),
        pytest.param((0, "microk8s is not running, try microk8s start\n", ""), id="exit 0 and a sentence"),
        pytest.param((0, "null", ""), id="no list"),
    ],
)
def test_silent_cluster(host: Host, answer) -> None:
    host.answers[KUBECTL] = answer
    assert mk.read_cluster(host.read(None), host.run) == SILENT


def test_a_worker_is_never_asked(host: Host) -> None:
    host.join()
    state = host.read()
    host.calls.clear()
    assert mk.read_cluster(state, host.run)["api"] is False
    assert host.calls == []
