from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _node as nd

TEMPLATE = """
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "${RUNTIME_TYPE}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia-container-runtime.options]
    BinaryName = "nvidia-container-runtime"
"""
OURS = """\
# BEGIN TOKENLABS
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
    BinaryName = "/usr/bin/nvidia-container-runtime"
# END TOKENLABS
"""


# --- containerd's template ---


def test_runtimes_of_a_template() -> None:
    found = nd.parse_template(TEMPLATE)
    assert found.cri_plugin == "io.containerd.grpc.v1.cri"
    assert found.handlers == {"runc": "", "nvidia-container-runtime": "nvidia-container-runtime"}
    assert (found.block, found.cdi, found.cdi_ours, found.error) == ("", False, False, None)


def test_our_block_is_told_from_the_rest() -> None:
    found = nd.parse_template(TEMPLATE + OURS)
    assert found.handlers["nvidia"] == "/usr/bin/nvidia-container-runtime"
    assert found.block.splitlines() == OURS.splitlines()[1:-1]


def test_containerd_2_has_another_plugin() -> None:
    assert nd.parse_template(TEMPLATE.replace(*nd.CRI_PLUGINS)).cri_plugin == "io.containerd.cri.v1.runtime"


@pytest.mark.parametrize(("mark", "ours"), [("# by hand", False), ("# BEGIN TOKENLABS CDI", True)])
def test_who_lets_containerd_take_cdi_devices(mark: str, ours: bool) -> None:
    found = nd.parse_template(TEMPLATE.replace("  sandbox", f"{mark}\nenable_cdi = true\n  sandbox"))
    assert (found.cdi, found.cdi_ours, found.block) == (True, ours, "")


def test_a_broken_template_says_where() -> None:
    found = nd.parse_template("[plugins\n")
    assert "line 1" in (found.error or "")
    assert found.handlers == {}


def test_a_runtime_that_is_there_twice_is_an_error() -> None:
    assert nd.parse_template(TEMPLATE + OURS + OURS.replace("TOKENLABS", "OTHER")).error


def test_a_template_without_runtimes() -> None:
    assert nd.parse_template("version = 2\n[plugins]\n") == nd.Template()


def imports(tmp_path: Path, text: str) -> nd.Template:
    folder = tmp_path / "etc/containerd/conf.d"
    folder.mkdir(parents=True)
    (folder / "99-nvidia.toml").write_text(text)
    return nd.parse_template('imports = ["/etc/containerd/conf.d/*.toml"]\n' + TEMPLATE, nd.imported(tmp_path))


def test_the_operators_toolkit_is_seen_by_what_is_imported(tmp_path: Path) -> None:
    found = imports(tmp_path, OURS)
    assert found.imported == {"nvidia": "/etc/containerd/conf.d/99-nvidia.toml"}
    assert "nvidia" not in found.handlers


def test_an_import_of_nothing_is_no_conflict(tmp_path: Path) -> None:
    text = 'imports = ["/etc/containerd/conf.d/*.toml"]\n' + TEMPLATE
    assert nd.parse_template(text, nd.imported(tmp_path)).imported == {}


def test_dockers_configuration_in_an_import_is_an_error(tmp_path: Path) -> None:
    error = imports(tmp_path, 'disabled_plugins = ["cri"]\n').error
    assert error == "/etc/containerd/conf.d/99-nvidia.toml, which it imports, switches the CRI plugin off (cri)"


def test_a_broken_import_is_an_error(tmp_path: Path) -> None:
    assert (imports(tmp_path, "[a\n").error or "").startswith(
        "/etc/containerd/conf.d/99-nvidia.toml, which it imports: "
    )


def test_a_template_may_switch_the_plugin_off_itself() -> None:
    found = nd.parse_template('disabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    assert found.error == "it switches the CRI plugin off (io.containerd.grpc.v1.cri)"


# --- arguments ---


def test_flags_of_the_control_plane_have_to_go() -> None:
    inherited = {"--system-reserved": "memory=1Gi", "--max-pods": "50", "--resolv-conf": "/run/r", "--v": "4"}
    own = {**inherited, "--max-pods": "200", "--eviction-hard": "memory.available<100Mi"}
    assert nd.stray_args(own, {}, inherited) == ["--system-reserved"]
    assert nd.stray_args(own, {}, {}) == []


def test_a_flag_that_we_set_stands_once() -> None:
    assert nd.stray_args({"--eviction-hard": "x", "--v": "2"}, {"--eviction-hard": "y"}, {}) == ["--eviction-hard"]


# --- the system ---


def test_swap_in_use() -> None:
    header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    assert nd.parse_swaps(header) == nd.parse_swaps("") == ()
    assert nd.parse_swaps(header + "/swap.img file\t16777212\t0\t-2\n/dev/zram0 partition 8\t0\t100\n") == (
        "/swap.img",
        "/dev/zram0",
    )


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ("CanNTP=yes\nNTP=yes\nNTPSynchronized=no\n", "on"),
        ("CanNTP=yes\nNTP=no\nNTPSynchronized=no\n", "off"),
        ("CanNTP=no\nNTP=no\nNTPSynchronized=no\n", "missing"),
        ("CanNTP=no\nNTP=no\nNTPSynchronized=yes\n", "on"),
        ("", "missing"),
    ],
)
def test_time_synchronisation(told: str, state: str) -> None:
    assert nd.parse_time_sync(told) == state


def test_the_system_is_read_without_microk8s(tmp_path: Path) -> None:
    for path, text in {
        "proc/swaps": "Filename Type\n/swap.img file 1 0 -2\n",
        nd.APPARMOR_RULE: "signal (receive) peer=runc,\n",
        nd.SSH_CLIENT: "Host *\n    ServerAliveInterval 5\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/swap.target").symlink_to("/dev/null")
    calls = []

    def run(argv):
        calls.append(argv[0])
        return (9, "NVIDIA-SMI has failed.\n\n", "") if argv[0] == "nvidia-smi" else (0, "NTP=yes\n", "")

    found = nd.read_system(run, tmp_path, gpu=True)
    del found["node_name"]
    assert found == {
        "apparmor_rule": True,
        "ssh_keepalive": True,
        "swaps": ("/swap.img",),
        "swap_masked": True,
        "time_sync": "on",
        "gpu_driver": None,
        "gpu_error": "NVIDIA-SMI has failed.",
    }
    empty = nd.read_system(run, tmp_path / "empty", gpu=False)
    assert (empty["apparmor_rule"], empty["ssh_keepalive"], empty["swaps"]) == (False, False, ())
    assert (empty["swap_masked"], empty["gpu_driver"], empty["gpu_error"]) == (False, None, None)
    assert calls == ["timedatectl", "nvidia-smi", "timedatectl"]


def test_the_drivers_version() -> None:
    assert (
        nd.read_system(lambda argv: (0, "580.126.09\n", ""), Path("/nowhere"), gpu=True)["gpu_driver"] == "580.126.09"
    )


# --- labels and taints ---

LIFECYCLE = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}
THEIRS = {"key": "gpu", "value": "x", "effect": "PreferNoSchedule"}


def test_labels_need_no_taints() -> None:
    wanted = {
        "a": {"labels": {"tokenlabs.io/spark": "true", "n": 1}, "taints": []},
        "gone": {"labels": {}, "taints": []},
    }
    assert nd.node_objects(wanted, {"a": {"taints": [LIFECYCLE]}, "foreign": {}}) == [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "a", "labels": {"tokenlabs.io/spark": "true", "n": "1"}},
        }
    ]


TAINT = {"key": "gpu", "value": "only", "effect": "NoSchedule"}


def test_taints_of_others_are_nothing_to_us() -> None:
    wanted = {"a": {"labels": {}, "taints": [TAINT]}, "gone": {"taints": [TAINT]}}
    live = {"a": {"taints": [LIFECYCLE, THEIRS], "managed_taints": []}}
    assert nd.node_taints(wanted, live) == {"absent": [], "present": [{"name": "a", "taints": [TAINT]}]}
    (node,) = nd.node_objects(wanted, live)
    assert node["metadata"]["annotations"] == {"tokenlabs.io/taints": "gpu:NoSchedule"}
    assert "spec" not in node


@pytest.mark.parametrize("others", [[], [LIFECYCLE], [LIFECYCLE, THEIRS]])
def test_a_node_that_was_away_has_nothing_to_be_done(others: list[dict[str, str]]) -> None:
    live = {"a": {"taints": [TAINT, *others], "managed_taints": ["gpu:NoSchedule"]}}
    assert nd.node_taints({"a": {"taints": [TAINT]}}, live) == {"absent": [], "present": []}


def test_a_taint_that_has_another_value_is_set() -> None:
    live = {"a": {"taints": [{"key": "gpu", "effect": "NoSchedule"}], "managed_taints": ["gpu:NoSchedule"]}}
    assert nd.node_taints({"a": {"taints": [TAINT]}}, live)["present"] == [{"name": "a", "taints": [TAINT]}]


def test_a_taint_that_is_no_longer_wanted_goes() -> None:
    gone = {"key": "gpu", "effect": "NoExecute"}
    live = {"a": {"taints": [LIFECYCLE, THEIRS, gone], "managed_taints": ["gpu:NoExecute", "not:there"]}}
    wanted = {"a": {"labels": {}, "taints": []}}
    assert nd.node_taints(wanted, live) == {"absent": [{"name": "a", "taints": [gone]}], "present": []}
    (node,) = nd.node_objects(wanted, live)
    assert "annotations" not in node["metadata"]


def test_a_shared_gpu_names_its_configuration() -> None:
    wanted = {"a": {"gpu": True, "gpu_slots": 2}, "b": {"gpu": True, "gpu_slots": 1}}
    a, b = nd.node_objects(wanted, {"a": {}, "b": {}})
    assert a["metadata"]["labels"] == {"tokenlabs.io/spark": "true", "nvidia.com/device-plugin.config": "slots-2"}
    assert b["metadata"]["labels"] == {"tokenlabs.io/spark": "true"}
