# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated `snap`: texts and exit codes, what an installation leaves, faults, and the journal."""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path

import pytest

from lab.hostsim.snapsim import journal, miniyaml, store
from tests.lab.hostsim_harness import SimHost, eventually


@pytest.fixture
def host(tmp_path: Path) -> SimHost:
    return SimHost(tmp_path, {"hostname": "Spark-01", "address": "127.0.0.1", "arch": "aarch64"})


def test_install_list_and_hold(host: SimHost) -> None:
    absent = host.snap("list", "microk8s")
    assert (absent.returncode, absent.stderr) == (1, "error: no matching snaps installed\n")
    done = host.snap("install", "microk8s", "--classic", "--channel=1.34/stable")
    assert (done.returncode, done.stdout) == (0, "microk8s (1.34/stable) v1.34.3 from canonical** installed\n")
    again = host.snap("install", "microk8s", "--classic", "--channel=1.35/stable")
    assert again.returncode == 0
    assert again.stderr == "snap \"microk8s\" is already installed, see 'snap help refresh'\n"
    assert host.snap("refresh", "--hold", "microk8s").stdout == 'General refreshes of "microk8s" held indefinitely\n'
    assert host.snap("list", "microk8s").stdout == (
        "Name      Version  Rev   Tracking     Publisher    Notes\n"
        "microk8s  v1.34.3  8512  1.34/stable  canonical**  classic,held\n"
    )
    host.snap("refresh", "--unhold", "microk8s")
    assert "held" not in host.snap("list").stdout


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["install", "microk8s"], 1, "published using classic confinement"),
        (["install", "microk8s", "--classic", "--channel=9.99/stable"], 1, "is not available on 9.99/stable"),
        (["install", "nosuch"], 1, 'snap "nosuch" not found'),
        (["install"], 64, "required argument"),
        (["install", "--frob", "microk8s"], 64, "unknown flag"),
        (["frobnicate"], 64, "unknown command"),
        (["refresh", "microk8s"], 1, "is not installed"),
        (["refresh", "--hold", "microk8s"], 1, "is not installed"),
        (["restart", "microk8s.daemon-kubelite"], 1, 'snap "microk8s" not found'),
        (["services", "microk8s"], 1, 'snap "microk8s" not found'),
        (["get", "microk8s"], 1, "is not installed"),
    ],
)
def test_refusals_change_nothing(host: SimHost, argv: list[str], code: int, text: str) -> None:
    done = host.snap(*argv)
    assert done.returncode == code
    assert text in done.stderr
    assert not (host.root / "var/snap/microk8s").exists()
    assert not (host.root / "snap/bin/microk8s").exists()


def test_removing_what_is_absent_is_no_error(host: SimHost) -> None:
    done = host.snap("remove", "--purge", "microk8s")
    assert (done.returncode, done.stderr) == (0, 'snap "microk8s" is not installed\n')


def test_remove_leaves_nothing(host: SimHost) -> None:
    host.install()
    assert host.snap("remove", "--purge", "microk8s").stdout == "microk8s removed\n"
    left = [p for p in host.root.rglob("*") if "microk8s" in p.name]
    assert left == []


def test_refresh_switches_the_revision_and_keeps_arguments(host: SimHost) -> None:
    host.install("1.34/stable")
    with open(host.data / "args/kubelet", "a") as out:
        out.write("--max-pods=42\n")
    same = host.snap("refresh", "microk8s")
    assert (same.returncode, same.stderr) == (0, 'snap "microk8s" has no updates available\n')
    done = host.snap("refresh", "microk8s", "--channel=1.35/stable")
    assert done.stdout == "microk8s (1.35/stable) v1.35.0 from canonical** refreshed\n"
    assert host.data.resolve().name == "8613"
    assert "--max-pods=42" in (host.data / "args/kubelet").read_text()
    assert host.microk8s("version").stdout == "MicroK8s v1.35.0 revision 8613\n"


def test_conflicts_store_and_hook_faults(host: SimHost) -> None:
    host.fault(change_conflict=1)
    argv = ("install", "microk8s", "--classic", "--channel=1.34")
    busy = host.snap(*argv)
    assert busy.returncode == 10
    assert busy.stderr == 'error: snap "microk8s" has "auto-refresh" change in progress\n'
    host.fault(store_unreachable=True)
    assert host.snap(*argv).stderr == "error: unable to contact snap store\n"
    host.fault(configure_hook_fails=True)
    failed = host.snap(*argv)
    assert failed.returncode == 1
    assert "Run configure hook" in failed.stderr
    assert not (host.root / "var/snap/microk8s").exists(), "a failed installation is undone"
    host.fault()
    assert host.snap(*argv).returncode == 0


def test_failed_hook_takes_a_refresh_back(host: SimHost) -> None:
    host.install("1.34/stable")
    host.fault(configure_hook_fails=1)
    failed = host.snap("refresh", "microk8s", "--channel=1.35/stable")
    assert (failed.returncode, "Run configure hook" in failed.stderr) == (1, True)
    assert "v1.34.3  8512  1.34/stable" in host.snap("list").stdout
    assert host.data.resolve().name == "8512"
    assert not (host.root / "var/snap/microk8s/8613").exists()
    calls = (host.root / "var/lib/snapsim/services.log").read_text().split("snapctl stop")
    assert "snapctl start microk8s.daemon-kubelite" in calls[-1], "the old revision runs again"
    assert host.snap("refresh", "microk8s", "--channel=1.35/stable").returncode == 0


def test_unknown_channel_of_a_refresh(host: SimHost) -> None:
    host.install("1.34/stable")
    done = host.snap("refresh", "microk8s", "--channel=1.99/stable")
    assert done.returncode == 1
    assert done.stderr.startswith('error: snap "microk8s" is not available on 1.99/stable but is available to install')
    assert "snap refresh --channel=1.35/stable microk8s" in done.stderr
    assert "1.34/stable" in host.snap("list").stdout


@pytest.mark.parametrize("held", [False, True])
def test_automatic_refresh_unless_held(host: SimHost, held: bool) -> None:
    host.install("1.34/stable")
    if held:
        host.snap("refresh", "--hold", "microk8s")
    host.fault(auto_refresh_in=0)
    host.run("snapd")
    assert ("v1.34.4  8532" in host.snap("list").stdout) != held
    assert host.host.fault("auto_refresh_in") is None, "it comes once"
    if held:
        host.fault(newer_patch=True)
        done = host.snap("refresh", "microk8s")
        assert done.stdout == "microk8s (1.34/stable) v1.34.4 from canonical** refreshed\n", "a hold is no lock"
        assert "classic,held" in host.snap("list").stdout


def test_killed_client_does_not_stop_a_change(tmp_path: Path) -> None:
    settings = {"hostname": "a", "address": "127.0.0.1", "install_delay": 1}
    host = SimHost(tmp_path, settings)
    client = host.popen("snap", "install", "microk8s", "--classic", "--channel=1.34")
    eventually(lambda: (tmp_path / "var/lib/snapsim/.change.lock").exists())
    client.kill()
    client.wait()
    assert host.snap("install", "microk8s", "--classic").returncode == 10, "it goes on"
    eventually(lambda: host.host.data.exists() and "1.34/stable" in host.snap("list").stdout)


def test_addons_stay_old_until_they_are_cloned_anew(host: SimHost) -> None:
    host.install("1.34/stable")
    assert host.microk8s("addons", "repo", "update", "core").returncode == 0
    host.snap("refresh", "microk8s", "--channel=1.35/stable")
    failed = host.microk8s("addons", "repo", "update", "core")
    assert (failed.returncode, "CalledProcessError" in failed.stderr) == (1, True)
    built_in = ("addons", "repo", "add", "core", "/snap/microk8s/current/addons/core")
    assert host.microk8s(*built_in).stderr.splitlines()[0] == "Error: repository 'core' already exists!"
    assert host.microk8s(*built_in, "--force").returncode == 0
    assert host.microk8s("addons", "repo", "update", "core").stdout.endswith("Already up to date.\n")
    assert host.microk8s("addons", "repo", "update", "x").stderr == "Error: repository 'x' does not exist\n"
    assert host.microk8s("addons").returncode == 2


def test_two_changes_at_once_conflict(host: SimHost) -> None:
    host.install()
    with open(host.root / "var/lib/snapsim/.change.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("refresh-snap")
        held.flush()
        done = host.snap("restart", "microk8s.daemon-kubelite")
    assert done.returncode == 10
    assert '"refresh-snap" change in progress' in done.stderr


def test_aliases(host: SimHost) -> None:
    host.install()
    assert host.snap("alias", "microk8s.kubectl", "kubectl").stdout == "Added:\n  - microk8s.kubectl as kubectl\n"
    again = host.snap("alias", "microk8s.kubectl", "kubectl")
    assert (again.returncode, again.stdout) == (0, "")
    assert re.search(r"microk8s\.kubectl +kubectl +manual", host.snap("aliases").stdout)
    assert (host.root / "snap/bin/kubectl").is_symlink()
    assert host.snap("unalias", "kubectl").returncode == 0
    assert not (host.root / "snap/bin/kubectl").is_symlink()


def test_configuration(host: SimHost) -> None:
    host.install()
    assert host.snap("get", "-d", "microk8s").stderr == 'error: snap "microk8s" has no configuration\n'
    host.snap("set", "microk8s", "key=value=1")
    assert json.loads(host.snap("get", "-d", "microk8s").stdout) == {"key": "value=1"}
    host.snap("unset", "microk8s", "key")
    assert host.snap("get", "microk8s", "key").returncode == 1


def test_info_has_the_channels_that_modules_look_for(host: SimHost) -> None:
    text = host.snap("info", "microk8s").stdout
    assert text.startswith("name:      microk8s\n")
    block = text.partition("\nchannels:\n")[2].splitlines()
    assert [line.split(":")[0].strip() for line in block] == [r.channel for r in store.channels(host.host)]


LAUNCH = """\
version: 0.2.0
extraSANs: [10.0.0.9, api.example.org]
extraKubeletArgs:
  --system-reserved: memory=8Gi   # room for the page cache
  --cluster-dns: null
containerdRegistryConfigs:
  registry.example.org: |
    server = "https://registry.example.org"
    [host."http://mirror"]
addons:
- name: dns
  args: ["1.1.1.1,8.8.8.8"]
"""


def test_launch_configuration_acts_before_the_first_start(host: SimHost) -> None:
    (host.root / "etc/microk8s.yaml").write_text(LAUNCH)
    host.install()
    kubelet = (host.data / "args/kubelet").read_text()
    assert "--system-reserved=memory=8Gi\n" in kubelet
    assert "--cluster-dns" not in kubelet
    toml = (host.data / "args/certs.d/registry.example.org/hosts.toml").read_text()
    assert toml == 'server = "https://registry.example.org"\n[host."http://mirror"]\n'
    assert (host.host.common / "etc/launcher/install.yaml").read_text() == LAUNCH


@pytest.mark.parametrize("text", ["version: 0.9.0\n", "version: 0.1.0\naddonz: []\n", "version: 0.1.0\n  bad: x\n"])
def test_bad_launch_configuration_fails_the_install(host: SimHost, text: str) -> None:
    (host.root / "etc/microk8s.yaml").write_text(text)
    done = host.snap("install", "microk8s", "--classic")
    assert done.returncode == 1
    assert "configure hook" in done.stderr
    assert host.snap("list", "microk8s").returncode == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 'y z', {c: true}]\n", {"a": 1, "b": ["x", "y z", {"c": True}]}),
        ("- a: 1\n  b: 2\n-\n  c: 3\n- plain\n", [{"a": 1, "b": 2}, {"c": 3}, "plain"]),
        ("a:\n- 1\n- 2\nb: ~\n", {"a": [1, 2], "b": None}),
        ("---\nt: |\n  one\n    two\n\n  three\nu: v # c\n", {"t": "one\n  two\n\nthree\n", "u": "v"}),
        ('{"json": [1, {"is": "yaml"}]}', {"json": [1, {"is": "yaml"}]}),
        ('"--flag": "a: b # c"\nurl: http://x:1/y\n', {"--flag": "a: b # c", "url": "http://x:1/y"}),
        ("a: [1,\n  2]\nb: 3\n", {"a": [1, 2], "b": 3}),
    ],
)
def test_small_yaml(text: str, value: object) -> None:
    assert miniyaml.load(text) == value


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2\n", "a: b: c\n", "a: &x 1\n", "a: !t 1\n", "a:\n  b: 1\n   c: 2\n", "a: [1\n", "--- 1\n--- 2\n"],
)
def test_small_yaml_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(miniyaml.YamlError):
        miniyaml.load(text)


READS = [
    "snap list microk8s", "snap info microk8s", "snap services microk8s", "snap get -d microk8s", "snap aliases",
    "snap refresh --list", "snap version", "snap changes", "microk8s status --format yaml", "microk8s kubectl get pods",
    "microk8s kubectl -n x get pods", "microk8s config", "microk8s version", "microk8s addons repo list --format json",
    "microk8s helm list -A", "microk8s helm3 get values x", "microk8s refresh-certs -c", "nvidia-smi -L",
    "microk8s kubectl rollout status deploy/x", "microk8s kubectl apply --dry-run=server -f x", "nvidia-smi",
]  # fmt: skip
WRITES = [
    "snap install microk8s --classic", "snap refresh --hold microk8s", "snap refresh microk8s", "snap remove microk8s",
    "snap restart microk8s.daemon-kubelite", "snap alias microk8s.kubectl kubectl", "snap set microk8s a=b",
    "microk8s add-node", "microk8s join 10.0.0.1:25000/x", "microk8s leave", "microk8s remove-node x",
    "microk8s enable dns", "microk8s disable dns", "microk8s stop", "microk8s start", "microk8s kubectl apply -f x",
    "microk8s kubectl -n get delete pod", "microk8s helm upgrade a b", "microk8s helm3 repo add a b",
    "microk8s refresh-certs -e server.crt", "microk8s addons repo update core", "microk8s kubectl rollout restart x",
    "nvidia-smi -pm 1", "microk8s frobnicate",
]  # fmt: skip


@pytest.mark.parametrize("line", READS)
def test_looks_are_not_changes(line: str) -> None:
    program, *argv = line.split()
    assert not journal.mutating(program, argv)


@pytest.mark.parametrize("line", WRITES)
def test_changes_are_changes(line: str) -> None:
    program, *argv = line.split()
    assert journal.mutating(program, argv)


def test_journal_has_every_call_and_no_secret(host: SimHost) -> None:
    host.install()
    token = host.token("--token-ttl", "5", "-t", "s" * 32)
    assert token.startswith("s" * 32)
    plain = host.token()
    host.microk8s("join", f"127.0.0.1:25000/{plain}", "--worker", "--frob")
    host.snap("set", "microk8s", "password=hunter2hunter2")
    entries = host.journal()
    assert [e["argv"][:2] for e in entries] == [
        ["snap", "install"], ["microk8s", "add-node"], ["microk8s", "add-node"], ["microk8s", "join"],
        ["snap", "set"]]  # fmt: skip
    assert [e["rc"] for e in entries] == [0, 0, 0, 2, 0]
    assert all(e["mutating"] for e in entries)
    text = json.dumps(entries)
    for secret in (plain.split("/")[0], "s" * 32, "hunter2"):
        assert secret not in text
    assert "127.0.0.1:25000/<token>" in text


def test_nvidia_smi_of_a_spark(host: SimHost) -> None:
    (host.root / "var/lib/snapsim").mkdir(parents=True, exist_ok=True)
    gpu = {"name": "NVIDIA GB10", "uuid": "GPU-1", "driver": "580.126.09", "cuda": "13.0"}
    (host.root / "var/lib/snapsim/gpu.json").write_text(json.dumps(gpu))
    assert host.run("nvidia-smi", "-L").stdout == "GPU 0: NVIDIA GB10 (UUID: GPU-1)\n"
    query = "--query-gpu=name,memory.total,driver_version"
    assert host.run("nvidia-smi", query, "--format=csv,noheader").stdout == "NVIDIA GB10, [N/A], 580.126.09\n"
    with_header = host.run("nvidia-smi", "--query-gpu=index,name,memory.total,memory.free", "--format=csv").stdout
    assert with_header == "index, name, memory.total [MiB], memory.free [MiB]\n0, NVIDIA GB10, [N/A], [N/A]\n"
    unknown = host.run("nvidia-smi", "--query-gpu=nosuch", "--format=csv")
    assert (unknown.returncode, unknown.stdout) == (2, 'Field "nosuch" is not a valid field to query.\n')
    host.fault(gpu_driver_broken=True)
    assert host.run("nvidia-smi").returncode == 9
