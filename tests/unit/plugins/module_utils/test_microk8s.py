from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _microk8s as mk
from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import Action, State, decide

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
            "snap aliases microk8s": (0, "Command Alias Notes\nmicrok8s.kubectl kubectl manual\n", ""),
        }
        self.calls: list[str] = []
        self.write("var/lock/installed.lock")
        self.write("certs/ca.crt", pem("own"))
        self.write("args/kubelet", KUBELET)
        self.write("args/kube-apiserver", "--authorization-mode=AlwaysAllow\n")
        self.write("args/containerd-template.toml", TEMPLATE)
        self.write("var/kubernetes/backend/cluster.yaml", "- Address: 127.0.0.1:19001\n  ID: 1\n  Role: 0\n")

    def write(self, path: str, text: str = "") -> Path:
        target = self.current / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

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


# --- the decision table: a worker of our controller ---


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
        pytest.param(alone(member=True), READY, "fail", "shall be a worker", id="control plane of our cluster"),
        pytest.param(worker(half_joined=True), READY, "repair", "half-way", id="half joined"),
        pytest.param(alone(half_joined=True), {}, "repair", "half-way", id="half joined, no lock yet"),
        pytest.param(worker(stopped=True), DOWN, "start", "stopped", id="stopped"),
        pytest.param(worker(broken=True), DOWN, "fail", "snap enable", id="disabled snap"),
    ],
)
def test_worker_row(state: State, node, kind: str, word: str) -> None:
    action = decide(state, node)
    assert action.kind == kind
    assert word in action.reason


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        pytest.param(worker(member=False), "rejoin", id="foreign worker"),
        pytest.param(alone(user_namespaces=("shop",)), "join", id="data"),
        pytest.param(alone(has_peers=True), "join", id="peers"),
        pytest.param(alone(member=True), "fail", id="our control plane is spared"),
    ],
)
def test_force_takes_a_host_over(state: State, kind: str) -> None:
    assert decide(state, {}, force=True).kind == kind


@pytest.mark.parametrize(
    ("state", "node", "kind"),
    [
        pytest.param(State(), {}, "install", id="absent"),
        pytest.param(alone(stopped=True), {}, "start", id="stopped"),
        pytest.param(worker(), {}, "fail", id="a worker"),
        pytest.param(alone(half_joined=True), READY, "fail", id="half joined elsewhere"),
        pytest.param(alone(has_peers=True, user_namespaces=("a",)), READY, "none", id="in use"),
        pytest.param(alone(), DOWN, "wait", id="not Ready"),
        pytest.param(alone(), None, "none", id="not asked"),
    ],
)
def test_controller_row(state: State, node, kind: str) -> None:
    assert decide(state, node, target_role="controller").kind == kind


def test_actions_are_values() -> None:
    assert decide(worker(), READY) == Action("none", "the node is a Ready member")


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
    assert state.aliases == ("kubectl",)
    assert state.ca_fingerprint == mk.certificate_fingerprint(pem("own"))


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
    host.write("var/kubernetes/backend/cluster.yaml", "- Address: 10.0.0.1:19001\n- Address: 10.0.0.2:19001\n")
    assert (host.read().member, host.read().has_peers) == (True, True)


def test_controller_that_workers_joined_has_peers(host: Host) -> None:
    host.write("credentials/callback-tokens.txt", "spark-01 secret\n")
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


def test_runtime_handlers(host: Host) -> None:
    state = host.read()
    assert state.cri_plugin == "io.containerd.grpc.v1.cri"
    assert state.runtime_handlers == {"runc": "", "nvidia-container-runtime": "nvidia-container-runtime"}
    host.write("args/containerd-template.toml", 'imports = ["/etc/containerd/conf.d/99.toml"]\n[plugins]\n')
    assert host.read().template_imports == ("/etc/containerd/conf.d/99.toml",)
    host.write("args/containerd-template.toml", "[plugins\n")
    state = host.read()
    assert state.runtime_handlers == {}
    assert "line 1" in (state.template_error or "")


def test_containerd_2_template(host: Host) -> None:
    host.write("args/containerd-template.toml", TEMPLATE.replace(*mk.CRI_PLUGINS))
    assert host.read().cri_plugin == "io.containerd.cri.v1.runtime"


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


def test_apparmor_rule(host: Host) -> None:
    assert not host.read().apparmor_rule
    path = host.root / mk.APPARMOR_RULE
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


def test_cluster(host: Host) -> None:
    host.answers[KUBECTL] = (0, json.dumps({"items": [NODE]}), "")
    host.answers[STATUS] = (0, "microk8s is running\naddons:\ncore/dns: enabled\ncore/rbac: disabled\n", "")
    assert mk.read_cluster(host.read(None), host.run) == {
        "api": True,
        "running": True,
        "addons": {"dns": True, "rbac": False},
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
    assert mk.read_cluster(host.read(None), host.run) == {"api": False, "running": False, "addons": {}, "nodes": {}}


def test_a_worker_is_never_asked(host: Host) -> None:
    host.join()
    state = host.read()
    host.calls.clear()
    assert mk.read_cluster(state, host.run)["api"] is False
    assert host.calls == []


# --- labels and taints ---

LIFECYCLE = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}


def test_labels_need_no_taints() -> None:
    wanted = {
        "a": {"labels": {"tokenlabs.io/spark": "true", "n": 1}, "taints": []},
        "gone": {"labels": {}, "taints": []},
    }
    assert mk.node_objects(wanted, {"a": {"taints": [LIFECYCLE]}, "foreign": {}}) == [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "a", "labels": {"tokenlabs.io/spark": "true", "n": "1"}},
        }
    ]


def test_taints_of_others_stay() -> None:
    ours = {"key": "gpu", "value": "only", "effect": "NoSchedule"}
    live = {"a": {"taints": [LIFECYCLE, {"key": "gpu", "effect": "NoExecute"}], "managed_taints": None}}
    (node,) = mk.node_objects({"a": {"labels": {}, "taints": [ours]}}, live)
    assert node["spec"]["taints"] == [LIFECYCLE, ours]
    assert node["metadata"]["annotations"] == {"tokenlabs.io/taints": "gpu"}


def test_a_taint_that_is_no_longer_wanted_goes() -> None:
    live = {"a": {"taints": [LIFECYCLE, {"key": "gpu", "effect": "NoExecute"}], "managed_taints": ["gpu"]}}
    (node,) = mk.node_objects({"a": {"labels": {}, "taints": []}}, live)
    assert node["spec"]["taints"] == [LIFECYCLE]
    assert node["metadata"]["annotations"] == {"tokenlabs.io/taints": ""}


def test_a_shared_gpu_names_its_configuration() -> None:
    wanted = {"a": {"gpu": True, "gpu_slots": 2}, "b": {"gpu": True, "gpu_slots": 1}}
    a, b = mk.node_objects(wanted, {"a": {}, "b": {}})
    assert a["metadata"]["labels"] == {"tokenlabs.io/spark": "true", "nvidia.com/device-plugin.config": "slots-2"}
    assert b["metadata"]["labels"] == {"tokenlabs.io/spark": "true"}


def test_a_node_that_once_had_taints_of_ours_keeps_its_definition() -> None:
    """Else the next run would drop the field, which is a change."""
    (node,) = mk.node_objects({"a": {}}, {"a": {"taints": [LIFECYCLE], "managed_taints": []}})
    assert node["spec"]["taints"] == [LIFECYCLE]
