# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes objects that the simulated addons bring: as few fields as their users look at."""

from __future__ import annotations

from typing import Any

Obj = dict[str, Any]
DNS_IP = "10.152.183.10"
COREFILE = """\
.:53 {
    errors
    health {
      lameduck 5s
    }
    ready
    log . {
      class error
    }
    kubernetes DOMAIN in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    forward . FORWARDS
    cache 30
    loop
    reload
    loadbalance
}
"""


def _meta(name: str, namespace: str | None = None, labels: dict[str, str] | None = None) -> Obj:
    meta: Obj = {"name": name}
    if namespace:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = labels
    return meta


def _pod(image: str, name: str, account: str = "", **spec: Any) -> Obj:
    body: Obj = {"containers": [{"name": name, "image": image}], **spec}
    if account:
        body["serviceAccountName"] = account
    return body


def _workload(kind: str, name: str, namespace: str, labels: dict[str, str], pod: Obj) -> Obj:
    spec: Obj = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    if kind == "Deployment":
        spec["replicas"] = 1
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": _meta(name, namespace, labels), "spec": spec}


def _account(name: str, namespace: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(name, namespace)}


_EVERYWHERE = [{"operator": "Exists"}]


def network() -> list[Obj]:
    """What the first start of a control plane applies: calico."""
    labels, controllers = {"k8s-app": "calico-node"}, {"k8s-app": "calico-kube-controllers"}
    node = _pod(
        "docker.io/calico/node:v3.29.3",
        "calico-node",
        "calico-node",
        tolerations=_EVERYWHERE,
        hostNetwork=True,
        priorityClassName="system-node-critical",
    )
    return [
        _account("calico-node", "kube-system"),
        _account("calico-kube-controllers", "kube-system"),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _meta("calico-config", "kube-system"),
            "data": {"calico_backend": "vxlan", "veth_mtu": "0", "typha_service_name": "none"},
        },
        _workload("DaemonSet", "calico-node", "kube-system", labels, node),
        _workload(
            "Deployment",
            "calico-kube-controllers",
            "kube-system",
            controllers,
            _pod(
                "docker.io/calico/kube-controllers:v3.29.3",
                "calico-kube-controllers",
                "calico-kube-controllers",
                tolerations=_EVERYWHERE,
            ),
        ),
    ]


def dns(forwards: str, ip: str = DNS_IP, domain: str = "cluster.local") -> list[Obj]:
    labels = {"k8s-app": "kube-dns"}
    corefile = COREFILE.replace("DOMAIN", domain).replace("FORWARDS", forwards)
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
        {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
    ]
    return [
        _account("coredns", "kube-system"),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _meta("coredns", "kube-system", labels),
            "data": {"Corefile": corefile},
        },
        _workload(
            "Deployment",
            "coredns",
            "kube-system",
            labels,
            _pod(
                "docker.io/coredns/coredns:1.13.1",
                "coredns",
                "coredns",
                tolerations=_EVERYWHERE,
                priorityClassName="system-cluster-critical",
            ),
        ),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta("kube-dns", "kube-system", labels),
            "spec": {"selector": labels, "clusterIP": ip, "ports": ports},
        },
    ]


def hostpath_storage() -> list[Obj]:
    labels = {"k8s-app": "hostpath-provisioner"}
    return [
        _account("microk8s-hostpath", "kube-system"),
        _workload(
            "Deployment",
            "hostpath-provisioner",
            "kube-system",
            labels,
            _pod("docker.io/cdkbot/hostpath-provisioner:1.5.0", "hostpath-provisioner", "microk8s-hostpath"),
        ),
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "microk8s-hostpath",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "microk8s.io/hostpath",
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
    ]


def metrics_server() -> list[Obj]:
    """Without its APIService: nothing would answer it here, and a dead one breaks every client's discovery."""
    labels = {"k8s-app": "metrics-server"}
    return [
        _account("metrics-server", "kube-system"),
        _workload(
            "Deployment",
            "metrics-server",
            "kube-system",
            labels,
            _pod("registry.k8s.io/metrics-server/metrics-server:v0.8.0", "metrics-server", "metrics-server"),
        ),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta("metrics-server", "kube-system", labels),
            "spec": {"selector": labels, "ports": [{"name": "https", "port": 443, "targetPort": 4443}]},
        },
    ]


def _crd(kind: str, plural: str, spec: Obj, required: list[str]) -> Obj:
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": spec, **({"required": required} if required else {})},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    version = {
        "name": "v1beta1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": _meta(f"{plural}.metallb.io"),
        "spec": {"group": "metallb.io", "names": names, "scope": "Namespaced", "versions": [version]},
    }


def _strings() -> Obj:
    return {"type": "array", "items": {"type": "string"}}


def metallb_definitions() -> list[Obj]:
    selectors = {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return [
        _crd(
            "IPAddressPool",
            "ipaddresspools",
            {
                "addresses": _strings(),
                "autoAssign": {"type": "boolean", "default": True},
                "avoidBuggyIPs": {"type": "boolean", "default": False},
                "serviceAllocation": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
            ["addresses"],
        ),
        _crd(
            "L2Advertisement",
            "l2advertisements",
            {
                "ipAddressPools": _strings(),
                "ipAddressPoolSelectors": selectors,
                "nodeSelectors": selectors,
                "interfaces": _strings(),
            },
            [],
        ),
    ]


def metallb() -> list[Obj]:
    namespace = "metallb-system"
    parts = {c: {"app": "metallb", "component": c} for c in ("controller", "speaker")}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": _meta(namespace, None, {"pod-security.kubernetes.io/enforce": "privileged"}),
        },
        _account("controller", namespace),
        _account("speaker", namespace),
        _workload(
            "Deployment",
            "controller",
            namespace,
            parts["controller"],
            _pod("quay.io/metallb/controller:v0.15.2", "controller", "controller"),
        ),
        _workload(
            "DaemonSet",
            "speaker",
            namespace,
            parts["speaker"],
            _pod("quay.io/metallb/speaker:v0.15.2", "speaker", "speaker", hostNetwork=True, tolerations=_EVERYWHERE),
        ),
    ]


def metallb_pool(ranges: list[str]) -> list[Obj]:
    namespace, pool = "metallb-system", "default-addresspool"
    return [
        {
            "apiVersion": "metallb.io/v1beta1",
            "kind": "IPAddressPool",
            "metadata": _meta(pool, namespace),
            "spec": {"addresses": ranges},
        },
        {
            "apiVersion": "metallb.io/v1beta1",
            "kind": "L2Advertisement",
            "metadata": _meta("default-advertise-all-pools", namespace),
            "spec": {},
        },
    ]
