# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addons there are, and by what MicroK8s takes one for enabled."""

from __future__ import annotations

from dataclasses import dataclass

BOTH = ("amd64", "arm64")


@dataclass(frozen=True)
class Addon:
    name: str
    description: str
    version: str
    check: str  # a part of a row of `kubectl get all`, or a file
    archs: tuple[str, ...] = BOTH


_DEPRECATED = (
    "MinIO object storage (DEPRECATED). "
    "This addon is deprecated and will be completely removed in the upcoming versions"
)
ADDONS: tuple[Addon, ...] = (
    Addon("cert-manager", "Cloud native certificate management", "1.19.1", "deployment.apps/cert-manager"),
    Addon("cis-hardening", "Apply CIS K8s hardening", "1.0.0", "${SNAP_DATA}/var/lock/cis-hardening"),
    Addon("community", "The community addons repository", "", "${SNAP_COMMON}/addons/community"),
    Addon("dashboard", "The Kubernetes dashboard", "7.14.0", "pod/kubernetes-dashboard"),
    Addon("dns", "CoreDNS", "1.13.1", "pod/coredns"),
    Addon("gpu", "Alias to nvidia add-on", "25.10.0", "operator-node-feature-discovery", ("amd64",)),
    Addon("ha-cluster", "Configure high availability on the current node", "0.1.0",
          "${SNAP_DATA}/var/lock/ha-cluster"),
    Addon("helm", "Helm - the package manager for Kubernetes", "3.18.6", "${SNAP}/bin/helm"),
    Addon("helm3", "Helm 3 - the package manager for Kubernetes", "3.18.6", "${SNAP}/bin/helm"),
    Addon("host-access", "Allow Pods connecting to Host services smoothly", "1.0.0",
          "${SNAP_DATA}/var/lock/host-access-enabled"),
    Addon("hostpath-storage", "Storage class; allocates storage from host directory", "1.5.0",
          "deployment.apps/hostpath-provisioner"),
    Addon("ingress", "Ingress controller for external access", "3.6.2", "ingressclass.networking.k8s.io/public"),
    Addon("kube-ovn", "An advanced network fabric for Kubernetes", "1.13.8", "pod/kube-ovn-cni"),
    Addon("mayastor", "OpenEBS MayaStor", "2.0.0-microk8s-1", "pod/mayastor-io-engine", ("amd64",)),
    Addon("metallb", "Loadbalancer for your Kubernetes cluster", "0.15.2", "pod/speaker"),
    Addon("metrics-server", "K8s Metrics Server for API access to service metrics", "0.8.0", "pod/metrics-server"),
    Addon("minio", _DEPRECATED, "v7.1.1", "pod/minio-operator", ("amd64",)),
    Addon("nvidia", "NVIDIA hardware (GPU and network) support", "gpu=25.10.0/network=25.7.0/microk8s-1",
          "operator-node-feature-discovery", ("amd64",)),
    Addon("observability", "A lightweight observability stack for logs, traces and metrics", "77.6.2",
          "statefulset.apps/prometheus-kube-prom-stack-kube-prome-prometheus"),
    Addon("prometheus", "Prometheus operator for monitoring and logging", "v0.8.0", "pod/prometheus-operator"),
    Addon("rbac", "Role-Based Access Control for authorisation", "",
          "clusterrole.rbac.authorization.k8s.io/cluster-admin"),
    Addon("registry", "Private image registry exposed on localhost:32000", "2.8.3", "deployment.apps/registry"),
    Addon("rook-ceph", "Distributed Ceph storage using Rook", "1.18.7", "pod/rook-ceph-operator"),
    Addon("storage", "Alias to hostpath-storage add-on, deprecated", "1.5.0",
          "deployment.apps/hostpath-provisioner"),
)  # fmt: skip
# Addons of the community repository, which is not there until `enable community`.
COMMUNITY = ("argocd", "cilium", "fluentd", "istio", "jaeger", "keda", "knative", "kwasm", "linkerd", "multus",
             "ngrok", "openfaas", "portainer", "sosivio", "traefik", "trivy")  # fmt: skip


def available(arch: str) -> list[Addon]:
    return [a for a in ADDONS if arch in a.archs]


def find(name: str, arch: str) -> Addon | None:
    return next((a for a in available(arch) if a.name == name), None)


def as_yaml() -> str:
    """The repository's own list, as it lies on a host."""
    lines = ["microk8s-addons:", '  description: "Core addons of the MicroK8s project"', "  addons:"]
    for addon in ADDONS:
        lines += [f'    - name: "{addon.name}"', f'      description: "{addon.description}"',
                  f'      version: "{addon.version}"', f'      check_status: "{addon.check}"',
                  "      supported_architectures:", *(f"        - {arch}" for arch in addon.archs)]  # fmt: skip
    return "\n".join(lines) + "\n"
