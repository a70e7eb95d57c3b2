# SPDX-License-Identifier: GPL-3.0-or-later
"""The flags that a kubelet of 1.32 to 1.36 knows (its command-line reference); with any other one it does not start."""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = """
address allowed-unsafe-sysctls anonymous-auth application-metrics-count-limit authentication-token-webhook
authentication-token-webhook-cache-ttl authorization-mode authorization-webhook-cache-authorized-ttl
authorization-webhook-cache-unauthorized-ttl boot-id-file bootstrap-kubeconfig cert-dir cgroup-driver cgroup-root
cgroups-per-qos client-ca-file cloud-config cloud-provider cluster-dns cluster-domain config config-dir
container-hints container-log-max-files container-log-max-size container-runtime-endpoint containerd
containerd-namespace contention-profiling cpu-cfs-quota cpu-cfs-quota-period cpu-manager-policy
cpu-manager-policy-options cpu-manager-reconcile-period enable-controller-attach-detach enable-debugging-handlers
enable-load-reader enable-server enforce-node-allocatable event-burst event-qps event-storage-age-limit
event-storage-event-limit eviction-hard eviction-max-pod-grace-period eviction-minimum-reclaim
eviction-pressure-transition-period eviction-soft eviction-soft-grace-period exit-on-lock-contention fail-swap-on
feature-gates file-check-frequency global-housekeeping-interval hairpin-mode healthz-bind-address healthz-port
hostname-override housekeeping-interval http-check-frequency image-credential-provider-bin-dir
image-credential-provider-config image-gc-high-threshold image-gc-low-threshold image-service-endpoint
kernel-memcg-notification kube-api-burst kube-api-content-type kube-api-qps kube-reserved kube-reserved-cgroup
kubeconfig kubelet-cgroups local-storage-capacity-isolation lock-file log-cadvisor-usage log-flush-frequency
logging-format machine-id-file make-iptables-util-chains manifest-url manifest-url-header max-open-files max-pods
maximum-dead-containers maximum-dead-containers-per-container memory-manager-policy minimum-container-ttl-duration
minimum-image-ttl-duration node-ip node-labels node-status-max-images node-status-update-frequency oom-score-adj
pod-cidr pod-infra-container-image pod-manifest-path pod-max-pids pods-per-core port protect-kernel-defaults
provider-id qos-reserved read-only-port register-node register-schedulable register-with-taints registry-burst
registry-qps reserved-cpus reserved-memory resolv-conf root-dir rotate-certificates rotate-server-certificates
runonce runtime-cgroups runtime-request-timeout seccomp-default serialize-image-pulls
streaming-connection-idle-timeout sync-frequency system-cgroups system-reserved system-reserved-cgroup
tls-cert-file tls-cipher-suites tls-min-version tls-private-key-file topology-manager-policy
topology-manager-policy-options topology-manager-scope v vmodule volume-plugin-dir volume-stats-agg-period
"""
_KNOWN = frozenset(f"--{name}" for name in _NAMES.split())


def unknown(flags: Iterable[str]) -> str:
    """The first flag that no kubelet knows, or nothing."""
    return next((flag for flag in flags if flag not in _KNOWN), "")
