# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inventory is, and how a mistake in it is told. Pure. Private to the collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import Path, Report, path_text

# Says where a value was written: (host or None for platform-wide values, path) -> "host_vars/spark-01.yml:7".
Locate = Callable[["str | None", Path], str]


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: where, what is wrong, what would be right."""

    file: str
    path: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        subject = f"{self.path} " if self.path else ""
        return f"{self.file}: {subject}{self.reason}; {self.remedy}"


@dataclass(frozen=True)
class Host:
    """A host of the groups V(controllers) or V(sparks) with the variables that may differ from host to host."""

    name: str
    controller: bool
    spark: bool
    vars: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> Any:
        """The address of this host for the other hosts of the cluster."""
        return self.vars.get("tokenlabs_cluster_address") or self.vars.get("ansible_host") or self.name

    @property
    def served(self) -> list[Mapping[str, Any]]:
        """The models that this host serves, each once; of those that are no more, nothing."""
        models = self.vars.get("tokenlabs_models")
        found: dict[str, Mapping[str, Any]] = {}
        for model in models if isinstance(models, (list, tuple)) else ():
            if isinstance(model, Mapping) and isinstance(model.get("name"), str) and model.get("state") != "absent":
                found.setdefault(model["name"], model)
        return list(found.values())


@dataclass(frozen=True)
class TenantFile:
    """A file with tenants, and the line on which each of them begins."""

    name: str
    entries: Sequence[Any]
    lines: Sequence[int]


@dataclass(frozen=True)
class Inventory:
    """Everything of an inventory that concerns the platform."""

    hosts: tuple[Host, ...]
    # Platform-wide variables, read once.
    shared: Mapping[str, Any] = field(default_factory=dict)
    # Every variable tokenlabs_* that exists, with the first host that has it.
    names: Mapping[str, str] = field(default_factory=dict)
    # Platform-wide variables that some hosts define differently, with one such host.
    divided: Mapping[str, str] = field(default_factory=dict)
    tenant_files: tuple[TenantFile, ...] = ()
    # Names of files are relative to it.
    directory: str = ""
    # The folders of tokenlabs_image_builds: name -> (absolute path, what its content and settings add up to).
    contexts: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def controllers(self) -> list[Host]:
        return [host for host in self.hosts if host.controller]

    @property
    def sparks(self) -> list[Host]:
        return [host for host in self.hosts if host.spark]

    @property
    def existing(self) -> bool:
        """Whether somebody else runs the cluster: hosts are nodes of it by name, and none of them is touched."""
        return self.shared.get("tokenlabs_cluster") == "existing"


class Collector:
    """Gathers problems and finds out where each was written."""

    def __init__(self, locate: Locate) -> None:
        self.problems: list[Problem] = []
        self._locate = locate

    def at(self, host: str | None) -> Report:
        def report(path: Path, reason: str, remedy: str) -> None:
            self.problems.append(Problem(self._locate(host, path), path_text(path), reason, remedy))

        return report

    def in_file(self, file: TenantFile) -> Report:
        def report(path: Path, reason: str, remedy: str) -> None:
            line = f":{file.lines[path[0]]}" if path and isinstance(path[0], int) else ""
            self.problems.append(Problem(f"{file.name}{line}", path_text(path), reason, remedy))

        return report


def file_order(problem: Problem) -> tuple[str, int, str, str]:
    file, _separator, line = problem.file.rpartition(":")
    if not line.isdigit():
        file, line = problem.file, "0"
    return file, int(line), problem.path, problem.reason
