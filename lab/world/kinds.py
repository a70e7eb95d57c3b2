# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds that the lab's world looks at, and where the API serves them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """Where a kind is served, and what of it is watched."""

    name: str
    api_version: str
    plural: str
    namespaced: bool = True
    selector: str = ""
    namespace: str = ""  # watch this namespace only
    metadata_only: bool = False

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def crd(self) -> str:
        """Name of the CRD that serves the kind; empty for what the API server has built in."""
        return f"{self.plural}.{self.group}" if self.group.partition(".")[2] and not self._builtin else ""

    @property
    def _builtin(self) -> bool:
        group = self.group
        return group.endswith(".k8s.io") and not group.startswith(("gateway.networking", "inference.networking"))

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        parts = ["", "apis" if self.group else "api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


def _kinds(api_version: str, *names: str, namespaced: bool = True) -> list[Kind]:
    return [Kind(kind, api_version, plural, namespaced) for kind, _, plural in (name.partition(":") for name in names)]


# Tenants' keys and Helm's records are many and of no interest here.
_SECRETS = "authorino.kuadrant.io/managed-by!=authorino,owner!=helm"

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in [
        Kind(
            "CustomResourceDefinition",
            "apiextensions.k8s.io/v1",
            "customresourcedefinitions",
            False,
            metadata_only=True,
        ),
        Kind("Lease", "coordination.k8s.io/v1", "leases", namespace="kube-node-lease"),
        Kind("Secret", "v1", "secrets", selector=_SECRETS),
        *_kinds("v1", "Node:nodes", "PersistentVolume:persistentvolumes", namespaced=False),
        *_kinds(
            "v1",
            "Pod:pods",
            "Service:services",
            "ConfigMap:configmaps",
            "PersistentVolumeClaim:persistentvolumeclaims",
            "ServiceAccount:serviceaccounts",
        ),
        *_kinds("apps/v1", "Deployment:deployments", "DaemonSet:daemonsets", "StatefulSet:statefulsets"),
        *_kinds("batch/v1", "Job:jobs"),
        *_kinds("discovery.k8s.io/v1", "EndpointSlice:endpointslices"),
        *_kinds("node.k8s.io/v1", "RuntimeClass:runtimeclasses", namespaced=False),
        *_kinds("storage.k8s.io/v1", "StorageClass:storageclasses", namespaced=False),
        *_kinds("rbac.authorization.k8s.io/v1", "ClusterRoleBinding:clusterrolebindings", namespaced=False),
        *_kinds(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration:mutatingwebhookconfigurations",
            namespaced=False,
        ),
        *_kinds("gateway.networking.k8s.io/v1", "GatewayClass:gatewayclasses", namespaced=False),
        *_kinds(
            "gateway.networking.k8s.io/v1",
            "Gateway:gateways",
            "HTTPRoute:httproutes",
            "BackendTLSPolicy:backendtlspolicies",
        ),
        *_kinds("gateway.networking.k8s.io/v1beta1", "ReferenceGrant:referencegrants"),
        *_kinds(
            "gateway.envoyproxy.io/v1alpha1",
            "EnvoyProxy:envoyproxies",
            "Backend:backends",
            "BackendTrafficPolicy:backendtrafficpolicies",
            "ClientTrafficPolicy:clienttrafficpolicies",
            "SecurityPolicy:securitypolicies",
            "EnvoyExtensionPolicy:envoyextensionpolicies",
            "EnvoyPatchPolicy:envoypatchpolicies",
            "HTTPRouteFilter:httproutefilters",
        ),
        *_kinds("inference.networking.k8s.io/v1", "InferencePool:inferencepools"),
        *_kinds(
            "aigateway.envoyproxy.io/v1alpha1",
            "AIGatewayRoute:aigatewayroutes",
            "AIServiceBackend:aiservicebackends",
            "BackendSecurityPolicy:backendsecuritypolicies",
            "MCPRoute:mcproutes",
        ),
        *_kinds("kuadrant.io/v1beta1", "Kuadrant:kuadrants"),
        *_kinds("kuadrant.io/v1", "AuthPolicy:authpolicies", "RateLimitPolicy:ratelimitpolicies"),
        *_kinds("kuadrant.io/v1alpha1", "TokenRateLimitPolicy:tokenratelimitpolicies"),
        *_kinds("limitador.kuadrant.io/v1alpha1", "Limitador:limitadors"),
        *_kinds("operator.authorino.kuadrant.io/v1beta1", "Authorino:authorinos"),
        *_kinds("nvidia.com/v1", "ClusterPolicy:clusterpolicies", namespaced=False),
        *_kinds("monitoring.coreos.com/v1", "Prometheus:prometheuses"),
        *_kinds("metallb.io/v1beta1", "IPAddressPool:ipaddresspools"),
    ]
}
# Written but never watched.
EVENT = Kind("Event", "v1", "events")
