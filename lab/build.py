# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's programs, built once from pinned Go modules (``lab/tools``) into the cache.

Each tool has a directory of its own in the cache, named after everything that goes into it, so a build that was
interrupted goes on where it stopped and a changed pin rebuilds one tool only. A *set* (hard links) brings together
what a lab needs: programs, KWOK's own stage files, and archives that look like the projects' release files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lab.cache import locked, publish
from lab.paths import REPO, LabError, cache_root, digest

TOOLS = REPO / "lab" / "tools"
GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
SET_LAYOUT = "1"  # raise it when a set is laid out differently
Say = Callable[[str], None]


@dataclass(frozen=True)
class Tool:
    """One Go module of ``lab/tools`` and what is built in it."""

    name: str
    version: str
    packages: dict[str, str]
    seconds: int  # on two cores with nothing cached; only ever used as a share of the whole
    variables: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def module(self) -> Path:
        return TOOLS / self.name

    @property
    def flags(self) -> list[str]:
        settings = [f"-X {name}={value}" for name, value in self.variables.items()]
        tags = [f"-tags={','.join(self.tags)}"] if self.tags else []
        return ["-trimpath", "-mod=readonly", "-ldflags", " ".join(["-s -w", *settings]), *tags]

    def key(self, arch: str) -> str:
        pins = [path.read_bytes() for path in sorted(self.module.iterdir()) if path.is_file()]
        return digest(arch, "static", " ".join(self.flags), json.dumps(self.packages, sort_keys=True), *pins)


def _kubernetes_versions(prefixes: Iterable[str]) -> dict[str, str]:
    """Helm judges charts' ``kubeVersion`` by these when it has no server to ask."""
    return {
        f"{prefix}.{name}": value
        for prefix in prefixes
        for name, value in (("k8sVersionMajor", "1"), ("k8sVersionMinor", "34"))
    }


TOOLSET = (
    Tool(
        "kubernetes",
        "v1.34.4",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        },
        300,
        {
            "k8s.io/component-base/version.gitVersion": "v1.34.4",
            "k8s.io/component-base/version.gitMajor": "1",
            "k8s.io/component-base/version.gitMinor": "34",
            "k8s.io/client-go/pkg/version.gitVersion": "v1.34.4",
            "k8s.io/client-go/pkg/version.gitMajor": "1",
            "k8s.io/client-go/pkg/version.gitMinor": "34",
        },
    ),
    Tool("etcd", "v3.6.8", {"etcd": "go.etcd.io/etcd/server/v3"}, 18),
    Tool("kwok", "v0.8.0", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, 90),
    Tool(
        "helm",
        "v3.19.5",
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        70,
        {
            "helm.sh/helm/v3/internal/version.version": "v3.19.5",
            **_kubernetes_versions(("helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules")),
        },
    ),
    Tool(
        "helm-diff",
        "v3.9.14",
        {"helm-diff": "github.com/databus23/helm-diff/v3"},
        75,
        {
            "github.com/databus23/helm-diff/v3/cmd.Version": "3.9.14",
            **_kubernetes_versions(("helm.sh/helm/v3/pkg/chartutil",)),
        },
    ),
    Tool(
        "helmfile",
        "v1.8.0",
        {"helmfile": "github.com/helmfile/helmfile"},
        300,
        {"go.szostok.io/version.version": "v1.8.0"},
    ),
    # Prometheus 3.14.0, for the tests of alerts and of usage; without the discovery of clouds, which is most of it.
    Tool(
        "prometheus",
        "v0.314.0",
        {name: f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")},
        110,
        {"github.com/prometheus/common/version.Version": "3.14.0"},
        ("remove_all_sd",),
    ),
)

# The plugin as its release archive carries it: without install hooks, for there is nothing to download.
DIFF_PLUGIN = {
    "name": "diff",
    "version": "3.9.14",
    "usage": "Preview helm upgrade changes as a diff",
    "description": "Shows what an upgrade would change",
    "useTunnel": True,
    "command": "$HELM_PLUGIN_DIR/bin/diff",
}


@dataclass(frozen=True)
class ToolSet:
    """Where a lab finds what was built for it."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def stages(self) -> Path:
        """KWOK's own stage files: ``pod/*.yaml``, ``volume/*.yaml``."""
        return self.root / "stages"

    @property
    def downloads(self) -> Path:
        """``HOST/PATH`` of release files, and ``checksums.json``."""
        return self.root / "downloads"


def machine_arch() -> str:
    machine = platform.machine()
    if machine not in GO_ARCH:
        raise LabError(f"the lab's programs can be built for x86_64 and aarch64, not for {machine}")
    return GO_ARCH[machine]


def clock(seconds: float) -> str:
    """A duration as one would say it."""
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)} s"
    return f"{round(seconds / 60)} min"


@dataclass
class Progress:
    """Time left, from the shares of the tools that are still to be built and the speed seen so far."""

    say: Say
    todo: dict[str, int]
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        self.total = sum(self.todo.values())

    def left(self, now: float) -> float:
        remaining = self.total - self.done
        if not self.done:
            return remaining
        return remaining * (now - self.started) / self.done

    def begin(self, name: str, what: str) -> None:
        position = list(self.todo).index(name) + 1
        left = clock(self.left(time.monotonic()))
        self.say(f"[{position}/{len(self.todo)}] {what} (about {left} left for all)")

    def finish(self, name: str) -> None:
        self.done += self.todo[name]


def tool_path(tool: Tool, arch: str) -> Path:
    return cache_root() / "tools" / f"{tool.name}-{tool.key(arch)}"


def missing(arch: str) -> list[Tool]:
    return [tool for tool in TOOLSET if not tool_path(tool, arch).is_dir()]


def ensure(say: Say) -> ToolSet:
    """The set for this tree's pins, with everything that is missing built first."""
    arch = machine_arch()
    todo = missing(arch)
    if todo:
        go = find_go()
        say(f"building {len(todo)} of {len(TOOLSET)} tools with {go_version(go)}; this happens once")
        progress = Progress(say, {tool.name: tool.seconds for tool in todo})
        for tool in todo:
            progress.begin(tool.name, f"{tool.name} {tool.version}: {', '.join(tool.packages)}")
            target = tool_path(tool, arch)
            with locked(target, say):
                if not target.is_dir():
                    publish(target, lambda partial, tool=tool: _build(go, tool, partial))  # type: ignore[misc]
            progress.finish(tool.name)
    root = tools_dir().parent
    with locked(root, say):
        if not root.is_dir():
            say("packing the release archives that the lab's mirror serves")
            publish(root, lambda partial: _assemble(partial, arch))
    return ToolSet(root)


def set_key(arch: str) -> str:
    return digest(*(tool.key(arch) for tool in TOOLSET), json.dumps(DIFF_PLUGIN), SET_LAYOUT)


def tools_dir() -> Path:
    """Where the programs of this tree's pins are, once they are built."""
    return cache_root() / "tools" / f"set-{set_key(machine_arch())}" / "bin"


def find_go() -> str:
    """The Go that ``scripts/setup.sh`` chose, or the machine's own."""
    chosen = cache_root() / "go" / "bin" / "go"
    go = str(chosen) if chosen.exists() else shutil.which("go")
    if not go:
        raise LabError("the lab's programs must be built and there is no Go here; scripts/setup.sh installs one")
    return go


def go_environment() -> dict[str, str]:
    """Static programs, which run on the hosts wherever they were built; and a Go that may fetch a newer one."""
    env = {key: value for key, value in os.environ.items() if key not in ("GOFLAGS", "GOARCH", "GOOS", "GOWORK")}
    return {"GOTOOLCHAIN": "auto", **env, "CGO_ENABLED": "0"}


def go_version(go: str) -> str:
    done = subprocess.run([go, "version"], capture_output=True, text=True, env=go_environment())
    return " ".join(done.stdout.split()[2:3]) or "go"


def _run_go(go: str, tool: Tool, *arguments: str) -> str:
    command = [go, *arguments]
    done = subprocess.run(command, cwd=tool.module, env=go_environment(), capture_output=True, text=True)
    if done.returncode:
        tail = " / ".join(line.strip() for line in done.stderr.strip().splitlines()[-3:])
        raise LabError(f"building {tool.name} failed: {tail}")
    return done.stdout


def _build(go: str, tool: Tool, partial: Path) -> None:
    (partial / "bin").mkdir(parents=True)
    for binary, package in tool.packages.items():
        _run_go(go, tool, "build", *tool.flags, "-o", str(partial / "bin" / binary), package)
    if tool.name == "kwok":
        source = Path(_run_go(go, tool, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok").strip())
        for kind in ("pod", "volume"):
            _copy_stages(source / "kustomize" / "stage" / kind / "fast", partial / "stages" / kind)


def _copy_stages(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            (target / path.name).write_bytes(path.read_bytes())


def _assemble(partial: Path, arch: str) -> None:
    (partial / "bin").mkdir(parents=True)
    for tool in TOOLSET:
        built = tool_path(tool, arch)
        for binary in sorted((built / "bin").iterdir()):
            _link(binary, partial / "bin" / binary.name)
        if (built / "stages").is_dir():
            shutil.copytree(built / "stages", partial / "stages")
    downloads = partial / "downloads"
    sums = {}
    for component, (place, members) in release_archives(partial / "bin", arch).items():
        path = downloads / place
        path.parent.mkdir(parents=True, exist_ok=True)
        pack(path, members)
        sums[component] = {arch: hashlib.sha256(path.read_bytes()).hexdigest()}
    (downloads / "checksums.json").write_text(json.dumps(sums, indent=1, sort_keys=True) + "\n")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def release_archives(programs: Path, arch: str) -> dict[str, tuple[str, dict[str, Path | bytes]]]:
    """Release files by component: where the project publishes them (HOST/PATH), and what is inside."""
    helm, diff, helmfile = ({tool.name: tool for tool in TOOLSET}[name] for name in ("helm", "helm-diff", "helmfile"))
    bare = helmfile.version.removeprefix("v")
    plugin = json.dumps(DIFF_PLUGIN, indent=1).encode() + b"\n"
    return {
        "helm": (
            f"get.helm.sh/helm-{helm.version}-linux-{arch}.tar.gz",
            {f"linux-{arch}/helm": programs / "helm"},
        ),
        "helmfile": (
            f"github.com/helmfile/helmfile/releases/download/{helmfile.version}/helmfile_{bare}_linux_{arch}.tar.gz",
            {"helmfile": programs / "helmfile"},
        ),
        "helm_diff": (
            f"github.com/databus23/helm-diff/releases/download/{diff.version}/helm-diff-linux-{arch}.tgz",
            {"diff/plugin.yaml": plugin, "diff/bin/diff": programs / "helm-diff"},
        ),
    }


def pack(path: Path, members: dict[str, Path | bytes]) -> None:
    """A .tar.gz whose bytes depend on its contents only."""
    with (
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, content in members.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644 if isinstance(content, bytes) else 0o755
            archive.addfile(info, io.BytesIO(data))
