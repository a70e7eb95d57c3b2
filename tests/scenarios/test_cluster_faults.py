# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults of docs/faults.md that one cluster can have, each by its number, on one lab.

Every test leaves the cluster whole, mostly by the run that it asserts on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.scenarios.cluster import (
    DATA,
    LOCKS,
    Rollout,
    eventually,
    filtered,
    flags,
    forget,
    lab,
    nodes,
    on,
    ready,
    rollout,
    settled,
    tokens,
    until_not_ready,
)
from tests.scenarios.conftest import kubectl, playbook
from tests.scenarios.evidence import commands, writes

SECOND = "controllers,spark-02"
long = pytest.mark.long


@pytest.fixture(autouse=True)
def whole() -> Iterator[None]:
    yield
    lab("fault", "clear")


# --- nothing is changed ---


def test_fault_03_second_run() -> None:
    result = rollout()
    assert result.changes == []
    assert result.mutations == []
    assert writes(result.begun) == []
    assert result.tasks("spark-01") <= 25


def test_fault_12_nvidia_addon_on_arm64() -> None:
    on(
        "spark-01",
        '! grep -q "name: nvidia" /var/snap/microk8s/common/addons/core/addons.yaml || uname -m | grep -q aarch64',
    )
    assert [
        each for each in commands() if {"nvidia", "gpu"} & set(each.line.replace(":", " ").replace("/", " ").split())
    ] == []
    assert nodes()["spark-01"]["status"]["allocatable"]["nvidia.com/gpu"] == "1"


def test_fault_18_more_addresses() -> None:
    offered = on("controller", "hostname -I").split()
    assert len(offered) > 1 and "10.77.0.10" in offered
    joins = [each for each in commands() if "microk8s join" in each.line]
    assert [each for each in joins if "join 10.77.0.10:25000/" in each.line and each.rc == 0]
    others = [address for address in offered if address != "10.77.0.10"]
    assert [each for each in joins if any(f"join {address}:" in each.line for address in others)] == []


def test_fault_21_wrong_channel() -> None:
    for channel in ("1.36/stable", "1.32/stable"):
        wanted = f"{{tokenlabs_microk8s_channel: {channel}, tokenlabs_release_unsupported: true}}"
        result = rollout("-e", wanted, code=1)
        assert (
            f"MicroK8s follows 1.34/stable, not {channel}, and this playbook refreshes no running node" in result.said
        )
        assert result.mutations == []


# --- a Spark that has to join ---


def test_fault_25_check_mode() -> None:
    """Also the beginning of fault 4: the Spark is left without MicroK8s."""
    forget("spark-02")
    result = rollout("--check", "--diff")
    assert "install: MicroK8s is not installed" in result.said
    assert "join the cluster of controller" in result.said
    assert result.mutations == []
    assert writes(result.begun) == []


def test_fault_04_token_expired() -> None:
    if "spark-02" in nodes():
        forget("spark-02")
    lab("fault", "token_expired", "controller", "1")
    result = rollout(limit=SECOND)
    assert len(result.calls("add-node", "controller")) == 2
    assert [each.rc for each in result.calls("microk8s join", "spark-02")] == [6, 0]
    settled()


@pytest.fixture(scope="module")
def both_joined() -> Rollout:
    """Both Sparks join a cluster that nobody has joined before; the first join takes the API away for long."""
    forget("spark-01", "spark-02")
    on("controller", f"sed -i s/10.77.0.10:19001/127.0.0.1:19001/ {DATA}/var/kubernetes/backend/*.yaml")
    on("controller", f"rm {LOCKS}/no-cert-reissue")
    on("controller", 'sed -i "1s/{/{ \\"rebind_delay\\": 20,/" /etc/snapsim.json')
    on("controller", "systemctl restart snap.microk8s.daemon-cluster-agent")
    result = rollout()
    settled()
    return result


@long
def test_fault_05_two_at_once(both_joined: Rollout) -> None:
    minted = both_joined.calls("add-node", "controller")
    joined = both_joined.calls("microk8s join")
    assert len(minted) == len(joined) == 2, "one token for each"
    assert [each.rc for each in joined] == [0, 0]
    assert minted[0].t <= joined[0].begun and joined[0].t <= minted[1].begun, "they overlap"


@long
def test_fault_09_api_away_at_the_first_join(both_joined: Rollout) -> None:
    silent = [each for each in both_joined.calls("kubectl get nodes", "controller") if each.rc != 0]
    assert silent, "the API was never away, so nothing was proved"
    assert "no-cert-reissue" in on("controller", f"ls {LOCKS}")


@long
def test_fault_06_join_killed_midway() -> None:
    forget("spark-02")
    lab("fault", "join_dies_midway", "spark-02", "kill")
    result = rollout(code=1)
    assert "spark-02 could not join 10.77.0.10:25000" in result.said
    assert result.recap("failed")["spark-01"] == result.recap("unreachable")["spark-01"] == 0
    assert tokens("controller") == []

    lab("fault", "clear", "spark-02")
    result = rollout(limit=SECOND)
    assert len(result.calls("add-node", "controller")) == 1
    settled()


@long
def test_fault_08_new_image_with_an_old_node() -> None:
    kubectl("label", "node", "spark-02", "left-over=true")
    before = nodes()["spark-02"]["metadata"]["uid"]
    on("spark-02", "snap remove --purge microk8s")
    until_not_ready("spark-02")
    result = rollout(limit=SECOND)
    assert [each.rc for each in result.calls("remove-node spark-02", "controller")] == [0]
    after = nodes()["spark-02"]["metadata"]
    assert after["uid"] != before and "left-over" not in after["labels"]
    settled()


@long
def test_fault_10_snap_busy() -> None:
    forget("spark-02")
    lab("fault", "change_conflict", "spark-02", "2")
    result = rollout(limit=SECOND)
    assert [each.rc for each in result.calls("snap install", "spark-02")] == [10, 10, 0]
    settled()


@long
def test_fault_10_snap_busy_at_a_restart(one_spark_apart: Path) -> None:
    lab("fault", "change_conflict", "spark-02", "1")
    result = rollout("-i", str(one_spark_apart), limit=SECOND)
    assert [each.rc for each in result.calls("snap restart", "spark-02")] == [10, 0]
    rollout(limit=SECOND)
    settled()


@long
def test_fault_16_controller_behind_a_filter() -> None:
    forget("spark-02")
    with filtered("controller", 25000):
        result = rollout("-e", "microk8s_join_timeout=10", limit=SECOND, code=1)
    assert "spark-02 could not join 10.77.0.10:25000: no answer within 10 s" in result.said
    assert time.time() - result.begun < 300
    assert tokens("controller") == []
    rollout(limit=SECOND)
    settled()


@long
def test_fault_24_arguments_of_the_controller_on_a_spark(one_spark_apart: Path) -> None:
    """The controller's own arguments, by our hand and by somebody else's, come along with the join."""
    keep = on("controller", f"cat {DATA}/args/kubelet")
    on("controller", f"echo --register-with-taints=only=controller:NoSchedule >> {DATA}/args/kubelet")
    forget("spark-02")
    try:
        rollout("-i", str(one_spark_apart))
        assert flags("controller")["--system-reserved"] == "memory=1Gi"
        assert flags("spark-02")["--system-reserved"] == "memory=4Gi"
        assert "--register-with-taints" not in flags("spark-02")
        assert not [each for each in nodes()["spark-02"]["spec"].get("taints", []) if each["key"] == "only"]
    finally:
        on("controller", f"sed -i /register-with-taints/d {DATA}/args/kubelet")
    rollout()
    assert flags("controller") == dict(line.partition("=")[::2] for line in keep.splitlines() if line.startswith("--"))
    settled()


@long
def test_fault_07_worker_of_another_cluster() -> None:
    """spark-01 is the other cluster's controller here."""
    forget("spark-01", "spark-02")
    for host in ("spark-01", "spark-02"):
        on(host, "snap install --classic --channel 1.34/stable microk8s && snap refresh --hold microk8s")
    token = on("spark-01", "/snap/bin/microk8s add-node --format token-check").strip()
    on("spark-02", f"/snap/bin/microk8s join 10.77.0.11:25000/{token} --worker")
    before = on("spark-02", f"cat {DATA}/certs/ca.remote.crt {DATA}/args/kubelet")
    result = rollout(limit=SECOND, code=1)
    assert "spark-02: it is a worker of another cluster" in result.said
    assert result.calls("snap", "spark-02") == [each for each in result.calls("snap", "spark-02") if not each.mutating]
    assert on("spark-02", f"cat {DATA}/certs/ca.remote.crt {DATA}/args/kubelet") == before

    result = rollout("-e", "microk8s_force_rejoin=true")
    assert [each.rc for each in result.calls("microk8s leave", "spark-02")] == [0]
    settled()


# --- a cluster that has been up ---


@long
def test_fault_01_a_worker_that_says_0() -> None:
    on("spark-02", "snap stop --disable microk8s")
    said = on("spark-02", "/snap/bin/microk8s status --wait-ready")
    assert "acting as a node in a cluster" in said, "the trap that this is about"
    until_not_ready("spark-02")
    result = rollout()
    assert [each.rc for each in result.calls("snap start", "spark-02")] == [0]
    settled()


@long
def test_fault_02_stopped_nodes() -> None:
    on("spark-02", f"snap stop --disable microk8s && touch {LOCKS}/stopped.lock")
    on("controller", "/snap/bin/microk8s stop")
    result = rollout()
    for host in ("controller", "spark-02"):
        assert [each.rc for each in result.calls("snap start", host)] == [0]
    assert result.calls("add-node") == []
    settled()


@long
def test_fault_11_automatic_refresh_not_held() -> None:
    on("spark-02", "snap refresh --unhold microk8s")
    preview = rollout("--check", limit=SECOND)
    assert "hold automatic refreshes" in preview.text and preview.mutations == []
    result = rollout(limit=SECOND)
    assert result.mutations == ["spark-02: snap refresh --hold microk8s"]
    version = on("spark-02", "snap list microk8s")
    lab("fault", "auto_refresh_in", "spark-02", "1")
    time.sleep(3)  # the time at which it would have happened
    assert on("spark-02", "snap list microk8s") == version
    settled()


ADDON_ARGUMENTS = {
    "range": (
        "tokenlabs_loadbalancer_range",
        ("10.77.0.220-10.77.0.225", "10.77.0.200-10.77.0.210"),
        ("-n", "metallb-system", "ipaddresspool", "default-addresspool", "-o", "jsonpath={.spec.addresses}"),
    ),
    "dns": (
        "microk8s_dns_servers",
        ("[10.77.255.254]", "[8.8.8.8]"),
        ("-n", "kube-system", "configmap", "coredns", "-o", "jsonpath={.data.Corefile}"),
    ),
}


@long
@pytest.mark.parametrize("name", ADDON_ARGUMENTS)
def test_fault_13_arguments_of_an_addon(name: str) -> None:
    variable, (other, usual), where = ADDON_ARGUMENTS[name]
    result = rollout("-e", f"{{{variable}: {other}}}")
    assert other.strip("[]") in kubectl("get", *where)
    assert [each for each in result.mutations if "enable" in each] == []
    again = rollout("-e", f"{{{variable}: {other}}}")
    assert again.changes == []
    rollout("-e", f"{{{variable}: {usual}}}")
    assert other.strip("[]") not in kubectl("get", *where)
    assert usual.strip("[]") in kubectl("get", *where)


@long
def test_fault_14_dead_worker_while_an_addon_is_enabled() -> None:
    on("controller", f"sed -i s/--authorization-mode=.*/--authorization-mode=AlwaysAllow/ {DATA}/args/kube-apiserver")
    lab("fault", "stop", "spark-02")
    until_not_ready("spark-02")
    try:
        result = rollout(code=1)
        assert "rbac cannot be enabled while spark-02 is not Ready" in result.said
        assert result.calls("microk8s enable") == []
    finally:
        lab("fault", "start", "spark-02")
    eventually("spark-02 is Ready", lambda: ready(nodes().get("spark-02")))
    result = rollout()
    assert [each.line for each in result.calls("microk8s enable")] == ["microk8s enable rbac"]
    settled()


@long
def test_fault_17_host_names() -> None:
    begun = time.time()
    on("spark-02", "hostname spark-01")
    try:
        verdict = playbook("preflight")
        assert verdict.code != 0 and "spark-02" in verdict.text and "host name" in verdict.text, verdict.text
        result = rollout(limit=SECOND, code=1)
        assert "its host name is spark-01" in result.said
    finally:
        on("spark-02", "hostname spark-02")
    assert [str(each) for each in commands(begun) if each.mutating] == []


@long
def test_fault_19_broken_template(tmp_path: Path) -> None:
    """What is broken by hand is named; what the role's own change breaks is taken back."""
    template = f"{DATA}/args/containerd-template.toml"
    digests = f"cd {DATA}/args && md5sum kubelet containerd-template.toml kube-apiserver"
    good = on("spark-02", digests)
    on("spark-02", f"cp -p {template} /root/template; echo [broken >> {template}")
    try:
        result = rollout(limit=SECOND, code=1)
        assert "spark-02: containerd's template is broken" in result.said and result.mutations == []
    finally:
        on("spark-02", f"mv /root/template {template}")

    overlay = apart(tmp_path, {"spark-02": {"--no-such-flag": "1"}})
    result = rollout("-i", str(overlay), "-e", "microk8s_restart_timeout=60", code=1)
    assert "spark-02 did not get through the change of its configuration, which was taken back" in result.said
    assert result.recap("failed")["spark-01"] == 0
    assert on("spark-02", digests) == good
    settled()
    assert rollout().changes == []


@long
def test_fault_22_no_driver() -> None:
    begun = time.time()
    lab("fault", "gpu_driver_broken", "spark-02")
    verdict = playbook("preflight")
    assert verdict.code != 0 and "NVIDIA-SMI has failed" in verdict.text, verdict.text
    assert [str(each) for each in commands(begun) if each.mutating] == []


@long
def test_fault_23_apparmor_profile_written_anew() -> None:
    """What MicroK8s writes includes AppArmor's base rules, and these what is added to them."""
    folder = "/etc/apparmor.d"
    profile, base, drop_in = "cri-containerd.apparmor.d", "abstractions/base", "abstractions/base.d/50-microk8s-runc"
    on("spark-02", f"echo changed by hand > {folder}/{profile}; snap restart microk8s.daemon-containerd")
    eventually("the profile is new", lambda: "changed by hand" not in on("spark-02", f"cat {folder}/{profile}"))
    assert "peer=runc" not in on("spark-02", f"cat {folder}/{profile}"), "nothing to prove"
    assert f"#include <{base}>" in on("spark-02", f"cat {folder}/{profile}")
    assert "include if exists <abstractions/base.d>" in on("spark-02", f"cat {folder}/{base}")
    assert "signal (receive) peer=runc," in on("spark-02", f"cat {folder}/{drop_in}")
    eventually("spark-02 is Ready", lambda: ready(nodes().get("spark-02")))

    on("spark-02", f"rm {folder}/{drop_in}")
    rollout(limit=SECOND)
    assert "signal (receive) peer=runc," in on("spark-02", f"cat {folder}/{drop_in}")


@long
def test_then_nothing_is_left_to_do() -> None:
    settled()
    result = rollout()
    assert result.changes == result.mutations == []
    assert writes(result.begun) == []


# --- inventories that differ from the lab's ---


def apart(folder: Path, arguments: dict[str, dict[str, str]]) -> Path:
    """A second inventory with kubelet arguments for some hosts."""
    path = folder / "apart.yml"
    path.write_text(yaml.safe_dump({"all": {"hosts": {h: {"microk8s_kubelet_args": a} for h, a in arguments.items()}}}))
    return path


@pytest.fixture
def one_spark_apart(tmp_path: Path) -> Path:
    reserved = {"controller": "memory=1Gi", "spark-02": "memory=4Gi"}
    return apart(tmp_path, {host: {"--system-reserved": value} for host, value in reserved.items()})
