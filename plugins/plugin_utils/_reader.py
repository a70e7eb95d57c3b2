# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the platform's variables from Ansible, and finds the file and line where each was written. Private."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Host, Inventory, Problem, TenantFile
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import UNREADABLE, Path, path_text
from ansible_collections.tokenlabs.platform.plugins.module_utils._variables import HOST, SHARED
from ansible_collections.tokenlabs.platform.plugins.plugin_utils._context import digest
from ansible_collections.tokenlabs.platform.plugins.plugin_utils._tenant_files import read_tenants

try:
    from ansible._internal._datatag._tags import Origin
except ImportError:  # not an interface that Ansible promises to keep
    Origin = None

_CONNECTION = ("ansible_host", "ansible_port")
# Renders a text in the context of a host's variables.
Render = Callable[[str, Any], Any]


class Reader:
    """The variables of the hosts in the groups C(controllers) and C(sparks)."""

    def __init__(
        self,
        raw: Mapping[str, Mapping[str, Any]],
        groups: Mapping[str, Iterable[str]],
        render: Render,
        inventory_dir: str | None,
        sources: Iterable[str] = (),
        read_file: Callable[[str], str] = lambda path: pathlib.Path(path).read_text(encoding="utf-8"),
    ) -> None:
        self._raw = raw
        self._render = render
        self._controllers = list(dict.fromkeys(groups.get("controllers", ())))
        self._sparks = list(dict.fromkeys(groups.get("sparks", ())))
        self._all = set(groups.get("all", ())) | {*self._controllers, *self._sparks}
        self._directory = inventory_dir
        self._sources = [str(source) for source in sources]
        self._read_file = read_file
        self._owner: dict[str, str] = {}
        self.problems: list[Problem] = []

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys([*self._controllers, *self._sparks]))

    def read(self) -> Inventory:
        """Everything that could be read; what could not is in ``problems``."""
        shared, names, divided = self._shared()
        self._ownerless()
        return Inventory(
            hosts=tuple(self._host(name) for name in self.hosts),
            shared=shared,
            names=names,
            divided=divided,
            tenant_files=tuple(self._tenant_files(shared.get("tokenlabs_tenants_files"))),
            directory=self._directory or ".",
            contexts=dict(self._contexts(shared.get("tokenlabs_image_builds"))),
        )

    def _contexts(self, builds: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        """The folders that images are built from; what is no mapping of them is reported with the other variables."""
        for name, build in builds.items() if isinstance(builds, Mapping) else ():
            context = build.get("context") if isinstance(build, Mapping) else None
            if not isinstance(context, str):
                continue
            folder = pathlib.Path(self._directory or ".") / context
            path: Path = ("tokenlabs_image_builds", _step(name), "context")
            dockerfile = folder / str(build.get("dockerfile") or "Dockerfile")
            if not dockerfile.is_file():
                reason = f"has no {dockerfile.name}" if folder.is_dir() else f"names {context}, which is no folder"
                remedy = "name a folder with a Dockerfile, from the inventory's folder on"
                self.problems.append(Problem(self.locate(None, path), path_text(path), reason, remedy))
                continue
            settings = {key: build.get(key) for key in ("dockerfile", "args")}
            yield str(name), (str(folder.resolve()), digest(folder, settings))

    def _ownerless(self) -> None:
        """Files of hosts that are in no group: Ansible passes over them without a word, and so over their models."""
        folder = pathlib.Path(self._directory or ".") / "host_vars"
        for file in sorted(folder.iterdir()) if self._directory and folder.is_dir() else ():
            name = file.stem if file.suffix in (".yml", ".yaml", ".json") else file.name
            if not file.is_file() or file.name.startswith(".") or name in self._all:
                continue
            if "tokenlabs_" in self._read_file(str(file)):
                remedy = f"add {name} to the group sparks, or remove the file"
                self.problems.append(Problem(self._short(str(file)), "", f"{name} is no host of the inventory", remedy))

    def _tenant_files(self, names: Any) -> Iterator[TenantFile]:
        # What is no list of names is reported with the other variables.
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if not isinstance(name, str) or not name.strip():
                continue
            path = pathlib.Path(self._directory or ".") / name
            if path.is_file():
                file, problems = read_tenants(path, self._short(str(path)), self._read_file)
                self.problems += problems
                yield file
            else:
                place: Path = ("tokenlabs_tenants_files", index)
                reason, remedy = f"names {name}, which is no file", "create it beside the inventory or correct its name"
                self.problems.append(Problem(self.locate(None, place), path_text(place), reason, remedy))

    def _shared(self) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
        shared: dict[str, Any] = {}
        names: dict[str, str] = {}
        divided: dict[str, str] = {}
        first: dict[str, Any] = {}
        for host in self.hosts:
            for name, value in self._raw[host].items():
                if not name.startswith("tokenlabs_"):
                    continue
                names.setdefault(str(name), host)
                if name not in SHARED:
                    continue
                if name not in first:
                    first[name] = value
                    self._owner[name] = host
                elif value is not first[name] and _differ(value, first[name]):
                    divided.setdefault(name, host)
        for name, owner in self._owner.items():
            shared[name] = self._value(owner, (name,), first[name], shared=True)
            missing = [host for host in self.hosts if name not in self._raw[host]]
            if missing and name not in divided:
                divided[name] = owner
        return shared, names, divided

    def _host(self, name: str) -> Host:
        values = {
            key: self._value(name, (key,), self._raw[name][key])
            for key in (*HOST, *_CONNECTION)
            if self._raw[name].get(key) is not None
        }
        return Host(name, name in self._controllers, name in self._sparks, values)

    def _value(self, host: str, path: Path, value: Any, shared: bool = False) -> Any:
        """A value without templates, read leaf by leaf so that one bad leaf spoils nothing else."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            return {key: self._value(host, (*path, _step(key)), item, shared) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(host, (*path, index), item, shared) for index, item in enumerate(value)]
        if isinstance(value, str) and "{" not in value:
            return value
        try:
            return self._render(host, value)
        except (AnsibleError, RecursionError) as error:
            # Not the error's whole text: it could quote what is written around the place.
            file = self.locate(None if shared else host, path)
            self.problems.append(Problem(file, path_text(path), *_unreadable(error)))
            return UNREADABLE

    def locate(self, host: str | None, path: Path) -> str:
        """The file and line of a value, as near as Ansible remembers."""
        if path and host is None:
            host = self._owner.get(str(path[0]))
        if host is None or host not in self._raw:
            return self._inventory()
        if not path:
            return self._written(self._raw[host].get("inventory_hostname")) or self._inventory()
        origin = None
        value: Any = self._raw[host]
        for step in path:
            if isinstance(value, Mapping):
                key = next((known for known in value if _step(known) == step), None)
                if key is None:
                    break
                value = value[key]
                origin = self._written(key) or self._written(value) or origin
            elif isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value):
                value = value[step]
                origin = self._written(value) or origin
            else:
                break
        return origin or self._inventory()

    def _written(self, value: Any) -> str | None:
        origin = Origin.get_tag(value) if Origin is not None else None
        if origin is None or origin is Origin.UNKNOWN:
            return None
        if not origin.path:
            return str(origin.description).strip("<>")
        line = f":{origin.line_num}" if origin.line_num and origin.line_num > 0 else ""
        return self._short(origin.path) + line

    def _short(self, path: str) -> str:
        if self._directory:
            relative = os.path.relpath(path, self._directory)
            if not relative.startswith(".."):
                return relative
        relative = os.path.relpath(path)
        return path if relative.startswith("..") else relative

    def _inventory(self) -> str:
        if not self._sources:
            return "inventory"
        source = self._sources[0]
        return os.path.relpath(source) if os.path.exists(source) else source


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except AnsibleError:  # secrets that cannot be decrypted cannot be compared
        return True


def _step(key: Any) -> str | int:
    return key if isinstance(key, str) else str(key)


def _unreadable(error: BaseException) -> tuple[str, str]:
    """The reason and the remedy for a value that has no value."""
    text = str(error)
    undefined = re.search(r"'([A-Za-z_][A-Za-z0-9_]*)' is undefined", text)
    if isinstance(error, RecursionError) or "recursi" in text.lower():
        return "refers to itself", "break the circle"
    if undefined:
        return f"uses {undefined[1]}, which is not defined", f"define {undefined[1]} or correct its name"
    file = re.search(r"[Uu]nable to access the file '([^']+)'", text)
    if file:
        return f"reads the file {file[1]}, which does not exist", "create the file or correct its name"
    if "vault" in text.lower() or "decrypt" in text.lower():
        return "cannot be decrypted", "give the vault's password, for example with --ask-vault-pass"
    return "cannot be read", "correct the expression"
