# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab puts on each simulated host, as overlay layers.

`layers(kind, dest, bin_dir)` writes (only what differs) the layer directories of one kind of host below
`dest` and returns them uppermost first; they are stacked above the Debian root as overlay lower layers.

* `tools`: the real `kubectl` and `helm` of `bin_dir` (default: those that the lab has built), hard-linked where that
  is possible, at /usr/lib/snapsim/libexec. The simulated `snap install microk8s` links them to where MicroK8s has
  them; without them `microk8s kubectl` and `microk8s helm` end with 127.
* `controller` or `spark`: the face of the operating system, and the GPU's side of a Spark.
* `common`: the simulated `snap`, `microk8s` and its daemons, at /usr/lib/snapsim.

See README.md in this directory for what is real and what is simulated.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path
from typing import Literal

Kind = Literal["controller", "spark"]

HERE = Path(__file__).resolve().parent
TOOLS = ("kubectl", "helm")
# What `lab/ctl fault NAME HOST [VALUE]` can do to a host's programs; a number counts the times.
FAULTS = {
    "token_expired": "the next join token is refused as expired (controller)",
    "store_unreachable": "the snap store does not answer",
    "change_conflict": "snap changes are refused because another one is in progress (rc 10)",
    "configure_hook_fails": "the MicroK8s snap's configure hook fails at install or refresh (which then reverts)",
    "newer_patch": "the store has one more patch release in every track",
    "auto_refresh_in": "SECONDS: snapd refreshes by itself to a newer patch release, unless that is held",
    "join_dies_midway": "microk8s join ends before certificates and locks (true: with an error; kill: by SIGKILL)",
    "leave_dies_midway": "microk8s leave ends half-way",
    "gpu_driver_broken": "nvidia-smi cannot talk to the driver (Spark)",
    "gpu_driver": "VERSION: of the driver, as 550.54.14 (Spark)",
    "gpu_driver_missing": "there is no nvidia-smi (Spark)",
    "machine": "NAME: what uname -m and Python say, as x86_64",
    "kernel": "RELEASE: what uname -r and Python say, as 6.8.0-31-generic",
    "os_release": "ubuntu-22.04, ubuntu-24.04 or debian-12: what /etc/os-release says",
    "dgx_release": "none, or VERSION,UPDATE,...: what /etc/dgx-release says",
    "hostname": "NAME: what the host calls itself, as SPARK-01",
    "clock_offset": "SECONDS: how far the clock that Python and date see is ahead (or, negative, behind)",
    "memory": "SIZE: in /proc/meminfo and the Node's capacity, as 8Gi",
    "cores": "NUMBER: what Python and the Node's capacity say",
    "small_disk": "DIRECTORY=SIZE: a file system of that size there, as /var/lib/models=20Gi",
}


def _put(source: Path, target: Path, link: bool = False) -> None:
    """Copy (or hard-link) one file, unless the same is there; a running lab's files are never rewritten in place."""
    mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
    if target.exists() and (target.samefile(source) or filecmp.cmp(source, target, shallow=link)):
        if not link:
            target.chmod(mode)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    new.unlink(missing_ok=True)
    if link:
        try:
            os.link(source, new)
        except OSError:
            shutil.copy2(source, new)
    else:
        shutil.copyfile(source, new)
        new.chmod(mode)
    new.replace(target)


def _mirror(source: Path, target: Path) -> set[Path]:
    """Bring a tree over; returns the files that belong there."""
    wanted: set[Path] = set()
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if "__pycache__" in relative.parts or relative.name == ".keep":
            continue
        place = target / relative
        if path.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_symlink() or os.readlink(place) != os.readlink(path):
                place.unlink(missing_ok=True)
                place.symlink_to(os.readlink(path))
            wanted.add(place)
        elif path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            _put(path, place)
            wanted.add(place)
    return wanted


def _prune(target: Path, wanted: set[Path]) -> None:
    for path in target.rglob("*"):
        if (path.is_symlink() or path.is_file()) and path not in wanted:
            path.unlink()


def _built_tools() -> Path | None:
    from lab.build import tools_dir

    found = tools_dir()
    return found if found.is_dir() else None


def layers(kind: Kind, dest: Path, bin_dir: Path | None = None) -> list[Path]:
    if kind not in ("controller", "spark"):
        raise ValueError(f"no such kind of host: {kind}")
    dest = dest.resolve()
    made: list[Path] = []
    bin_dir = bin_dir or _built_tools()
    if bin_dir is not None:
        tools = dest / "tools"
        for name in TOOLS:
            if (bin_dir / name).exists():
                _put(bin_dir / name, tools / "usr/lib/snapsim/libexec" / name, link=True)
        made.append(tools)
    face = dest / kind
    face.mkdir(parents=True, exist_ok=True)
    _prune(face, _mirror(HERE / "tree" / kind, face))
    made.append(face)
    common = dest / "common"
    wanted = _mirror(HERE / "tree/common", common)
    wanted |= _mirror(HERE / "snapsim", common / "usr/lib/snapsim/snapsim")
    journal = common / "var/lib/snapsim/journal.log"
    if not journal.exists():
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.touch()
        journal.chmod(0o666)  # users without privileges call `snap list` as well
    _prune(common, wanted | {journal})
    made.append(common)
    return made
