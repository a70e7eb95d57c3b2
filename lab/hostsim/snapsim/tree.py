# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a fresh MicroK8s installation."""

from __future__ import annotations

import grp
import os
import shutil
from pathlib import Path

from . import dqlite, endpoints, pki
from .addons import table
from .host import AGENT_PORT, API_PORT, Host, write_file
from .store import Release

LOW_MEMORY = 512 * 1024
FRESH_LOCKS = ("ha-cluster", "installed.lock", "lite.lock", "no-apiserver-proxy", "no-etcd", "no-flanneld")
WORKER_LABELS = "microk8s.io/cluster=true,node.kubernetes.io/microk8s-worker=microk8s-worker"
CONTROL_LABELS = "microk8s.io/cluster=true,node.kubernetes.io/microk8s-controlplane=microk8s-controlplane"
COMMANDS = (
    "microk8s", *(f"microk8s.{c}" for c in (
        "add-node", "addons", "config", "ctr", "dbctl", "disable", "enable", "helm", "helm3", "images", "inspect",
        "join", "kubectl", "leave", "refresh-certs", "remove-node", "reset", "start", "status", "stop", "version")),
)  # fmt: skip
_CIPHERS = ",".join(
    f"TLS_{kind}_WITH_{cipher}_SHA{bits}"
    for kind, cipher, bits in (
        ("ECDHE_ECDSA", "AES_128_GCM", 256), ("ECDHE_RSA", "AES_128_GCM", 256),
        ("ECDHE_ECDSA", "CHACHA20_POLY1305", 256), ("ECDHE_RSA", "CHACHA20_POLY1305", 256),
        ("ECDHE_ECDSA", "AES_256_GCM", 384), ("ECDHE_RSA", "AES_256_GCM", 384),
        ("RSA", "AES_256_GCM", 384), ("RSA", "AES_128_GCM", 256))
)  # fmt: skip

KUBELET = f"""--kubeconfig=${{SNAP_DATA}}/credentials/kubelet.config
--cert-dir=${{SNAP_DATA}}/certs
--client-ca-file=${{SNAP_DATA}}/certs/ca.crt
--anonymous-auth=false
--root-dir=${{SNAP_COMMON}}/var/lib/kubelet
--fail-swap-on=false
--eviction-hard="memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi"
--container-runtime-endpoint=${{SNAP_COMMON}}/run/containerd.sock
--containerd=${{SNAP_COMMON}}/run/containerd.sock
--node-labels="{CONTROL_LABELS}"
--authentication-token-webhook=true
--read-only-port=0
--tls-cipher-suites={_CIPHERS}
--serialize-image-pulls=false
"""
KUBE_APISERVER = f"""--cert-dir=${{SNAP_DATA}}/certs
--service-cluster-ip-range=10.152.183.0/24
--authorization-mode=AlwaysAllow
--service-account-key-file=${{SNAP_DATA}}/certs/serviceaccount.key
--client-ca-file=${{SNAP_DATA}}/certs/ca.crt
--tls-cert-file=${{SNAP_DATA}}/certs/server.crt
--tls-private-key-file=${{SNAP_DATA}}/certs/server.key
--tls-cipher-suites={_CIPHERS}
--kubelet-client-certificate=${{SNAP_DATA}}/certs/apiserver-kubelet-client.crt
--kubelet-client-key=${{SNAP_DATA}}/certs/apiserver-kubelet-client.key
--secure-port={API_PORT}
--kubelet-preferred-address-types=InternalIP,Hostname,InternalDNS,ExternalDNS,ExternalIP
--allow-privileged=true
--service-account-issuer=https://kubernetes.default.svc
"""
KUBE_PROXY = """--kubeconfig=${SNAP_DATA}/credentials/proxy.config
--cluster-cidr=10.1.0.0/16
--healthz-bind-address=127.0.0.1
--profiling=false
"""
_RUNTIMES = '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes'
CONTAINERD_TEMPLATE = f"""# containerd.toml is made from this file whenever the daemon starts.
version = 2
oom_score = 0

[grpc]
  uid = 0
  gid = 0

[debug]
  level = ""

[metrics]
  address = "127.0.0.1:1338"
  grpc_histogram = false

[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_selinux = false
  sandbox_image = "registry.k8s.io/pause:3.10"
  max_container_log_line_size = 16384

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "${{SNAPSHOTTER}}"
    default_runtime_name = "${{RUNTIME}}"

    {_RUNTIMES}]

      {_RUNTIMES}.runc]
        runtime_type = "${{RUNTIME_TYPE}}"

      {_RUNTIMES}.nvidia-container-runtime]
        runtime_type = "${{RUNTIME_TYPE}}"
        {_RUNTIMES}.nvidia-container-runtime.options]
          BinaryName = "nvidia-container-runtime"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${{SNAP_DATA}}/opt/cni/bin"
    conf_dir = "${{SNAP_DATA}}/args/cni-network"

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "${{SNAP_DATA}}/args/certs.d"
"""
PLAIN_ARGS = {
    "apiserver-proxy": "--refresh-interval=30s\n--traefik-config=${SNAP_DATA}/args/traefik/provider.yaml\n",
    "cluster-agent": f"cluster-agent\n--bind 0.0.0.0:{AGENT_PORT}\n--keyfile ${{SNAP_DATA}}/certs/server.key\n"
                     "--certfile ${SNAP_DATA}/certs/server.crt\n--timeout 240\n",
    "cni-env": "IPv4_SUPPORT=true\nIPv4_CLUSTER_CIDR=10.1.0.0/16\nIPv4_SERVICE_CIDR=10.152.183.0/24\n"
               "IPv6_SUPPORT=false\n",
    "containerd": "--config ${SNAP_DATA}/args/containerd.toml\n--root ${SNAP_COMMON}/var/lib/containerd\n"
                  "--state ${SNAP_COMMON}/run/containerd\n--address ${SNAP_COMMON}/run/containerd.sock\n",
    "containerd-env": "# Variables for containerd, for example HTTPS_PROXY, HTTP_PROXY and NO_PROXY.\n",
    "k8s-dqlite": "--storage-dir=${SNAP_DATA}/var/kubernetes/backend/\n"
                  "--listen=unix://${SNAP_DATA}/var/kubernetes/backend/kine.sock:12379\n",
    "kube-controller-manager": "--kubeconfig=${SNAP_DATA}/credentials/controller.config\n"
                               "--use-service-account-credentials\n",
    "kube-scheduler": "--kubeconfig=${SNAP_DATA}/credentials/scheduler.config\n--leader-elect=true\n",
    "certs.d/docker.io/hosts.toml": 'server = "https://docker.io"\n',
    "certs.d/localhost:32000/hosts.toml": 'server = "http://localhost:32000"\n\n'
                                          '[host."http://localhost:32000"]\ncapabilities = ["pull", "resolve"]\n',
    "traefik/provider-template.yaml": "tcp: {routers: {}, services: {}}\n",
}  # fmt: skip
APPARMOR = """# Written by MicroK8s at every start of its containerd.
#include <tunables/global>

profile cri-containerd.apparmor.d flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer=cri-containerd.apparmor.d,
}
"""


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def point_to(host: Host, release: Release) -> None:
    """Make a revision the current one."""
    revision = str(release.revision)
    snap = host.path(f"snap/microk8s/{revision}")
    (snap / "bin").mkdir(parents=True, exist_ok=True)
    _link(host.path("snap/microk8s/current"), revision)
    _link(host.path("var/snap/microk8s/current"), revision)
    tools = Path("/usr/lib/snapsim/libexec")
    for place, tool in (("kubectl", "kubectl"), ("bin/helm", "helm"), ("bin/helm3", "helm")):
        if host.path(str(tools / tool)).exists():
            _link(snap / place, str(tools / tool))
    write_repository(snap / "addons/core", release)
    write_file(snap / "meta/snap.yaml", f"name: microk8s\nversion: {release.version}\nconfinement: classic\n")
    for command in COMMANDS:
        _link(host.path(f"snap/bin/{command}"), "/usr/lib/snapsim/bin/microk8s")


def write_repository(path: Path, release: Release) -> None:
    """The addons of a release as a clone of them: the list, and the branch that is followed."""
    write_file(path / "addons.yaml", table.as_yaml())
    write_file(path / ".git/HEAD", f"ref: refs/heads/1.{release.minor}\n")


def authorities(host: Host) -> tuple[Path, Path]:
    return host.certs / "ca.crt", host.certs / "ca.key"


def server_names(host: Host, extra: tuple[str, ...] = ()) -> list[str]:
    base = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster",
            "kubernetes.default.svc.cluster.local", "127.0.0.1", "10.152.183.1"]  # fmt: skip
    return [*base, *host.addresses, *extra]


def make_server_certificate(host: Host) -> None:
    extra = tuple((host.certs / "extra-sans").read_text().split()) if (host.certs / "extra-sans").exists() else ()
    pki.issue(authorities(host), host.certs / "server.crt", host.certs / "server.key", "/CN=127.0.0.1",
              server_names(host, extra), pki.CERT_DAYS)  # fmt: skip


def make_identity(host: Host, seeded: bool) -> None:
    """Certificates and kubeconfigs: from the lab's seed if the host has one, else from an authority of its own."""
    host.certs.mkdir(parents=True, exist_ok=True)
    host.credentials.mkdir(parents=True, exist_ok=True)
    ca, key = authorities(host)
    seed, url = host.state / "seed", host.seeded_url() if seeded else ""
    if url and endpoints.lives_elsewhere(host, url):
        url = ""
    use_api(host, url)
    if url:
        shutil.copyfile(seed / "ca.crt", ca)
        shutil.copyfile(seed / "ca.key", key)
    else:
        pki.make_ca(ca, key, "10.152.183.1")
    pki.make_key(host.certs / "serviceaccount.key")
    make_own_certificates(host)


def use_api(host: Host, url: str) -> None:
    """Which API server this host's MicroK8s is the face of; none for a cluster of its own."""
    if url:
        write_file(host.state / "api-url", url + "\n")
    else:
        (host.state / "api-url").unlink(missing_ok=True)


def make_own_certificates(host: Host) -> None:
    """What this host's authority signs for its own services, and their kubeconfigs."""
    ca, key = authorities(host)
    make_server_certificate(host)
    users = {"client": ("/CN=admin/O=system:masters", "admin"),
             "kubelet": (f"/CN=system:node:{host.node_name}/O=system:nodes", f"system:node:{host.node_name}"),
             "proxy": ("/CN=system:kube-proxy", "system:kube-proxy")}  # fmt: skip
    if host.api_url:
        pki.issue((ca, key), host.certs / "apiserver.crt", host.certs / "apiserver.key",
                  "/CN=system:apiserver/O=system:masters")  # fmt: skip
    for name, (subject, user) in users.items():
        cert, private = host.certs / f"{name}.crt", host.certs / f"{name}.key"
        pki.issue((ca, key), cert, private, subject)
        config = pki.kubeconfig(f"https://127.0.0.1:{API_PORT}", ca, cert, private, user)
        write_file(host.credentials / f"{name}.config", config, 0o660)


def make_args(host: Host) -> None:
    files = {"kubelet": KUBELET, "kube-apiserver": KUBE_APISERVER, "kube-proxy": KUBE_PROXY,
             "containerd-template.toml": CONTAINERD_TEMPLATE, **PLAIN_ARGS}  # fmt: skip
    for name, text in files.items():
        write_file(host.args / name, text, 0o660)


def make_backend(host: Host, address: str = f"127.0.0.1:{dqlite.PORT}") -> None:
    """A datastore with one member."""
    mine = dqlite.Member(address, dqlite.member_id(host), dqlite.VOTER)
    dqlite.write_info(host, mine)
    dqlite.write(host, [mine], dqlite.version(host) + 1)
    for name in ("cluster.crt", "cluster.key"):
        if not (host.backend / name).exists():
            shutil.copyfile(host.certs / f"server.{name[-3:]}", host.backend / name)


def total_memory(host: Host) -> int:
    """In KiB."""
    path = host.path("proc/meminfo")
    return int(path.read_text().split()[1]) if path.exists() else LOW_MEMORY


def make(host: Host, release: Release) -> None:
    data = host.path(f"var/snap/microk8s/{release.revision}")
    data.mkdir(parents=True, exist_ok=True)
    point_to(host, release)
    for name in FRESH_LOCKS:
        host.lock(name).parent.mkdir(parents=True, exist_ok=True)
        host.lock(name).touch()
    if total_memory(host) < LOW_MEMORY:
        host.lock("low-memory-guard.lock").touch()
    make_args(host)
    make_identity(host, seeded=True)
    make_backend(host)
    for name in ("cluster-tokens.txt", "callback-tokens.txt", "certs-request-tokens.txt"):
        write_file(host.credentials / name, "", 0o660)
    (host.common / "run").mkdir(parents=True, exist_ok=True)
    (host.common / "etc/launcher").mkdir(parents=True, exist_ok=True)
    write_repository(host.common / "addons/core", release)
    own_by_group(host)


def own_by_group(host: Host) -> None:
    """Credentials belong to the group microk8s, which the real snap makes at its install."""
    if os.geteuid() or host.settings.services != "systemd":
        return
    try:
        gid = grp.getgrnam("microk8s").gr_gid
    except KeyError:
        return
    for folder in (host.credentials, host.certs, host.args, host.backend):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 0, gid)
    for folder in (host.credentials, host.certs, host.backend):
        folder.chmod(0o770)


def write_apparmor(host: Host) -> None:
    write_file(host.path("etc/apparmor.d/cri-containerd.apparmor.d"), APPARMOR)


def remove(host: Host) -> None:
    for relative in ("snap/microk8s", "var/snap/microk8s"):
        shutil.rmtree(host.path(relative), ignore_errors=True)
    for command in COMMANDS:
        host.path(f"snap/bin/{command}").unlink(missing_ok=True)


def callback_token(host: Host) -> str:
    """This node's own token for calls from the control plane; made at first use."""
    path = host.credentials / "callback-token.txt"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        token = os.urandom(32).hex()
        write_file(path, token + "\n", 0o660)
        return token
