# SPDX-License-Identifier: GPL-3.0-or-later
"""From a pod's words to a program, as a kubelet reads them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from lab.world import podspec
from lab.world.podspec import Missing

OBJECTS = {
    ("Secret", "s"): {"kind": "Secret", "data": {"password": base64.b64encode(b"pa$$").decode()}},
    ("ConfigMap", "c"): {"kind": "ConfigMap", "data": {"redis.conf": "dir /data\n", "other": "x"}},
    ("PersistentVolumeClaim", "bound"): {"kind": "PersistentVolumeClaim", "spec": {"volumeName": "pv-1"}},
    ("PersistentVolumeClaim", "free"): {"kind": "PersistentVolumeClaim", "spec": {}},
}


def lookup(kind: str, namespace: str, name: str) -> Any:
    return OBJECTS.get((kind, name)) if namespace == "ns" else None


def pod(**spec: Any) -> Any:
    meta = {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "b"}}
    return {"metadata": meta, "spec": {"nodeName": "spark", **spec}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("--pass=$(P)", "--pass=secret"), ("$(UNKNOWN)", "$(UNKNOWN)"), ("$$(P)", "$(P)"), ("$P", "$P")],
)
def test_variables_are_expanded_as_kubernetes_does(text: str, expected: str) -> None:
    assert podspec.expand(text, {"P": "secret"}) == expected


def test_the_environment_comes_from_everywhere() -> None:
    def field(path: str) -> dict[str, Any]:
        return {"valueFrom": {"fieldRef": {"fieldPath": path}}}

    env = [
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
        {"name": "URL", "value": "redis://:$(PASSWORD)@host"},
        {"name": "IP", **field("status.podIP")},
        {"name": "NODE", **field("spec.nodeName")},
        {"name": "LABEL", **field("metadata.labels['a']")},
        {"name": "LEFT_OUT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}},
    ]
    found = podspec.environment({"env": env, "envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}]}, pod(),
                                "10.1.2.3", lookup)  # fmt: skip
    assert found == {"C_redis.conf": "dir /data\n", "C_other": "x", "PASSWORD": "pa$$", "URL": "redis://:pa$$@host",
                     "IP": "10.1.2.3", "NODE": "spark", "LABEL": "b"}  # fmt: skip


@pytest.mark.parametrize(
    "container",
    [
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]},
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none"}}}]},
        {"envFrom": [{"secretRef": {"name": "none"}}]},
    ],
)
def test_a_missing_secret_stops_the_container(container: Any) -> None:
    with pytest.raises(Missing):
        podspec.environment(container, pod(), "", lookup)


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"args": ["--a"]}, ["entry", "--a"]),
        ({"command": ["sh", "-c"], "args": ["exec $(X)"]}, ["sh", "-c", "exec 1"]),
        ({}, ["entry"]),
    ],
)
def test_commands_replace_entry_points(container: Any, expected: list[str]) -> None:
    assert podspec.command(container, {"X": "1"}, ["entry"]) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--served-model-name", "org/m", "--port", "1"], "org/m"),
        (["--served-model-name=org/m"], "org/m"),
        (["--served-model-name"], None),
        (["--other", "x"], None),
    ],
)
def test_options_are_read_in_both_forms(words: list[str], expected: str | None) -> None:
    assert podspec.option(words, "--served-model-name") == expected


def mounts(tmp_path: Path, volume: Any, **mount: Any) -> list[podspec.Mount]:
    volumes = podspec.Volumes(tmp_path / "claims", tmp_path / "own", lookup)
    container = {"volumeMounts": [{"name": "v", "mountPath": "/v", **mount}]}
    return volumes.mounts(container, pod(volumes=[{"name": "v", **volume}]))


def test_configuration_is_written_to_files(tmp_path: Path) -> None:
    (mount,) = mounts(tmp_path, {"configMap": {"name": "c", "items": [{"key": "redis.conf", "path": "sub/r.conf"}]}})
    assert (mount.source / "sub" / "r.conf").read_text() == "dir /data\n"
    assert not (mount.source / "other").exists()


def test_a_part_of_a_volume_can_be_mounted(tmp_path: Path) -> None:
    (mount,) = mounts(tmp_path, {"configMap": {"name": "c"}}, subPath="redis.conf", readOnly=True)
    assert mount.source.is_file() and mount.read_only


def test_claims_keep_their_directory_and_the_rest_lives_with_the_pod(tmp_path: Path) -> None:
    (claim,) = mounts(tmp_path, {"persistentVolumeClaim": {"claimName": "bound"}})
    (scratch,) = mounts(tmp_path, {"emptyDir": {}})
    assert claim.source == tmp_path / "claims" / "pv-1" and scratch.source == tmp_path / "own" / "v"


@pytest.mark.parametrize(
    "volume", [{"persistentVolumeClaim": {"claimName": "free"}}, {"secret": {"secretName": "none"}}]
)
def test_volumes_that_are_not_there_stop_the_container(tmp_path: Path, volume: Any) -> None:
    with pytest.raises(Missing):
        mounts(tmp_path, volume)
