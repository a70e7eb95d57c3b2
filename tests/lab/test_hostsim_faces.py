# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults by which a host looks like another machine, put on and taken off again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.hostsim.snapsim import faces
from tests.lab.hostsim_harness import SimHost

TREE = Path(faces.__file__).resolve().parents[1] / "tree"
FILES = ("etc/os-release", "etc/dgx-release", "usr/bin/nvidia-smi", "usr/lib/snapsim/face", "var/lib/snapsim/gpu.json")


@pytest.fixture
def spark(tmp_path: Path) -> SimHost:
    """A host with the files of a Spark's face."""
    for name in FILES:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((TREE / "spark" / name).read_bytes())
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1 kB\nMemFree: 1 kB\nMemAvailable: 1 kB\nBuffers: 7 kB\n")
    return SimHost(tmp_path, {"hostname": "spark", "address": "127.0.0.1", "arch": "aarch64"})


def faulty(host: SimHost, **wanted: Any) -> None:
    host.fault(**wanted)
    faces.apply(host.host)


def state(host: SimHost) -> dict[str, str]:
    return {n: (host.root / n).read_text() for n in FILES if (host.root / n).exists()}


@pytest.mark.parametrize(
    ("fault", "path", "has", "lacks"),
    [
        ({"os_release": "ubuntu-22.04"}, "etc/os-release", 'VERSION_ID="22.04"', "24.04"),
        ({"os_release": "debian-12"}, "etc/os-release", "ID=debian", "ubuntu"),
        ({"dgx_release": "7.2.3,7.3.1,7.4.0"}, "etc/dgx-release", 'DGX_OTA_VERSION="7.4.0"', "7.2.4"),
        ({"dgx_release": "none"}, "etc/dgx-release", None, ""),
        ({"gpu_driver_missing": True}, "usr/bin/nvidia-smi", None, ""),
        ({"machine": "x86_64", "clock_offset": -90}, "etc/lab-face", "machine=x86_64\nclock=-90\n", "kernel"),
        ({"memory": "8Gi"}, "proc/meminfo", f"MemTotal: {8 * 1024**2:>14} kB\n", "MemTotal: 1 kB"),
    ],
)
def test_a_face_is_put_on_and_taken_off(
    spark: SimHost, fault: dict[str, Any], path: str, has: str | None, lacks: str
) -> None:
    before = state(spark)
    faulty(spark, **fault)
    faces.apply(spark.host)  # as at every other change of faults, and at boot
    place = spark.root / path
    if has is None:
        assert not place.exists()
    else:
        assert has in place.read_text()
        assert lacks not in place.read_text()
    faulty(spark)
    assert state(spark) == before
    assert not (spark.root / "etc/lab-face").exists()


def test_driver_and_node_follow(spark: SimHost) -> None:
    faulty(spark, gpu_driver="550.54.14", machine="x86_64", kernel="6.8.0-31-generic")
    query = ("--query-gpu=driver_version", "--format=csv,noheader")
    assert spark.run("nvidia-smi", *query).stdout == "550.54.14\n"
    assert (spark.host.arch, spark.host.kernel) == ("amd64", "6.8.0-31-generic")


def test_little_memory_guards_against_a_control_plane(spark: SimHost) -> None:
    faulty(spark, memory="400Mi")
    spark.install()
    assert "low-memory-guard.lock" in spark.locks()
    done = spark.microk8s("join", f"127.0.0.9:25000/{'0' * 32}")
    assert (done.returncode, "does not have enough RAM" in done.stdout) == (1, True)


@pytest.mark.parametrize("size", ["8", "8GB", "Gi", ""])
def test_sizes_have_a_unit(size: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        faces.kibibytes(size)


def test_python_sees_the_face(tmp_path: Path) -> None:
    """The module that every Python of a host loads first, with the host's files."""
    text = (TREE / "common/etc/python3.11/sitecustomize.py").read_text()
    (tmp_path / "face").write_text("machine=aarch64\ncores=20\n")
    (tmp_path / "fault").write_text("machine=x86\nclock=1000\n")
    text = text.replace("/usr/lib/snapsim/face", str(tmp_path / "face"))
    (tmp_path / "face.py").write_text(text.replace("/etc/lab-face", str(tmp_path / "fault")))
    code = "import face, json, os, platform, time; d = time.time() - time.clock_gettime(time.CLOCK_REALTIME); " \
           "print(json.dumps([platform.machine(), os.cpu_count(), round(d)]))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout) == ["x86", 20, 1000]
