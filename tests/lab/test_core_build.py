# SPDX-License-Identifier: GPL-3.0-or-later
"""What is built once: names in the cache, progress, archives."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import tarfile
import time
from pathlib import Path

import pytest

from lab import build, cache
from lab.paths import REPO, LabError


def pinned(tool: build.Tool) -> str:
    return (tool.module / "go.mod").read_text()


@pytest.mark.parametrize("tool", build.TOOLSET, ids=lambda tool: tool.name)
def test_the_version_is_the_one_in_go_mod(tool: build.Tool) -> None:
    modules = {"kubernetes": "k8s.io/kubernetes", "kwok": "sigs.k8s.io/kwok", "helm": "helm.sh/helm/v3"}
    modules |= {"etcd": "go.etcd.io/etcd/server/v3", "helmfile": "github.com/helmfile/helmfile"}
    modules |= {"helm-diff": "github.com/databus23/helm-diff/v3", "prometheus": "github.com/prometheus/prometheus"}
    assert f"{modules[tool.name]} {tool.version}" in pinned(tool)


def test_every_module_of_the_tree_is_built() -> None:
    assert {path.parent.name for path in build.TOOLS.glob("*/go.mod")} == {tool.name for tool in build.TOOLSET}


def test_a_changed_pin_changes_the_name_of_that_tool_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in build.TOOLSET:
        (tmp_path / tool.name).mkdir()
        for name in ("go.mod", "go.sum"):
            (tmp_path / tool.name / name).write_bytes((tool.module / name).read_bytes())
    monkeypatch.setattr(build, "TOOLS", tmp_path)
    before = {tool.name: tool.key("amd64") for tool in build.TOOLSET}
    whole = build.set_key("amd64")
    (tmp_path / "etcd" / "go.sum").write_text("something else\n")
    after = {tool.name: tool.key("amd64") for tool in build.TOOLSET}
    assert {name for name in before if before[name] != after[name]} == {"etcd"}
    assert build.set_key("amd64") != whole
    assert build.TOOLSET[0].key("arm64") != build.TOOLSET[0].key("amd64")


def test_time_left_follows_the_speed_that_was_seen() -> None:
    said: list[str] = []
    progress = build.Progress(said.append, {"etcd": 20, "helm": 60, "helmfile": 240}, started=100.0)
    assert progress.left(100.0) == 320
    progress.begin("etcd", "etcd v3")
    progress.finish("etcd")
    assert progress.left(140.0) == 600  # twice as slow as assumed: 40 s for 20
    assert said == ["[1/3] etcd v3 (about 5 min left for all)"]


@pytest.mark.parametrize(("seconds", "said"), [(0, "5 s"), (42, "40 s"), (89, "90 s"), (110, "2 min"), (720, "12 min")])
def test_durations_read_well(seconds: float, said: str) -> None:
    assert build.clock(seconds) == said


def test_release_archives_look_like_the_projects_own(tmp_path: Path) -> None:
    for name in ("helm", "helm-diff", "helmfile"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name}\n")
    found = build.release_archives(tmp_path, "amd64")
    for component, (place, members) in found.items():
        build.pack(tmp_path / component, members)
        with tarfile.open(tmp_path / component) as archive:
            modes = {member.name: member.mode for member in archive}
        found[component] = (place, modes)  # type: ignore[assignment]
    assert found == {
        "helm": ("get.helm.sh/helm-v3.19.5-linux-amd64.tar.gz", {"linux-amd64/helm": 0o755}),
        "helmfile": (
            "github.com/helmfile/helmfile/releases/download/v1.8.0/helmfile_1.8.0_linux_amd64.tar.gz",
            {"helmfile": 0o755},
        ),
        "helm_diff": (
            "github.com/databus23/helm-diff/releases/download/v3.9.14/helm-diff-linux-amd64.tgz",
            {"diff/plugin.yaml": 0o644, "diff/bin/diff": 0o755},
        ),
    }


def test_the_same_contents_make_the_same_archive(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build.pack(tmp_path / name, {"a": b"x" * 10_000, "b": b"y"})
        time.sleep(0.01)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_go_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKENLABS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="no Go here"):
        build.find_go()


def test_a_failed_build_leaves_nothing_that_looks_finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKENLABS_CACHE", str(tmp_path))
    (tmp_path / "go/bin").mkdir(parents=True)
    go = tmp_path / "go/bin/go"
    go.write_text("#!/bin/sh\n[ $1 = version ] && echo go version go9 && exit\necho no such module >&2\nexit 1\n")
    go.chmod(0o755)
    with pytest.raises(LabError, match="building kubernetes failed: no such module"):
        build.ensure(lambda _text: None)
    assert build.missing("amd64") == list(build.TOOLSET)


def test_checksums_are_those_of_the_served_files() -> None:
    downloads = build.ToolSet(build.tools_dir().parent).downloads
    if not downloads.is_dir():
        pytest.skip("the lab's tools are not built here; lab/ctl build makes them")
    sums = json.loads((downloads / "checksums.json").read_text())
    arch = build.machine_arch()
    for component, (place, _members) in build.release_archives(build.tools_dir(), arch).items():
        assert sums[component][arch] == hashlib.sha256((downloads / place).read_bytes()).hexdigest()


def make_slowly(target: Path, log: Path) -> None:
    with cache.locked(target):
        if not target.is_dir():

            def make(partial: Path) -> None:
                with open(log, "a") as stream:
                    stream.write(f"{os.getpid()}\n")
                partial.mkdir()
                time.sleep(0.3)

            cache.publish(target, make)


def test_two_that_want_the_same_thing_make_it_once(tmp_path: Path) -> None:
    target, log = tmp_path / "thing", tmp_path / "log"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=make_slowly, args=(target, log)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert target.is_dir()
    assert len(log.read_text().splitlines()) == 1


def test_an_interrupted_make_is_started_over(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    (tmp_path / ".thing.partial").mkdir()
    (tmp_path / ".thing.partial" / "half").touch()
    with cache.locked(target):
        cache.publish(target, lambda partial: partial.mkdir())
    assert list(target.iterdir()) == []


def test_no_registry_is_named_in_the_lab() -> None:
    names = ["py" + "pi.org", "proxy." + "golang.org", "deb." + "debian.org", "archive." + "ubuntu.com"]
    for path in [*(REPO / "lab").glob("*.py"), REPO / "scripts/setup.sh"]:
        assert not [name for name in names if name in path.read_text()], path
