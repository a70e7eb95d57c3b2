# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab's whole life, for real: up, work, break, heal, kill, down; and nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import build, netns, processes
from lab.paths import REPO, Lab

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a lab is made of namespaces and mounts"),
    pytest.mark.skipif(
        bool(build.missing(build.machine_arch())), reason="the lab's tools are not built; 'lab/ctl build' makes them"
    ),
]

# The stand-ins have tests of their own; here they would only cost memory.
SMALL = ("--without", "world,gateway,kwok")


def ctl(state_root: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("TOKENLABS_LAB")}
    env |= {"TOKENLABS_LAB_STATE": str(state_root), "TOKENLABS_PYTHON": sys.executable}
    command = [str(REPO / "lab/ctl"), "--name", name, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def until(condition: Callable[[], Any], limit: float = 30.0) -> Any:
    deadline = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def machine_view() -> tuple[set[str], set[str], set[str]]:
    """What of any lab could be seen on the machine: links and addresses, mounts, named network namespaces."""
    links = subprocess.run(["ip", "-o", "addr"], check=True, capture_output=True, text=True).stdout
    mounts = Path("/proc/self/mounts").read_text()
    named = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    return set(links.splitlines()), set(mounts.splitlines()), set(named.splitlines())


def traces(lab: Lab) -> list[str]:
    """Processes and control groups of a lab, found from outside."""
    mark = str(lab.state).encode()
    found = []
    for pid in processes.pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if (mark in command or mark in environment) and command:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    group = netns.cgroup_root() / lab.cgroup
    return found + ([str(group)] if group.exists() else [])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labs")


@pytest.fixture(scope="module")
def before() -> tuple[set[str], set[str], set[str]]:
    return machine_view()


@pytest.fixture(scope="module")
def lab(root: Path, before: object) -> Iterator[Lab]:
    good(ctl(root, "cycle", "up", "--hosts", "controller,spark-01", *SMALL))
    yield Lab.load(root / "cycle")
    good(ctl(root, "cycle", "down"))


@pytest.fixture
def run(root: Path) -> Callable[..., str]:
    return lambda *arguments: good(ctl(root, "cycle", *arguments))


@pytest.fixture
def status(run: Callable[..., str]) -> Callable[[], dict[str, Any]]:
    return lambda: json.loads(run("status", "--json"))


Run = Callable[..., str]
Status = Callable[[], dict[str, Any]]


def test_up_makes_everything_ready(lab: Lab, run: Run, status: Status) -> None:
    now = status()
    assert now["ready"] and now["running"]
    assert set(now["hosts"]) == {"controller", "spark-01"}
    assert {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} <= set(now["components"])
    assert 0 < now["memory_mib"] < 2560
    version = json.loads(run("kubectl", "version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == "v1.34.4"


def test_up_again_says_so(lab: Lab, run: Run, root: Path) -> None:
    assert "is up already" in run("up")
    assert "is up already" in run("up", "--hosts", "controller,spark-01")
    other = ctl(root, "cycle", "up", "--hosts", "controller")
    assert other.returncode == 1
    assert other.stderr == "lab: lab cycle is up with controller, spark-01; take it down first to change its hosts\n"


def test_every_host_is_a_machine_of_its_own(lab: Lab, run: Run) -> None:
    seen = {}
    for host in lab.hosts:
        asked = "hostname; cat /etc/machine-id; systemctl is-system-running; hostname -I; sudo id -un"
        name, machine, state, addresses, user = run("ssh", host.name, asked).splitlines()
        assert (name, state, user) == (host.name, "running", "root")
        assert host.address in addresses.split()
        seen[machine] = name
    assert len(seen) == len(lab.hosts)


def test_a_host_cannot_reach_the_machine_or_change_it(lab: Lab, run: Run) -> None:
    secret = lab.pki / "ca.key"
    assert "hidden" in run("ssh", "spark-01", f"sudo test -e {secret} || echo hidden")
    assert "refused" in run("ssh", "spark-01", "sudo sysctl -w vm.swappiness=61 >/dev/null 2>&1 || echo refused")
    assert "refused" in run("ssh", "spark-01", "curl -sS -m 5 http://192.0.2.1/ >/dev/null 2>&1 || echo refused")
    assert "refused" in run("ssh", "spark-01", "sudo date -s 2001-01-01 >/dev/null 2>&1 || echo refused")


def test_exec_is_inside_and_the_machine_outside(lab: Lab, run: Run) -> None:
    assert "10.77.255.254/16" in run("exec", "--", "ip", "-o", "addr")
    assert run("exec", "--", "sh", "-c", "echo $TOKENLABS_LAB $KUBECONFIG") == f"{lab.state} {lab.kubeconfig}"
    outside = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True).stdout
    assert "10.77.255.254" not in outside
    inner = run("exec", "--", str(REPO / "lab/ctl"), "status", "--json")
    assert json.loads(inner)["name"] == "cycle"


def test_exec_hands_on_the_exit_status(lab: Lab, root: Path) -> None:
    assert ctl(root, "cycle", "exec", "--", "sh", "-c", "exit 7").returncode == 7


def test_the_mirror_serves_what_was_built(lab: Lab, run: Run) -> None:
    sums = json.loads((lab.state / "checksums.json").read_text())
    url = "http://10.77.255.254/downloads/get.helm.sh/helm-v3.19.5-linux-{}.tar.gz".format(next(iter(sums["helm"])))
    shown = run("ssh", "controller", f"curl -fsS {url} | sha256sum")
    assert shown.split()[0] in sums["helm"].values()
    assert "kubernetes" in run("ssh", "controller", "curl -fsS http://10.77.255.254/simple/")
    assert run("ssh", "controller", "curl -fsS http://10.77.255.254:5000/v2/") == "{}"


def test_stop_and_start_keep_a_hosts_files(lab: Lab, run: Run, status: Status) -> None:
    run("ssh", "spark-01", "echo kept > /home/ops/file")
    run("fault", "stop", "spark-01")
    assert not status()["hosts"]["spark-01"]["running"]
    run("fault", "start", "spark-01")
    until(lambda: status()["hosts"]["spark-01"]["ready"])
    assert run("ssh", "spark-01", "cat /home/ops/file") == "kept"


def test_cut_and_heal(lab: Lab, run: Run, root: Path, status: Status) -> None:
    reach = ("exec", "--", "bash", "-c", "timeout 2 bash -c '</dev/tcp/10.77.0.11/22'")
    run("fault", "cut", "spark-01")
    assert ctl(root, "cycle", *reach).returncode != 0
    assert status()["hosts"]["spark-01"]["network"] == "cut"
    run("fault", "heal", "spark-01")
    until(lambda: ctl(root, "cycle", *reach).returncode == 0)


@pytest.mark.parametrize("way", ["from outside", "from inside"])
def test_reboot(lab: Lab, run: Run, root: Path, status: Status, way: str) -> None:
    boot_id = ("ssh", "spark-01", "cat /proc/sys/kernel/random/boot_id")
    first, boots = run(*boot_id), status()["hosts"]["spark-01"]["boots"]
    if way == "from outside":
        run("fault", "reboot", "spark-01")
    else:
        ctl(root, "cycle", "ssh", "spark-01", "sudo systemctl reboot")
    until(lambda: (now := status()["hosts"]["spark-01"])["ready"] and now["boots"] == boots + 1)
    assert run(*boot_id) != first
    assert status()["hosts"]["spark-01"]["last_end"] == "reboot"


def test_a_crashed_api_server_comes_back_with_its_objects(lab: Lab, run: Run, status: Status) -> None:
    run("kubectl", "create", "configmap", "kept")
    run("fault", "crash", "kube-apiserver")
    until(lambda: (now := status()["components"]["kube-apiserver"])["ready"] and now["restarts"] == 1)
    assert run("kubectl", "get", "configmap", "kept", "-o", "name") == "configmap/kept"


def test_faults_reach_the_host_and_go(lab: Lab, run: Run) -> None:
    run("fault", "store_unreachable", "spark-01")
    assert json.loads(run("ssh", "spark-01", "sudo cat /var/lib/snapsim/faults.json")) == {"store_unreachable": True}
    run("fault", "platform", "policy_never_enforced", "some-policy")
    assert "some-policy" in run("kubectl", "-n", "lab-system", "get", "configmap", "lab-faults", "-o", "yaml")
    run("fault", "clear")
    assert run("fault", "list") == "lab: no fault is set"


def test_the_journal_of_all_hosts(lab: Lab, run: Run) -> None:
    for host in lab.hosts:
        run("ssh", host.name, "snap version")
    entries = [json.loads(line) for line in run("journal", "--json").splitlines()]
    assert {entry["host"] for entry in entries if entry["argv"][-1] == "version"} == {host.name for host in lab.hosts}


def test_logs(lab: Lab, run: Run, root: Path) -> None:
    assert "kube-apiserver.log" in run("logs")
    assert "boot 1" in run("logs", "supervisor")
    wrong = ctl(root, "cycle", "logs", "nothing")
    assert wrong.returncode == 1 and "no log of 'nothing'; there are" in wrong.stderr


def test_a_second_lab_beside_the_first(lab: Lab, run: Run, root: Path, status: Status) -> None:
    without = ("--without", "world,gateway,kwok,kube-scheduler,kube-controller-manager,registry")
    good(ctl(root, "second", "up", "--hosts", "controller", *without))
    run("kubectl", "create", "configmap", "only-in-the-first")
    second = good(ctl(root, "second", "kubectl", "get", "configmaps", "-o", "name"))
    assert "only-in-the-first" not in second
    assert run("ssh", "controller", "cat /etc/machine-id") != good(
        ctl(root, "second", "ssh", "controller", "cat /etc/machine-id")
    )
    gone = Lab.load(root / "second")
    assert "no process, mount, namespace, control group or file is left" in good(ctl(root, "second", "down"))
    assert traces(gone) == []
    assert status()["ready"]


@pytest.mark.parametrize("victim", ["supervisor", "holder", "keeper", "keeper by SIGTERM"])
def test_however_the_supervisor_dies_nothing_of_the_lab_lives_on(
    root: Path, before: tuple[set[str], set[str], set[str]], victim: str
) -> None:
    without = ("--without", "world,gateway,kwok,kube-scheduler,kube-controller-manager,registry")
    good(ctl(root, "victim", "up", "--hosts", "controller", *without))
    lab = Lab.load(root / "victim")
    holder = int((lab.state / "pid").read_text())
    keeper = processes._parent(holder)
    # A command that works in the lab's network, as an ssh connection that Ansible leaves open.
    worker = subprocess.Popen(["nsenter", "-t", str(holder), "--net", "sleep", "600"], env=lab.environment(os.environ))
    until(lambda: any(each.pid == worker.pid for each in processes.of_lab(lab.state)))
    target = {"supervisor": processes.children(holder)[0], "holder": holder}.get(victim, keeper)
    os.kill(target, signal.SIGTERM if "SIGTERM" in victim else signal.SIGKILL)
    if victim == "keeper":
        # Nobody is left to end what others started in the lab's network, and to remove empty control groups.
        until(lambda: traces(lab) and all("sleep 600" in each or "cgroup" in each for each in traces(lab)))
    else:
        assert until(lambda: worker.poll() is not None or None) is True
        until(lambda: traces(lab) == [])
    assert ctl(root, "victim", "status").returncode == 1
    assert json.loads(ctl(root, "victim", "status", "--json").stdout)["running"] is False
    good(ctl(root, "victim", "down"))
    worker.wait(5)
    assert traces(lab) == []
    assert not lab.state.exists()


def test_after_a_kill_up_starts_afresh(root: Path) -> None:
    without = ("--without", "world,gateway,kwok,kube-scheduler,kube-controller-manager,registry,kube-apiserver")
    good(ctl(root, "again", "up", "--hosts", "controller", *without))
    lab = Lab.load(root / "again")
    os.kill(processes.children(int((lab.state / "pid").read_text()))[0], signal.SIGKILL)
    until(lambda: ctl(root, "again", "status").returncode == 1)
    assert "is up after" in good(ctl(root, "again", "up", "--hosts", "controller", *without))
    good(ctl(root, "again", "down"))
    assert traces(lab) == []


def test_a_host_that_cannot_boot_is_told_at_once(root: Path) -> None:
    """An overlay cannot lie on another one, as the state directory would in some containers."""
    lines = [
        "set -eu",
        "mkdir -p lower upper work merged",
        "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged",
        f'"{REPO}/lab/ctl" --name unbootable up --hosts controller {" ".join(SMALL)} || code=$?',
        f'"{REPO}/lab/ctl" --name unbootable down',
        "exit ${code:-0}",
    ]
    place = root / "overlay"
    place.mkdir()
    env = os.environ | {"TOKENLABS_LAB_STATE": str(place / "merged"), "TOKENLABS_PYTHON": sys.executable}
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "lab: controller does not boot: mount: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - started < 60
    assert "no process, mount, namespace" in done.stdout


def test_an_interrupted_up_leaves_nothing_running(root: Path) -> None:
    env = os.environ | {"TOKENLABS_LAB_STATE": str(root), "TOKENLABS_PYTHON": sys.executable}
    command = [str(REPO / "lab/ctl"), "--name", "stopped", "up", "--hosts", "controller", *SMALL]
    up = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job ignores the interrupt, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until(lambda: (root / "stopped/ctl.sock").exists())
    lab = Lab.load(root / "stopped")
    up.send_signal(signal.SIGINT)
    assert up.wait(20) == 130
    assert up.stdout and "interrupted" in up.stdout.read()
    assert traces(lab) == []
    assert not lab.state.exists()


def test_the_machine_looks_as_before(root: Path, lab: Lab, before: tuple[set[str], set[str], set[str]]) -> None:
    """Even with a lab up: links, addresses, mounts and named namespaces are all inside."""
    now = machine_view()
    assert not [line for line in now[0] - before[0] if "10.77." in line or "br0" in line]
    assert not [line for line in now[1] - before[1] if str(root) in line]
    assert not {line.split()[0] for line in now[2] - before[2]} & {host.name for host in lab.hosts}
