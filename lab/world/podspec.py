# SPDX-License-Identifier: GPL-3.0-or-later
"""From a pod's words to a program: arguments, environment, files and probes, as a kubelet reads them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab.world.store import Json

Lookup = Callable[[str, str, str], Json | None]  # kind, namespace, name
_VARIABLE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


class Missing(Exception):
    """Something that a container refers to is not there."""


def expand(text: str, env: dict[str, str]) -> str:
    """`$(NAME)` as Kubernetes replaces it in arguments: unknown names stay as they are."""

    def value(match: re.Match[str]) -> str:
        return "$" if match.group(0) == "$$" else env.get(match.group(1), match.group(0))

    return _VARIABLE.sub(value, text)


def decoded(obj: Json) -> dict[str, bytes]:
    """The files of a Secret or ConfigMap."""
    if obj["kind"] == "Secret":
        return {name: base64.b64decode(value) for name, value in (obj.get("data") or {}).items()}
    found = {name: value.encode() for name, value in (obj.get("data") or {}).items()}
    return found | {name: base64.b64decode(value) for name, value in (obj.get("binaryData") or {}).items()}


def environment(container: Json, pod: Json, address: str, lookup: Lookup) -> dict[str, str]:
    """The container's environment; later entries see earlier ones."""
    space = pod["metadata"]["namespace"]
    env: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        for name, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if ref := source.get(name):
                found = lookup(kind, space, ref["name"])
                if not found and not ref.get("optional"):
                    raise Missing(f'{kind.lower()} "{ref["name"]}" not found')
                for key, data in (decoded(found) if found else {}).items():
                    env[source.get("prefix", "") + key] = data.decode(errors="replace")
    for item in container.get("env") or []:
        if "value" in item:
            env[item["name"]] = expand(item["value"], env)
        elif (value := _value_from(item.get("valueFrom") or {}, pod, address, lookup)) is not None:
            env[item["name"]] = value
    return env


def _value_from(source: Json, pod: Json, address: str, lookup: Lookup) -> str | None:
    space = pod["metadata"]["namespace"]
    for name, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if ref := source.get(name):
            found = lookup(kind, space, ref["name"])
            data = decoded(found) if found else {}
            if ref["key"] in data:
                return data[ref["key"]].decode(errors="replace")
            if ref.get("optional"):
                return None
            raise Missing(f"couldn't find key {ref['key']} in {kind} {space}/{ref['name']}")
    path = (source.get("fieldRef") or {}).get("fieldPath", "")
    known = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": space,
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        "status.podIP": address,
    }
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return (pod["metadata"].get(match[1]) or {}).get(match[2], "")
    return known.get(path, "" if path else "0")


def command(container: Json, env: dict[str, str], entrypoint: list[str]) -> list[str]:
    """What is executed: the container's command, else the image's, and the arguments."""
    given = [expand(word, env) for word in container.get("command") or []]
    args = [expand(word, env) for word in container.get("args") or []]
    return [*(given or entrypoint), *args]


def option(words: list[str], *names: str) -> str | None:
    """The value of a command line option, as `--name value` or `--name=value`."""
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else next(iter(words[number + 1 :]), None)
    return None


@dataclass(frozen=True)
class Mount:
    source: Path
    target: str
    read_only: bool


@dataclass
class Volumes:
    """Directories for a pod's volumes: claims keep theirs, the rest lives as long as the pod."""

    claims: Path
    own: Path
    lookup: Lookup
    group: int | None = None
    made: dict[str, Path] = field(default_factory=dict)

    def mounts(self, container: Json, pod: Json) -> list[Mount]:
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
        found = []
        for mount in container.get("volumeMounts") or []:
            volume = volumes.get(mount["name"])
            if volume is None or mount["name"].startswith("kube-api-access-"):
                continue
            source = self._directory(volume, pod)
            if mount.get("subPath"):
                source = source / mount["subPath"]
            found.append(Mount(source, mount["mountPath"], bool(mount.get("readOnly"))))
        return found

    def _directory(self, volume: Json, pod: Json) -> Path:
        if volume["name"] not in self.made:
            self.made[volume["name"]] = self._make(volume, pod)
        return self.made[volume["name"]]

    def _make(self, volume: Json, pod: Json) -> Path:
        space = pod["metadata"]["namespace"]
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            bound = self.lookup("PersistentVolumeClaim", space, claim)
            name = ((bound or {}).get("spec") or {}).get("volumeName")
            if not name:
                raise Missing(f'persistentvolumeclaim "{claim}" is not bound')
            return _open(self.claims / name)
        place = _open(self.own / volume["name"])
        for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
            for key, kind, name_field in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
                if ref := source.get(key):
                    self._write(place, kind, ref, ref.get(name_field) or ref.get("name"), space)
        return place

    def _write(self, place: Path, kind: str, ref: Json, name: str, space: str) -> None:
        found = self.lookup(kind, space, name)
        if not found:
            if ref.get("optional"):
                return
            raise Missing(f'{kind.lower()} "{name}" not found')
        data = decoded(found)
        items = {item["key"]: item for item in ref.get("items") or []} or {key: {"path": key} for key in data}
        for key, item in items.items():
            target = place / item["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data[key])
            # Whatever user the container runs as must be able to read it, as with fsGroup.
            target.chmod(item.get("mode") or ref.get("defaultMode") or 0o644)
            if self.group is not None:
                target.chmod(target.stat().st_mode | 0o040)


def _open(directory: Path) -> Path:
    """A directory that any user may write to, as MicroK8s' hostpath provisioner and emptyDir make them."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    return directory
