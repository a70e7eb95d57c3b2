# SPDX-License-Identifier: GPL-3.0-or-later
"""The root file system that every host starts from: made once from the machine's own package sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab.cache import Artifact, locked, publish
from lab.paths import LabError, cache_root, digest

PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "openssh-server",
    "openssl",
    "procps",
    "python3",
    "python3-apt",
    "python3-venv",
    "python3-yaml",
    "rsync",
    "sudo",
    "systemd",
    "systemd-sysv",
)
OPS_UID = 1000

# Runs once in the finished tree ($1), as root, on the machine.
CUSTOMIZE = r"""
set -eu
root=$1
chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash ops
# '*' and not '!': sshd refuses accounts that are locked.
chroot "$root" usermod --password '*' ops
echo 'ops ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/ops"
# Ubuntu's sudo finds snaps.
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin
printf 'Defaults secure_path="%s"\n' "$path" > "$root/etc/sudoers.d/ubuntu"
chmod 0440 "$root/etc/sudoers.d/ops" "$root/etc/sudoers.d/ubuntu"
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/machine-id "$root"/etc/hostname "$root"/etc/resolv.conf
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/var/lib/dbus/machine-id
: > "$root/etc/machine-id"
: > "$root/etc/apt/sources.list"
for unit in console-getty.service getty.target systemd-resolved.service apt-daily.timer apt-daily-upgrade.timer \
            dpkg-db-backup.timer e2scrub_all.timer systemd-networkd.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n' > "$root/etc/systemd/journald.conf.d/lab.conf"
"""


def machine_suite() -> str:
    """The machine's own release, as bookworm: hosts are made of it."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError as error:
        raise LabError(f"which system this is cannot be read: {error}") from error
    return dict(line.split("=", 1) for line in lines if "=" in line).get("VERSION_CODENAME", "").strip('"')


def machine_sources(suite: str) -> list[str]:
    """The package sources of ``suite`` on this machine, as one-line entries."""
    fields = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]
    try:
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"the machine's package sources cannot be read: {error}") from error
    return source_lines(listing, suite)


def source_lines(listing: str, suite: str) -> list[str]:
    """Pick the distribution's own archives of ``suite`` from apt's list of index targets."""
    archives: dict[tuple[str, str], list[str]] = {}
    for line in listing.splitlines():
        origin, release, component, uri = line.split("|")
        if origin in ("Debian", "Ubuntu") and release.split("-")[0] == suite:
            archives.setdefault((uri, release), []).append(component)
    if not any(release == suite for _uri, release in archives):
        raise LabError(f"apt knows no package source of {suite or 'this release'}; run apt-get update")
    return [f"deb {uri} {release} {' '.join(dict.fromkeys(parts))}" for (uri, release), parts in archives.items()]


def apt_options() -> list[str]:
    """The machine's way to the network (proxies, certificates), which mmdebstrap does not take over by itself."""
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    return [line.rstrip(";") for line in dump.splitlines() if line.startswith(("Acquire::http::", "Acquire::https::"))]


def key(suite: str) -> str:
    return digest(suite, " ".join(PACKAGES), CUSTOMIZE)


def ensure(say: Callable[[str], None]) -> Artifact:
    """Path of the root file system, made first if it is not there yet."""
    suite = machine_suite()
    target = cache_root() / "rootfs" / f"{suite}-{key(suite)}"
    with locked(target, say):
        if not (target / ".tokenlabs.json").is_file():
            say(f"root file system: installing {len(PACKAGES)} {suite} packages and what they need (about 1 min)")
            publish(target, lambda partial: _make(partial, suite))
    facts = json.loads((target / ".tokenlabs.json").read_text())
    return Artifact(target, facts)


def _make(partial: Path, suite: str) -> None:
    if not shutil.which("mmdebstrap"):
        raise LabError("mmdebstrap is not installed; scripts/setup.sh installs what the lab needs")
    sources = machine_sources(suite)
    partial.parent.mkdir(parents=True, exist_ok=True)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command += [f"--aptopt={option}" for option in apt_options()]
    command += ["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
    command += [f"--customize-hook={_hook()}", "--format=directory", suite, str(partial), "-"]
    done = subprocess.run(command, input="\n".join(sources) + "\n", text=True, capture_output=True)
    if done.returncode:
        tail = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise LabError(f"mmdebstrap could not make the root file system: {tail}")
    shutil.rmtree(partial / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(partial / "var/cache/apt", ignore_errors=True)
    for part in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (partial / part).mkdir(parents=True)
    python = sorted((partial / "usr/lib").glob("python3.[0-9]*"))
    facts = {"suite": suite, "python": python[-1].name.removeprefix("python") if python else ""}
    (partial / ".tokenlabs.json").write_text(json.dumps(facts) + "\n")
    os.chmod(partial, 0o755)


def _hook() -> str:
    """The customisation as a hook: mmdebstrap runs it by ``sh -c`` with the tree as its argument."""
    return CUSTOMIZE
