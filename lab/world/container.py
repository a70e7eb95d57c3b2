# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one program as a container would: in its own network and with its own files. Started by the pod runner.

Reads from standard input, as JSON, what to run (arguments and secrets would be seen by all on a command line), once
the runner has plugged in the network cable; then becomes that program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Of the machine's own /etc, only what programs need to start at all.
ETC = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "localtime")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def build_root(root: Path, mounts: list[list[Any]]) -> None:
    """A root file system of the machine's programs, with the pod's volumes and nothing else of the machine."""
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        source = Path("/") / name
        if source.is_symlink():
            (root / name).symlink_to(os.readlink(source))
        elif source.is_dir():
            (root / name).mkdir()
            mount("--bind", str(source), str(root / name))
    for name in ("usr", ".usr-upper", ".usr-work", "etc", "dev", "proc", "tmp", "var", "run", "data", "root"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    layers = f"lowerdir=/usr,upperdir={root}/.usr-upper,workdir={root}/.usr-work"
    mount("-t", "overlay", "-o", layers, "overlay", str(root / "usr"))
    mount("--rbind", "/dev", str(root / "dev"))
    mount("--rbind", "/proc", str(root / "proc"))
    for name in ETC:
        source = Path("/etc") / name
        if source.is_file():
            (root / "etc" / name).write_bytes(source.read_bytes())
    for origin, target, read_only in mounts:
        place = root / target.lstrip("/")
        if Path(origin).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        mount("--bind", origin, str(place))
        if read_only:
            mount("-o", "remount,bind,ro", str(place))


def main() -> None:
    order = json.loads(sys.stdin.readline())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if order.get("root"):
        build_root(Path(order["root"]), order["mounts"])
        os.chroot(order["root"])
        os.chdir(order.get("directory") or "/")
    if order.get("group") is not None:
        os.setgroups([])
        os.setgid(order["group"])
    if order.get("user") is not None:
        os.setuid(order["user"])
    try:
        os.execvpe(order["argv"][0], order["argv"], order["env"])
    except OSError as error:
        sys.exit(f"exec {order['argv'][0]}: {error.strerror}")


if __name__ == "__main__":
    main()
