# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of a lab and how each is started: data for the supervisor."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lab.paths import (
    API_PORT,
    API_URL,
    HOSTS_SIDE,
    MIRROR_PORT,
    OUTSIDE,
    PLAYED_POD_CIDR,
    REGISTRY_PORT,
    REPO,
    SERVICE_CIDR,
    Lab,
)
from lab.pki import INTERNET_CA

ETCD = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
# Go's collector runs earlier: a third less memory for a few per cent of time.
GO_ENV = {"GOGC": "40"}
PATIENT_CLIENT = ("--kube-api-qps=1000", "--kube-api-burst=2000")


@dataclass(frozen=True)
class Component:
    """A long-running program of the lab.

    ``probe`` says when it is ready: ``tcp://IP:PORT``, an API path (``/readyz``), a file name below the state
    directory (``@ready/world``), or nothing when running is enough.
    """

    name: str
    argv: tuple[str, ...]
    after: tuple[str, ...] = ()
    probe: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def audit_policy() -> dict[str, object]:
    """Every request once, when it is answered; not the chatter by which parts prove that they are alive."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
            {"level": "None", "resources": [{"group": "", "resources": ["events"]}]},
            {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/openapi/*"]},
            {
                "level": "None",
                "users": [
                    "system:apiserver",
                    "system:kube-controller-manager",
                    "system:kube-scheduler",
                    "lab-kwok",
                    "lab-world",
                    "lab-gateway",
                ],
                "verbs": ["get", "list", "watch"],
            },
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"], "verbs": ["get", "list", "watch"]},
            {"level": "Metadata"},
        ],
    }


def registry_config(lab: Lab) -> dict[str, object]:
    return {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(lab.state / "registry")},
            "cache": {"blobdescriptor": "inmemory"},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"{OUTSIDE}:{REGISTRY_PORT}"},
    }


# Nodes live by their hosts' simulated kubelets. Yet KWOK looks at nodes, and so at the pods on them, only when it has
# a stage for nodes: this one never comes.
IDLE_NODES = {
    "apiVersion": "kwok.x-k8s.io/v1alpha1",
    "kind": "Stage",
    "metadata": {"name": "node-left-alone"},
    "spec": {
        "resourceRef": {"apiGroup": "v1", "kind": "Node"},
        "selector": {
            "matchExpressions": [
                {"key": '.metadata.annotations["lab.tokenlabs.invalid/never"]', "operator": "In", "values": ["true"]}
            ]
        },
        "next": {"event": {"type": "Normal", "reason": "Never", "message": "never"}},
    },
}


def played_by_kwok(directory: Path) -> list[dict[str, Any]]:
    """KWOK's stages: its own for pods, as the world changes them (which knows the pods that really run)."""
    from lab import world  # much code for one question: not for every command, nor for the supervisor

    stages = [yaml.safe_load(path.read_text()) for path in sorted((directory / "pod").glob("*.yaml"))]
    return [IDLE_NODES, *world.kwok_stages(stages)]


def write_configs(lab: Lab) -> None:
    """Configuration files of the components; JSON is YAML."""
    (lab.state / "audit-policy.json").write_text(json.dumps(audit_policy(), indent=1) + "\n")
    (lab.state / "registry.json").write_text(json.dumps(registry_config(lab), indent=1) + "\n")
    stages = played_by_kwok(Path(lab.stages))
    (lab.state / "kwok.yaml").write_text(yaml.safe_dump_all(stages, sort_keys=False))


def components(lab: Lab) -> list[Component]:
    """All programs of the lab but the hosts, in the order in which one would start them by hand."""
    pki, program = lab.pki, Path(lab.bin)
    python = (sys.executable, "-m")
    trust = {"SSL_CERT_FILE": str(pki / INTERNET_CA)}
    etcd = Component(
        "etcd",
        (
            f"{program}/etcd",
            f"--data-dir={lab.state}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={ETCD_PEER}",
            f"--initial-advertise-peer-urls={ETCD_PEER}",
            f"--initial-cluster=default={ETCD_PEER}",
            "--log-level=warn",
        ),
        probe="tcp://127.0.0.1:2379",
        env=GO_ENV,
    )
    apiserver = Component(
        "kube-apiserver",
        (
            f"{program}/kube-apiserver",
            f"--etcd-servers={ETCD}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={OUTSIDE}",
            f"--secure-port={API_PORT}",
            f"--tls-cert-file={pki}/server.crt",
            f"--tls-private-key-file={pki}/server.key",
            f"--tls-sni-cert-key={pki}/hosts.crt,{pki}/hosts.key:{HOSTS_SIDE}",
            f"--client-ca-file={pki}/clients.crt",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--endpoint-reconciler-type=none",
            "--enable-aggregator-routing=true",
            "--allow-privileged=true",
            "--profiling=false",
            f"--audit-policy-file={lab.state}/audit-policy.json",
            f"--audit-log-path={lab.state}/audit.log",
            "--audit-log-maxsize=200",
        ),
        after=("etcd",),
        probe="/readyz",
        env=GO_ENV,
    )
    manager = Component(
        "kube-controller-manager",
        (
            f"{program}/kube-controller-manager",
            f"--kubeconfig={pki}/controller-manager.kubeconfig",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--controllers=*,-node-ipam-controller,-cloud-node-lifecycle-controller",
            "--node-monitor-grace-period=40s",
            "--profiling=false",
            *PATIENT_CLIENT,
        ),
        after=("kube-apiserver",),
        probe="/api/v1/namespaces/default/serviceaccounts/default",
        env=GO_ENV,
    )
    scheduler = Component(
        "kube-scheduler",
        (
            f"{program}/kube-scheduler",
            f"--kubeconfig={pki}/scheduler.kubeconfig",
            "--leader-elect=false",
            "--secure-port=0",
            "--profiling=false",
            *PATIENT_CLIENT,
        ),
        after=("kube-apiserver",),
        env=GO_ENV,
    )
    registry = Component(
        "registry",
        ("/usr/bin/docker-registry", "serve", f"{lab.state}/registry.json"),
        probe=f"tcp://{OUTSIDE}:{REGISTRY_PORT}",
        env={**GO_ENV, "OTEL_TRACES_EXPORTER": "none"},
    )
    mirror = Component(
        "mirror",
        (*python, "lab.mirror", "--state", str(lab.state)),
        probe=f"tcp://{OUTSIDE}:{MIRROR_PORT}",
    )
    kwok = Component(
        "kwok",
        (
            f"{program}/kwok",
            f"--kubeconfig={pki}/kwok.kubeconfig",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=0",
            f"--cidr={PLAYED_POD_CIDR}",
            f"--config={lab.state}/kwok.yaml",
        ),
        after=("kube-apiserver",),
        env=GO_ENV,
    )
    controllers = Component(
        "world",
        (*python, "lab.world", "--state", str(lab.state)),
        after=("kube-apiserver", "kube-controller-manager", "registry"),
        probe="@ready/world",
        env={"KUBECONFIG": str(pki / "world.kubeconfig"), **trust},
    )
    gateway = Component(
        "gateway",
        (*python, "lab.gateway", "--kubeconfig", str(pki / "gateway.kubeconfig")),
        after=("kube-apiserver",),
        env=trust,
    )
    return [etcd, apiserver, manager, scheduler, registry, mirror, kwok, controllers, gateway]


def child_environment(lab: Lab, component: Component) -> dict[str, str]:
    """A clean environment: what the user's shell holds is none of the lab's business."""
    kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TZ") if key in os.environ}
    base = lab.environment({"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **kept})
    return {**base, "HOME": str(lab.state / "home"), "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1", **component.env}


__all__ = ["API_URL", "Component", "audit_policy", "child_environment", "components", "write_configs"]
