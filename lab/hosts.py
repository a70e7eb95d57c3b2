# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of simulated hosts: what makes one host differ from another, laid out before its first boot.

What a host gets besides the common root file system:

- overlay layers from ``lab.hostsim.layers(kind, dest)`` (``kind``: controller or spark), the topmost first;
- its own name, machine-id, ssh host key, and the operator's public key for user ``ops``;
- ``/var/lib/snapsim/seed/``: ``lab.json`` (host, kind, address, and where the lab's API server listens);
  on the first controller also ``ca.crt`` and ``ca.key``: the lab's cluster is that host's MicroK8s.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path

from lab.paths import API_PORT, HOSTS_SIDE, OUTSIDE, Host, Lab, LabError
from lab.pki import write_private
from lab.rootfs import OPS_UID

INIT = Path(__file__).with_name("host-init.sh")
SEED = "var/lib/snapsim/seed"
SSHD = """\
# Written by the lab.
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM yes
UseDNS no
MaxStartups 100
MaxSessions 100
Subsystem sftp /usr/lib/openssh/sftp-server
"""


def lower_layers(lab: Lab) -> None:
    """Ask the host simulator for its overlay layers and note them in ``lab``."""
    from lab import hostsim

    for kind in sorted({host.kind for host in lab.hosts}):
        made = hostsim.layers(kind, lab.state / "layers" / kind, Path(lab.bin))
        lab.layers[kind] = [str(layer) for layer in made]


def lay_out(lab: Lab) -> None:
    """Write what each host has for itself, and the operator's key and known hosts."""
    key = lab.state / "id"
    _ssh_keygen(key, "operator")
    known = []
    for host in lab.hosts:
        known.append(f"{host.address} {_lay_out_host(lab, host)}")
    (lab.state / "known_hosts").write_text("".join(known))


def _lay_out_host(lab: Lab, host: Host) -> str:
    """Fill the host's upper layer; returns its public ssh key."""
    top = lab.host_dir(host.name)
    upper = top / "upper"
    for place in ("upper/etc/ssh", "upper/home/ops/.ssh", f"upper/{SEED}", "work", "root", "net"):
        (top / place).mkdir(parents=True)
    (upper / SEED).parent.chmod(0o755)
    (upper / SEED).chmod(0o700)
    (upper / "etc/hostname").write_text(f"{host.name}\n")
    (upper / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    names = [f"{other.address} {other.name}" for other in lab.hosts]
    (upper / "etc/hosts").write_text("\n".join(["127.0.0.1 localhost", *names]) + "\n")
    # Nothing answers there: a name that is not in /etc/hosts fails at once, as without Internet.
    (upper / "etc/resolv.conf").write_text(f"nameserver {OUTSIDE}\noptions timeout:1 attempts:1\n")
    (upper / "etc/ssh/sshd_config").write_text(SSHD)
    host_key = upper / "etc/ssh/ssh_host_ed25519_key"
    _ssh_keygen(host_key, host.name)
    _authorize(upper / "home/ops", lab.state / "id.pub")
    _seed(lab, host, upper / SEED)
    return host_key.with_suffix(".pub").read_text()


def _authorize(home: Path, public_key: Path) -> None:
    authorized = home / ".ssh/authorized_keys"
    shutil.copy(public_key, authorized)
    authorized.chmod(0o600)
    (home / ".ssh").chmod(0o700)
    for path in (home, home / ".ssh", authorized):
        os.chown(path, OPS_UID, OPS_UID)


def _seed(lab: Lab, host: Host, seed: Path) -> None:
    first_controller = next((each.name for each in lab.hosts if each.kind == "controller"), None)
    about = {
        "lab": lab.name,
        "host": host.name,
        "kind": host.kind,
        "address": host.address,
        "api": f"https://{HOSTS_SIDE}:{API_PORT}",
        "api_host": HOSTS_SIDE,
        "api_port": API_PORT,
        "hosts": {each.name: {"address": each.address, "kind": each.kind} for each in lab.hosts},
    }
    (seed / "lab.json").write_text(json.dumps(about, indent=1) + "\n")
    if host.name == first_controller:
        for name in ("ca.crt", "ca.key"):
            write_private(seed / name, (lab.pki / name).read_bytes())


def _ssh_keygen(path: Path, comment: str) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise LabError(f"ssh-keygen failed: {done.stderr.strip()}")


def boot_command(lab: Lab, host: Host) -> list[str]:
    """The command that is the host: PID 1 of namespaces of its own, gone with all it started when it is killed."""
    lower = ":".join([*lab.layers.get(host.kind, []), lab.rootfs])
    return [
        "nsenter",
        f"--net=/run/netns/{host.name}",
        "unshare",
        *("--uts", "--ipc", "--cgroup", "--pid", "--mount", "--fork", "--kill-child", "--propagation", "private"),
        "/bin/sh",
        str(INIT),
        host.name,
        str(lab.host_dir(host.name)),
        lower,
    ]
