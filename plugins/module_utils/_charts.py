# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Charts: where they are published, and as files on the host, each held against its checksum where there is one.

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._helmfile import HelmfileError, explain

# Runs helm with these arguments.
Run = Callable[[list[str]], tuple[int, str, str]]

# Seconds before a source that did not deliver is asked again.
PAUSE = 5

# How modules take a chart, as the catalog tells it.
OPTIONS: dict[str, Any] = {
    "ref": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "repo_url": {"type": "str"},
    "plain_http": {"type": "bool", "default": False},
    "sha256": {"type": "str"},
}


@dataclass(frozen=True)
class Chart:
    """Its address in an OCI registry, or its name in a classic repository."""

    ref: str
    version: str
    repository: str | None = None
    plain_http: bool = False
    sha256: str | None = None

    @property
    def name(self) -> str:
        return self.ref.rstrip("/").rpartition("/")[2]

    @property
    def file(self) -> str:
        """Its name on disk: another source is another file."""
        source = hashlib.sha256(f"{self.repository or ''} {self.ref}".encode()).hexdigest()[:8]
        return f"{self.name}-{self.version}-{source}.tgz"

    def pull(self, directory: str) -> list[str]:
        more = ["--repo", self.repository] if self.repository else []
        more += ["--plain-http"] if self.plain_http else []
        return ["pull", self.ref, "--version", self.version, "--destination", directory, *more]


def chart(told: Mapping[str, Any]) -> Chart:
    """A chart of a module's parameters."""
    return Chart(told["ref"], told["version"], told["repo_url"], told["plain_http"], told["sha256"])


def default_directory(environment: Mapping[str, str]) -> str:
    home = environment.get("HELM_CACHE_HOME") or os.path.join(environment.get("HOME", "/root"), ".cache", "helm")
    return os.path.join(home, "charts")


@dataclass(frozen=True)
class Store:
    """Charts that were fetched once; ``keep`` is false in check mode, where they go with ``scratch``."""

    run: Run
    directory: str
    scratch: str
    attempts: int = 3
    keep: bool = True

    def path(self, chart: Chart) -> str:
        """The chart as a file, which is fetched when it is not here; HelmfileError when it cannot be had."""
        kept = os.path.join(self.directory, chart.file)
        if os.path.exists(kept) and _matches(kept, chart.sha256):
            return kept
        fresh = self._pull(chart)
        if not _matches(fresh, chart.sha256):
            raise HelmfileError(
                f"{chart.name} {chart.version} from {chart.repository or chart.ref} is not the chart that was "
                f"asked for: its SHA-256 is {_sha256(fresh)}, not {chart.sha256}; if it is right, say so in "
                "tokenlabs_checksums"
            )
        directory = self.directory if self.keep else self.scratch
        os.makedirs(directory, mode=0o755, exist_ok=True)
        target = os.path.join(directory, chart.file)
        shutil.copyfile(fresh, target + ".new")
        os.replace(target + ".new", target)
        return target

    def _pull(self, chart: Chart) -> str:
        folder = os.path.join(self.scratch, "pulled")
        attempts = max(1, self.attempts)
        for attempt in range(1, attempts + 1):
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder)
            rc, out, err = self.run(chart.pull(folder))
            files = os.listdir(folder)
            if rc == 0 and len(files) == 1:
                return os.path.join(folder, files[0])
            if attempt < attempts:
                time.sleep(PAUSE)
        error = explain(out, err)
        source = chart.repository or chart.ref.rpartition("/")[0]
        raise HelmfileError(f"{chart.name} {chart.version} from {source}, asked {attempts} times: {error}")


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _matches(path: str, sha256: str | None) -> bool:
    return not sha256 or _sha256(path) == sha256
