# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a host and print what was found as JSON. Reads only; runs on any Python 3 with nothing installed.

The argument is JSON: the control node's time, whether there shall be a GPU, the peers and mirrors that the host must
reach, the ports that MicroK8s needs, and the directories whose file systems count. What identifies a machine leaves it
as a digest only.
"""

import glob
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

ARRIVED = time.time()
MICROK8S = "/var/snap/microk8s/current/"
SNAP_SECONDS = 40
LISTENING, ANY_STATE = "0A", "07"


def text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def fields(path):
    """``KEY="value"`` lines; of a key that stands there several times, the last counts."""
    pairs = [line.split("=", 1) for line in text(path).splitlines() if "=" in line]
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def run(*command, seconds=30):
    """The exit code and everything that was said."""
    program = shutil.which(command[0], path=os.environ.get("PATH", "") + ":/snap/bin:/usr/sbin:/sbin")
    if not program:
        return 127, command[0] + " is not installed"
    environment = dict(os.environ, LC_ALL="C.UTF-8")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        timed_out = isinstance(error, subprocess.TimeoutExpired)
        return 124, command[0] + (" does not answer" if timed_out else " cannot be run")
    return done.returncode, done.stdout.decode(errors="replace").strip()


def release():
    found = fields("/etc/os-release")
    return " ".join(found.get(key, "?") for key in ("NAME", "VERSION_ID"))


def dgx():
    """The version of DGX OS: that of the last update, else the one it was delivered with. Never the serial number."""
    found = fields("/etc/dgx-release")
    return found.get("DGX_OTA_VERSION") or found.get("DGX_SWBUILD_VERSION") or ""


def memory():
    found = dict(line.split(":", 1) for line in text("/proc/meminfo").splitlines() if ":" in line)
    return int(found.get("MemTotal", "0").split()[0]) * 1024


def swap():
    return sum(int(line.split()[2]) for line in text("/proc/swaps").splitlines()[1:]) * 1024


def space(path):
    """The file system on which a directory is, or will be."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    total, _used, free = shutil.disk_usage(path)
    return {"total": total, "free": free}


def digest(value):
    return hashlib.sha256(b"tokenlabs preflight " + value.strip().encode()).hexdigest()[:16] if value.strip() else ""


def identity():
    keys = sorted(text(path) for path in glob.glob("/etc/ssh/ssh_host_*_key.pub"))
    return {"machine": digest(text("/etc/machine-id")), "ssh": digest("".join(keys))}


# --- network ---


def ip(*arguments):
    code, output = run("ip", "-json", *arguments)
    try:
        return json.loads(output) if code == 0 and output else []
    except ValueError:
        return []


def addresses():
    """Every IPv4 address as [interface, kind of interface, address, length of its network's prefix]."""
    return [
        [link["ifname"], link.get("linkinfo", {}).get("info_kind", ""), its["local"], its["prefixlen"]]
        for link in ip("-4", "-details", "address")
        if link.get("ifname")
        for its in link.get("addr_info", [])
        if its.get("family") == "inet"
    ]


def routes():
    """Every IPv4 route as [destination, interface]."""
    found = [(route.get("dst", ""), route.get("dev", "")) for route in ip("-4", "route", "show", "table", "main")]
    return [[destination, device] for destination, device in found if destination != "default" and device]


def sockets(protocol):
    """Local port -> inodes of the sockets that wait on it."""
    found = {}
    for family in ("", "6"):
        for line in text("/proc/net/" + protocol + family).splitlines()[1:]:
            columns = line.split()
            if len(columns) > 9 and columns[3] == (LISTENING if protocol == "tcp" else ANY_STATE):
                found.setdefault(int(columns[1].rpartition(":")[2], 16), set()).add(columns[9])
    return found


def descriptors():
    """What every process has open: (inode of a socket -> process, count of root's inotify instances)."""
    owners, watching = {}, 0
    for path in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            target = os.readlink(path)
            if target.startswith("socket:["):
                owners[target[8:-1]] = path.split("/")[2]
            elif target.startswith("anon_inode:") and "inotify" in target:
                watching += os.stat("/proc/" + path.split("/")[2]).st_uid == 0
        except OSError:
            continue
    return owners, watching


def holder(inodes, owners):
    """Who has a port: ``microk8s``, another program's name, or nothing for the kernel."""
    names = set()
    for process in {owners[inode] for inode in inodes if inode in owners}:
        groups = text("/proc/" + process + "/cgroup")
        own = "snap.microk8s." in groups or "kubepods" in groups
        names.add("microk8s" if own else text("/proc/" + process + "/comm").strip())
    return ", ".join(sorted(names - {"microk8s"})) or ("microk8s" if names else "")


def ports(wanted, owners):
    """``25000/tcp`` -> who has it, for those of the wanted ports that somebody has."""
    waiting = {protocol: sockets(protocol) for protocol in ("tcp", "udp")}
    found = {}
    for name in wanted:
        number, protocol = name.split("/")
        inodes = waiting[protocol].get(int(number))
        if inodes:
            # Calico's tunnel is the kernel's, and so belongs to no process.
            tunnel = name == "4789/udp" and os.path.exists("/sys/class/net/vxlan.calico")
            found[name] = "microk8s" if tunnel else holder(inodes, owners) or "the kernel"
    return found


def reach(peers):
    """Peers that do not answer, as [name, address and port, reason]. One that refuses is there at least."""
    lost = []

    def call(name, address, port):
        try:
            socket.create_connection((address, port), timeout=5).close()
        except ConnectionRefusedError:
            lost.append([name, port, "refused"])
        except OSError as error:
            lost.append([name, port, str(error.strerror or error)])

    threads = [threading.Thread(target=call, args=tuple(peer)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(lost)


# --- programs ---


def gpu():
    code, output = run("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    rows = [line.split(", ") for line in output.splitlines()]
    if code or not rows or len(rows[0]) != 2:
        return {"error": output.splitlines()[0] if output else "nvidia-smi says nothing", "names": [], "driver": ""}
    return {"error": "", "names": [row[0] for row in rows], "driver": rows[0][-1]}


def store():
    """What the snap store offers of MicroK8s: {"error": text, "channels": [...]}; closed channels are left out."""
    code, output = run("snap", "info", "microk8s", seconds=SNAP_SECONDS)
    if code:
        return {"error": output.splitlines()[0] if output else "snap says nothing", "channels": []}
    rows = re.findall(r"^\s+(\S+/(?:stable|candidate|beta|edge)):\s+(\S+)", output, re.MULTILINE)
    return {"error": "", "channels": [channel for channel, version in rows if version not in ("-", "--", "\u2013")]}


def fingerprint(path):
    """SHA-256 of a certificate."""
    import ssl

    match = re.search("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text(MICROK8S + path), re.DOTALL)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(match.group(0))).hexdigest() if match else ""


def cluster():
    """To which cluster this host belongs, from its files: a worker's commands say nothing."""
    lock = MICROK8S + "var/lock/"
    worker = os.path.exists(lock + "clustered.lock")
    datastore = text(MICROK8S + "var/kubernetes/backend/cluster.yaml")
    members = re.findall(r"^[\s-]*Address:\s*(\S+)", datastore, re.MULTILINE)
    row = re.search(r"^microk8s +\S+ +\S+ +(\S+)", run("snap", "list", "microk8s")[1], re.MULTILINE)
    return {
        "channel": row.group(1) if row else "",
        "worker": worker,
        "datastore": members,
        "ca": fingerprint("certs/ca.crt"),
        "remote_ca": fingerprint("certs/ca.remote.crt"),
        # The first join of any kind makes a control plane keep its certificate.
        "joined": not worker and (len(members) > 1 or os.path.exists(lock + "no-cert-reissue")),
    }


def main():
    wanted = json.loads(sys.argv[1])
    installed = os.path.exists("/snap/microk8s/current")
    snapd = shutil.which("snap") is not None
    found = {}
    slow = {
        "store": lambda: store() if snapd and not installed else None,
        "unreachable": lambda: reach(wanted["peers"]),
        "mirrors": lambda: reach(wanted["mirrors"]),
        "gpu": lambda: gpu() if wanted["gpu"] else None,
    }
    threads = [threading.Thread(target=lambda name=name: found.update({name: slow[name]()})) for name in slow]
    for thread in threads:
        thread.start()
    owners, watching = descriptors()
    found.update(
        release=release(),
        dgx=dgx(),
        machine=platform.machine(),
        kernel=platform.release(),
        python=list(sys.version_info[:2]),
        host_name=socket.gethostname(),
        identity=identity(),
        cores=os.cpu_count(),
        memory=memory(),
        swap=swap(),
        cgroup2=os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
        inotify={"free": int(text("/proc/sys/fs/inotify/max_user_instances") or 0) - watching},
        spaces={path: space(path) for path in wanted["paths"]},
        root=os.geteuid() == 0,
        snapd=snapd,
        docker=shutil.which("dockerd") is not None or os.path.exists("/etc/docker/daemon.json"),
        cluster=cluster() if installed else None,
        addresses=addresses(),
        routes=routes(),
        ports=ports(wanted["ports"], owners),
        runtime=os.path.exists("/usr/bin/nvidia-container-runtime"),
    )
    for thread in threads:
        thread.join()
    found["clock"] = {"sent": wanted["sent"], "arrived": ARRIVED, "finished": time.time()}
    print(json.dumps(found))


main()
