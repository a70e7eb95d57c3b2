# SPDX-License-Identifier: GPL-3.0-or-later
"""What the GPU operator's toolkit does to a host, with all its variables and with some of them missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.hostsim.snapsim import containerd, toolkit
from tests.lab.hostsim_harness import SimHost

ARGS = "/var/snap/microk8s/current/args"
COMPLETE = {
    "CONTAINERD_CONFIG": f"{ARGS}/containerd-template.toml",
    "CONTAINERD_SOCKET": toolkit.SOCKET,
    "RUNTIME_CONFIG_SOURCE": f"file={ARGS}/containerd.toml",
}


@pytest.fixture
def spark(tmp_path: Path) -> SimHost:
    """A Spark with MicroK8s, and Docker's containerd beside it."""
    host = SimHost(tmp_path, {"hostname": "spark", "address": "127.0.0.1", "arch": "aarch64"})
    docker = tmp_path / "etc/containerd/config.toml"
    docker.parent.mkdir(parents=True)
    docker.write_text('disabled_plugins = ["cri"]\n')
    host.install("1.34/stable")
    containerd.start(host.host)
    return host


def told(host: SimHost, pod: str = "one", **env: str) -> dict[str, object]:
    """What containerd finds after the toolkit's work; `restarted` says whether it looked by itself."""
    log = host.root / "var/lib/snapsim/services.log"
    before = log.read_text().count("restart microk8s.daemon-containerd")
    toolkit.follow(host.host, json.dumps({"pod": pod, "env": env}) if pod else "")
    restarted = log.read_text().count("restart microk8s.daemon-containerd") > before
    containerd.start(host.host)
    return {**json.loads(host.host.runtime_file.read_text()), "restarted": restarted}


def test_complete_variables_give_handlers_and_keep_the_rest(spark: SimHost) -> None:
    found = told(spark, **COMPLETE)
    assert found["handlers"] == ["nvidia", "nvidia-cdi", "nvidia-container-runtime", "nvidia-legacy", "runc"]
    assert (found["error"], found["restarted"]) == ("", True)
    template = (spark.data / "args/containerd-template.toml").read_text()
    assert template.startswith(toolkit.IMPORTS)
    assert told(spark, **COMPLETE)["restarted"] is False, "the same pod acts once"
    assert told(spark, pod="two", **COMPLETE)["restarted"] is True
    assert (spark.data / "args/containerd-template.toml").read_text() == template
    gone = told(spark, pod="")
    assert gone["handlers"] == ["nvidia-container-runtime", "runc"]
    assert (spark.data / "args/containerd-template.toml").read_text() == template, "the import line stays"
    assert not (spark.root / toolkit.DROP_IN).exists()


def test_without_the_source_dockers_configuration_takes_the_runtime_away(spark: SimHost) -> None:
    env = {key: value for key, value in COMPLETE.items() if key != "RUNTIME_CONFIG_SOURCE"}
    found = told(spark, **env)
    assert "unknown service runtime.v1.RuntimeService" in str(found["error"])


def test_without_variables_only_dockers_configuration_changes(spark: SimHost) -> None:
    found = told(spark)
    assert found["handlers"] == ["nvidia-container-runtime", "runc"]
    assert (found["error"], found["restarted"]) == ("", False)
    assert (spark.root / "etc/containerd/config.toml").read_text().startswith("imports")


def test_as_default(spark: SimHost) -> None:
    told(spark, **COMPLETE, CONTAINERD_SET_AS_DEFAULT="1")
    assert 'default_runtime_name = "nvidia"' in (spark.root / toolkit.DROP_IN).read_text()
