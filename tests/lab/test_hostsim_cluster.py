# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts among each other: tokens, joins, leaving, addons, and the daemons that make a Node of a host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.hostsim import FAULTS, layers
from lab.hostsim.snapsim import agent, argfile, containerd, faces, kubelite, pki, tree, units
from tests.lab.hostsim_harness import FakeApi, SimHost, api_server, eventually

NET = f"127.78.{os.getpid() % 250 + 1}"
CONTROLLER, WORKER, API = (f"{NET}.{n}" for n in (2, 4, 5))


@contextmanager
def made_controller(root: Path, **settings: Any) -> Iterator[tuple[SimHost, FakeApi]]:
    with api_server(root / "var/lib/snapsim/seed", API) as api:
        api.put("api/v1", "services", "default", "kubernetes")
        api.add_node("controller", CONTROLLER)
        base = {"hostname": "controller", "address": CONTROLLER, "api": api.url}
        host = SimHost(root, {**base, **settings}).install("1.34/stable")
        try:
            yield host, api
        finally:
            host.stop()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[SimHost, SimHost, FakeApi]]:
    """A controller that can be joined, and a Spark beside it."""
    with made_controller(tmp_path / "controller") as (controller, api):
        (controller.host.common / "etc/launcher/install.yaml").unlink()
        controller.start_agent()
        settings = {"hostname": "Spark-01", "address": WORKER, "arch": "aarch64", "api": api.url,
                    "node": {"cpu": "20", "memory": "100Gi"}}  # fmt: skip
        worker = SimHost(tmp_path / "worker", settings).install("1.34/stable")
        (worker.host.common / "etc/launcher/install.yaml").unlink()
        try:
            yield controller, worker, api
        finally:
            worker.stop()


def join(worker: SimHost, token: str) -> subprocess.CompletedProcess[str]:
    return worker.microk8s("join", f"{CONTROLLER}:25000/{token}", "--worker")


def ready(api: FakeApi, name: str) -> tuple[str, str]:
    conditions = api.node(name).get("status", {}).get("conditions", [])
    return next(((c["status"], c.get("message", "")) for c in conditions if c["type"] == "Ready"), ("", ""))


# -- joining


def test_joined_worker_becomes_a_node(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, api = pair
    assert join(worker, controller.token()).returncode == 0
    assert (worker.data / "certs/ca.remote.crt").read_text() == (controller.data / "certs/ca.crt").read_text()
    containerd.start(worker.host)
    worker.start("kubelite")
    eventually(lambda: ("api/v1", "nodes", "", "spark-01") in api.objects and ready(api, "spark-01")[0] == "True")
    node = api.node("spark-01")
    assert node["metadata"]["labels"]["node.kubernetes.io/microk8s-worker"] == "microk8s-worker"
    assert node["metadata"]["labels"]["kubernetes.io/arch"] == "arm64"
    assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.34.3"
    assert node["status"]["capacity"]["memory"] == "100Gi"
    assert node["status"]["allocatable"]["memory"] == f"{(100 * 1024 - 100) * 1024}Ki"
    assert {"type": "InternalIP", "address": WORKER} in node["status"]["addresses"]
    eventually(lambda: api.node("spark-01")["metadata"].get("annotations"))
    assert api.node("spark-01")["metadata"]["annotations"][kubelite.HANDLERS] == "nvidia-container-runtime,runc"
    assert "system:node:spark-01" in api.clients
    eventually(lambda: ("apis/coordination.k8s.io/v1", "leases", "kube-node-lease", "spark-01") in api.objects)


def test_first_join_moves_the_datastore_and_later_ones_do_not(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, _api = pair
    backend = controller.host.backend / "cluster.yaml"
    assert "127.0.0.1:19001" in backend.read_text()
    join(worker, controller.token())
    assert f"{CONTROLLER}:19001" in backend.read_text()
    assert controller.host.locked("no-cert-reissue")
    before = backend.stat().st_mtime_ns
    join(worker, controller.token())
    assert backend.stat().st_mtime_ns == before


def test_tokens_are_used_up_unless_they_expire(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, _api = pair
    once, timed = controller.token(), controller.token("--token-ttl", "300")
    assert [join(worker, t).returncode for t in (once, once, timed, timed)] == [0, 6, 0, 0]
    tokens = (controller.data / "credentials/cluster-tokens.txt").read_text()
    assert once.split("/")[0] not in tokens
    assert timed.split("/")[0] in tokens


def test_expired_token_is_refused(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, _api = pair
    past = controller.token("--token-ttl", "0")
    eventually(lambda: _is_past(controller, past))
    assert "Invalid token (500)" in join(worker, past).stdout
    controller.fault(token_expired=1)
    token = controller.token("--token-ttl", "300")
    assert join(worker, token).returncode == 6
    assert join(worker, token).returncode == 0, "the fault counted down"


def _is_past(controller: SimHost, token: str) -> bool:
    lines = (controller.data / "credentials/cluster-tokens.txt").read_text().splitlines()
    expiry = next(line.split("|")[1] for line in lines if line.startswith(token.split("/")[0]))
    return time.time() > int(expiry)


@pytest.mark.parametrize("fault", [True, "kill"])
def test_join_that_died_midway_is_repaired_by_joining_again(pair: Any, fault: object) -> None:
    controller, worker, _api = pair
    worker.fault(join_dies_midway=fault)
    assert join(worker, controller.token()).returncode != 0
    assert (worker.data / "certs/ca.remote.crt").exists()
    assert "join-in-progress" in worker.locks()
    assert "clustered.lock" not in worker.locks()
    worker.fault()
    assert join(worker, controller.token()).returncode == 0
    assert "clustered.lock" in worker.locks()
    assert "join-in-progress" not in worker.locks()


def ask(host: SimHost, path: str, body: dict[str, Any], peer: str = WORKER) -> tuple[int, str]:
    status, result = agent.answer(host.host, "POST", path, json.dumps(body).encode(), peer, CONTROLLER)
    return status, result.get("error", "")


def test_agent_checks_in_the_real_order_and_uses_the_token_up_first(tmp_path: Path) -> None:
    with made_controller(tmp_path) as (host, _api):
        path = "/cluster/api/v2.0/join"

        def body(**more: object) -> dict[str, Any]:
            token = host.token().split("/")[0]
            return {"token": token, "hostname": "spark-01", "port": "25000", "worker": "as-worker", **more}

        assert ask(host, path, body(token="x" * 32, port="1")) == (500, "Invalid token")
        spent = body(port="26000")
        assert ask(host, path, spent)[0] == 502
        assert ask(host, path, spent) == (500, "Invalid token"), "used up by the refused call"
        assert ask(host, path, body(), peer=CONTROLLER)[0] == 503
        tree.make_backend(host.host, f"{WORKER}:19001")
        assert "already known to dqlite" in ask(host, path, body(worker=None))[1]
        host.host.lock("ha-cluster").unlink()
        assert ask(host, path, body(port="26000"))[0] == 501


def test_agent_signs_and_configures_only_with_their_tokens(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, _api = pair
    request = pki.make_request(worker.root / "any.key", "/CN=evil/O=system:masters")
    assert ask(controller, "/cluster/api/v1.0/sign-cert", {"token": "x", "request": request})[0] == 500
    join(worker, controller.token())
    assert (controller.data / "credentials/certs-request-tokens.txt").read_text() == "", "both were spent"
    change = {"name": "kubelet", "arguments_update": [{"--x": "1"}], "restart": True}
    assert ask(worker, "/cluster/api/v1.0/configure", {"callback": "x", "configuration": [change]})[0] == 500
    token = (worker.data / "credentials/callback-token.txt").read_text().strip()
    assert ask(worker, "/cluster/api/v1.0/configure", {"callback": token, "configuration": [change]})[0] == 200
    assert "--x=1" in (worker.data / "args/kubelet").read_text()
    assert agent.answer(worker.host, "GET", "/health", b"", "", "") == (200, {"status": "OK"})
    assert agent.answer(worker.host, "POST", "/nosuch", b"{}", "", "")[0] == 404
    assert agent.answer(worker.host, "POST", "/cluster/api/v2.0/join", b"{", "", "")[0] == 400


# -- leaving


def test_leave_makes_a_host_of_its_own_again(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, _api = pair
    fresh = worker.locks()
    join(worker, controller.token())
    done = worker.microk8s("leave")
    assert done.returncode == 0
    assert done.stdout == "Configuring services.\nGenerating new cluster certificates.\nWaiting for node to start.\n"
    assert worker.locks() == fresh
    assert not (worker.data / "certs/ca.remote.crt").exists()
    assert (worker.data / "certs/ca.crt").read_text() != (controller.data / "certs/ca.crt").read_text()
    assert (worker.data / "args/kubelet").read_text() == tree.KUBELET
    assert worker.microk8s("leave").returncode == 1


def test_half_a_leave_keeps_the_lock(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, _api = pair
    join(worker, controller.token())
    worker.fault(leave_dies_midway=True)
    assert worker.microk8s("leave").returncode == 1
    assert "clustered.lock" in worker.locks()
    assert not (worker.data / "certs/ca.remote.crt").exists()
    worker.fault()
    again = worker.microk8s("leave")
    assert (again.returncode, "Configuring" in again.stdout) == (0, False)
    assert "clustered.lock" in worker.locks(), "the second try takes the control plane's way and says all is well"


def test_only_voter_cannot_leave(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, _api = pair
    join(worker, controller.token())
    done = controller.microk8s("leave")
    assert done.returncode == 3
    assert "only copy of the Kubernetes database" in done.stdout


def test_remove_node_deletes_the_node(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, api = pair
    join(worker, controller.token())
    api.add_node("spark-01", WORKER)
    assert controller.microk8s("remove-node", WORKER).returncode == 0, "by address as well as by name"
    assert ("api/v1", "nodes", "", "spark-01") not in api.objects
    assert "clustered.lock" in worker.locks(), "the worker itself is not told"


# -- the kubelet


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[SimHost, FakeApi]]:
    with made_controller(tmp_path, hostname="node-a", node={"cpu": "8", "memory": "32Gi"}) as (host, api):
        with open(host.data / "args/kubelet", "a") as out:
            out.write("--system-reserved=cpu=500m,memory=2Gi\n--register-with-taints=k=v:NoSchedule,gone:NoExecute\n")
        containerd.start(host.host)
        yield host, api


def restarted(host: SimHost) -> None:
    host.stop()
    host.daemons.clear()
    host.start("kubelite")


def test_arguments_act_as_on_a_real_kubelet(node: tuple[SimHost, FakeApi]) -> None:
    host, api = node
    restarted(host)
    eventually(lambda: ("api/v1", "nodes", "", "node-a") in api.objects and ready(api, "node-a")[0] == "True")
    made = api.node("node-a")
    assert made["spec"]["taints"] == [{"key": "k", "value": "v", "effect": "NoSchedule"},
                                      {"key": "gone", "effect": "NoExecute"}]  # fmt: skip
    assert made["status"]["allocatable"]["cpu"] == "7500m"
    assert made["status"]["allocatable"]["memory"] == f"{(30 * 1024 - 100) * 1024}Ki"
    # labels and taints of arguments count at the creation of the Node only; reservations at every start
    text = (host.data / "args/kubelet").read_text()
    text = text.replace("memory=2Gi", "memory=4Gi").replace("k=v:", "k=w:")
    (host.data / "args/kubelet").write_text(text.replace("microk8s.io/cluster=true", "microk8s.io/cluster=true,new=1"))
    restarted(host)
    less = f"{(28 * 1024 - 100) * 1024}Ki"
    eventually(lambda: api.node("node-a")["status"]["allocatable"]["memory"] == less)
    assert api.node("node-a")["spec"]["taints"][0]["value"] == "v"
    assert "new" not in api.node("node-a")["metadata"]["labels"]
    del api.objects[("api/v1", "nodes", "", "node-a")]
    restarted(host)
    eventually(lambda: ("api/v1", "nodes", "", "node-a") in api.objects)
    assert api.node("node-a")["metadata"]["labels"]["new"] == "1"
    assert api.node("node-a")["spec"]["taints"][0]["value"] == "w"


@pytest.mark.parametrize("line", ["--no-such-flag=1", "--system-reserved=memory=much"])
def test_kubelet_refuses_arguments_that_it_does_not_know(node: tuple[SimHost, FakeApi], line: str) -> None:
    host, api = node
    with open(host.data / "args/kubelet", "a") as out:
        out.write(f"{line}\n")
    assert host.start("kubelite").wait(10) == 1
    assert ("api/v1", "nodes", "", "node-a") not in api.objects


def test_flags_of_a_fresh_installation_are_known() -> None:
    assert kubelite.problem(argfile.parse(tree.KUBELET)) == ""


def test_broken_containerd_template_makes_the_node_unready(node: tuple[SimHost, FakeApi]) -> None:
    host, api = node
    restarted(host)
    eventually(lambda: ("api/v1", "nodes", "", "node-a") in api.objects and ready(api, "node-a")[0] == "True")
    template = host.data / "args/containerd-template.toml"
    good = template.read_text()
    template.write_text(good + "[broken\n")
    done = host.run("containerd")
    assert done.returncode == 1
    assert "failed to load TOML" in done.stderr
    eventually(lambda: ready(api, "node-a")[0] == "False")
    assert ready(api, "node-a")[1].startswith("container runtime is down")
    section = '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]\nruntime_type = "x"\n'
    template.write_text(good + section)
    containerd.start(host.host)
    eventually(lambda: ready(api, "node-a")[0] == "True")
    wanted = "nvidia,nvidia-container-runtime,runc"
    eventually(lambda: api.node("node-a")["metadata"]["annotations"][kubelite.HANDLERS] == wanted)


def test_import_without_the_cri_plugin_is_a_node_without_runtime(node: tuple[SimHost, FakeApi]) -> None:
    host, _api = node
    template = host.data / "args/containerd-template.toml"
    dropin = host.root / "etc/containerd/conf.d/99-nvidia.toml"
    dropin.parent.mkdir(parents=True)
    dropin.write_text('disabled_plugins = ["cri"]\n')
    template.write_text(f'imports = ["/etc/containerd/conf.d/*.toml"]\n{template.read_text()}')
    assert containerd.start(host.host)
    assert "unknown service runtime.v1.RuntimeService" in json.loads(host.host.runtime_file.read_text())["error"]


def test_every_containerd_start_rewrites_the_apparmor_profile(node: tuple[SimHost, FakeApi]) -> None:
    host, _api = node
    profile = host.root / "etc/apparmor.d/cri-containerd.apparmor.d"
    profile.write_text("mine\n")
    containerd.start(host.host)
    assert "profile cri-containerd.apparmor.d" in profile.read_text()


@pytest.mark.parametrize("text", ["1.5.5", "five", "5X", ""])
def test_bad_quantities_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        kubelite.quantity(text)


# -- addons


def test_addon_is_enabled_only_once_its_pods_are_there(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, _worker, api = pair
    assert controller.microk8s("enable", "dns:1.1.1.1,8.8.8.8").returncode == 0
    corefile = api.objects[("api/v1", "configmaps", "kube-system", "coredns")]["data"]["Corefile"]
    assert "forward . 1.1.1.1 8.8.8.8\n" in corefile
    assert controller.microk8s("status", "--addon", "dns").stdout == "disabled\n"
    api.put("api/v1", "pods", "kube-system", "coredns-1")
    assert controller.microk8s("status", "--addon", "dns").stdout == "enabled\n"
    api.writes.clear()
    assert "already enabled" in controller.microk8s("enable", "dns:9.9.9.9").stdout
    assert api.writes == [], "arguments of an addon that is on are ignored"


def test_rbac_is_seen_in_arguments_and_pushed_to_nodes(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, api = pair
    api.put("apis/rbac.authorization.k8s.io/v1", "clusterroles", "", "cluster-admin")
    join(worker, controller.token())
    api.add_node("spark-01", WORKER)
    worker.start_agent()
    assert controller.microk8s("status", "--addon", "rbac").stdout == "disabled\n"
    assert controller.microk8s("enable", "rbac").returncode == 0
    assert controller.microk8s("status", "--addon", "rbac").stdout == "enabled\n"
    assert "--authorization-mode=RBAC,Node" in (worker.data / "args/kube-apiserver").read_text()


def test_dead_worker_breaks_enable_half_way(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, api = pair
    join(worker, controller.token())
    api.add_node("spark-01", WORKER)  # its agent does not run
    done = controller.microk8s("enable", "rbac")
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr
    assert "RBAC,Node" in (controller.data / "args/kube-apiserver").read_text(), "half applied, as in reality"


def test_metallb_needs_a_range_and_makes_the_pool(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, _worker, api = pair
    assert controller.microk8s("enable", "metallb").returncode == 1
    bad = controller.microk8s("enable", "metallb:10.0.0.9-10.0.0.1")
    assert (bad.returncode, bad.stdout.splitlines()[-1]) == (
        1, "Your input value (10.0.0.9-10.0.0.1) is not a valid IP Range")  # fmt: skip
    assert not [k for k in api.objects if k[2] == "metallb-system"]
    running = {"status": {"readyReplicas": 1}}
    api.put("apis/apps/v1", "deployments", "metallb-system", "controller", running)
    assert controller.microk8s("enable", "metallb:10.77.0.200-10.77.0.210").returncode == 0
    pool = api.objects[("apis/metallb.io/v1beta1", "ipaddresspools", "metallb-system", "default-addresspool")]
    assert pool["spec"]["addresses"] == ["10.77.0.200-10.77.0.210"]
    assert ("apis/apps/v1", "daemonsets", "metallb-system", "speaker") in api.objects


def test_gpu_addon_is_unknown_on_arm(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, worker, _api = pair
    assert worker.microk8s("enable", "nvidia").stderr == "Addon nvidia was not found in any repository\n"
    assert "core/nvidia: disabled" in controller.microk8s("status", "--format", "short").stdout


def test_agent_applies_the_launch_configuration(tmp_path: Path) -> None:
    with made_controller(tmp_path) as (host, api):
        launcher = host.host.common / "etc/launcher"
        assert [p.name for p in launcher.glob("*.yaml*")] == ["install.yaml"]
        host.start_agent()
        eventually(lambda: (launcher / "install.yaml.applied").exists(), 20)
        assert not (launcher / "install.yaml").exists()
        assert ("apis/apps/v1", "deployments", "kube-system", "coredns") in api.objects


def test_failing_launch_configuration_stays_pending(tmp_path: Path) -> None:
    with made_controller(tmp_path) as (host, _api):
        launcher = host.host.common / "etc/launcher"
        (launcher / "install.yaml").write_text("version: 0.1.0\naddons:\n- name: nosuch\n")
        agent.launch_once(host.host)
        assert (launcher / "install.yaml").exists()


def test_status_is_not_running_while_the_api_is_away(pair: tuple[SimHost, SimHost, FakeApi]) -> None:
    controller, _worker, api = pair
    assert controller.microk8s("status").returncode == 0
    api.down = True
    assert controller.microk8s("status").returncode == 1


# -- what is put on a host


@pytest.mark.parametrize("kind", ["controller", "spark"])
def test_layers_are_complete_and_stay_untouched_the_second_time(tmp_path: Path, kind: Any) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("kubectl", "helm"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    made = layers(kind, tmp_path / "out", tools)
    assert [p.name for p in made] == ["tools", kind, "common"]

    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_mode) for p in (tmp_path / "out").rglob("*") if p.is_file()}

    before = state()
    assert layers(kind, tmp_path / "out", tools) == made
    assert state() == before
    files = {"/" + str(p.relative_to(layer)) for layer in made for p in layer.rglob("*") if p.is_file()}
    for path in ("/usr/bin/snap", "/usr/lib/snapsim/bin/microk8s", "/usr/lib/snapsim/libexec/kubectl",
                 "/etc/os-release", "/etc/snapsim.json"):  # fmt: skip
        assert path in files
    assert ("/usr/bin/nvidia-smi" in files) == (kind == "spark")
    assert "/snap/bin/microk8s" not in files, "nothing of MicroK8s before its installation"
    stale = made[1] / "etc/stale"
    stale.write_text("x")
    layers(kind, tmp_path / "out", tools)
    assert not stale.exists()


def test_layers_refuse_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such kind"):
        layers("toaster", tmp_path)  # type: ignore[arg-type]


def test_every_fault_is_read_somewhere() -> None:
    sources = "".join(p.read_text() for p in Path(units.__file__).parent.rglob("*.py"))
    read = {*re.findall(r'fault\("(\w+)"\)', sources), *faces.ACTIONS, *faces.FACE}
    assert set(FAULTS) <= read


def test_only_a_seeded_host_gets_the_api_port() -> None:
    assert units.API_PORT_UNIT in units.units("https://10.77.255.254:6443")
    assert units.API_PORT_UNIT not in units.units("")
