# SPDX-License-Identifier: GPL-3.0-or-later
"""The launch configuration: found at install; its arguments act at once, its addons later, by the cluster-agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import argfile, miniyaml
from .host import Host, write_file

DEFAULT = """version: 0.1.0
extraKubeletArgs:
  --cluster-domain: cluster.local
  --cluster-dns: 10.152.183.10
addons:
  - name: dns
"""
VERSIONS = ("0.1.0", "0.2.0")
_ARG_KEYS = {
    "extraKubeletArgs": "kubelet",
    "extraKubeAPIServerArgs": "kube-apiserver",
    "extraKubeProxyArgs": "kube-proxy",
    "extraKubeControllerManagerArgs": "kube-controller-manager",
    "extraKubeSchedulerArgs": "kube-scheduler",
    "extraContainerdArgs": "containerd",
    "extraDqliteArgs": "k8s-dqlite",
}
_ENV_KEYS = {"extraContainerdEnv": "containerd-env", "extraCNIEnv": "cni-env", "extraKubeliteEnv": "kubelite-env"}
_KNOWN = {
    "version",
    "addons",
    "addonRepositories",
    "extraSANs",
    "containerdRegistryConfigs",
    "persistentClusterToken",
    "join",
    "extraConfigFiles",
    "extraMicroK8sAPIServerProxyArgs",
    "extraFIPSEnv",
    *_ARG_KEYS,
    *_ENV_KEYS,
}


class LaunchError(Exception):
    pass


def find(host: Host) -> str:
    places = (
        host.path("etc/microk8s.yaml"),
        host.path("root/snap/microk8s/common/.microk8s.yaml"),
        host.common / ".microk8s.yaml",
    )
    return next((p.read_text() for p in places if p.exists()), DEFAULT)


def parse(text: str) -> dict[str, Any]:
    try:
        config = miniyaml.load(text)
    except miniyaml.YamlError as error:
        raise LaunchError(f"failed to parse configuration file: {error}") from None
    if not isinstance(config, dict):
        raise LaunchError("failed to parse configuration file: not a mapping")
    if str(config.get("version")) not in VERSIONS:
        raise LaunchError(f"unknown or missing configuration version {config.get('version')!r}")
    if unknown := sorted(set(config) - _KNOWN):
        raise LaunchError(f"field {unknown[0]} not found in type k8sinit.Configuration")
    return config


def _flags(value: Any) -> Mapping[str, str | None]:
    return {str(k): None if v is None else _text(v) for k, v in (value or {}).items()}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def apply_before_start(host: Host, config: Mapping[str, Any]) -> None:
    """The part that acts before the first start."""
    for key, name in _ARG_KEYS.items():
        if key in config:
            argfile.update(host.args / name, _flags(config[key]))
    for key, name in _ENV_KEYS.items():
        if key in config:
            path = host.args / name
            old = [
                x
                for x in (path.read_text().splitlines() if path.exists() else [])
                if x.partition("=")[0] not in config[key]
            ]
            new = [f"{k}={_text(v)}" for k, v in config[key].items() if v is not None]
            write_file(path, "\n".join([*old, *new]) + "\n", 0o660)
    if config.get("extraSANs"):
        write_file(host.certs / "extra-sans", "\n".join(map(str, config["extraSANs"])) + "\n")
    for registry, text in (config.get("containerdRegistryConfigs") or {}).items():
        write_file(host.args / "certs.d" / registry / "hosts.toml", str(text), 0o660)
    if config.get("persistentClusterToken"):
        write_file(host.credentials / "persistent-cluster-tokens.txt", f"{config['persistentClusterToken']}\n", 0o660)


def pending(host: Host) -> list[Path]:
    return sorted((host.common / "etc/launcher").glob("*.yaml"))


def addons(config: Mapping[str, Any]) -> list[tuple[str, bool, list[str]]]:
    """(name, enable, arguments) in the order given."""
    found = []
    for entry in config.get("addons") or []:
        found.append((str(entry["name"]), not entry.get("disable"), [str(a) for a in entry.get("args") or []]))
    return found
