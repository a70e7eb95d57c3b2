# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s dbctl`: the datastore's content as an archive; here it is written and read through the API."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import kube, options
from .console import finish, need_permission
from .host import Host

# What comes and goes by itself.
_PASSING = ("events", "leases", "pods", "endpoints", "endpointslices", "replicasets", "controllerrevisions")


def resources(client: kube.Kube) -> Iterator[tuple[str, str, str]]:
    """(base path, plural, API version) of every kind that can be listed and made, definitions and namespaces first."""
    groups = client.call("GET", "/apis")["groups"]
    versions = ["v1", *(g["preferredVersion"]["groupVersion"] for g in groups)]
    found = []
    for version in versions:
        base = f"/api/{version}" if version == "v1" else f"/apis/{version}"
        for kind in client.call("GET", base)["resources"]:
            if {"list", "create"} <= set(kind["verbs"]) and "/" not in kind["name"] and kind["name"] not in _PASSING:
                found.append((base, kind["name"], version))
    first = ("customresourcedefinitions", "namespaces")
    yield from sorted(found, key=lambda each: first.index(each[1]) if each[1] in first else len(first))


def dump(client: kube.Kube) -> list[dict[str, Any]]:
    objects = []
    for base, plural, version in resources(client):
        listed = client.call("GET", f"{base}/{plural}")
        for item in listed.get("items") or []:
            kind = listed["kind"].removesuffix("List")
            objects.append({"path": base, "plural": plural, "apiVersion": version, "kind": kind, **item})
    return objects


def put_back(client: kube.Kube, saved: dict[str, Any]) -> None:
    obj = {key: value for key, value in saved.items() if key not in ("path", "plural", "status")}
    meta = {k: v for k, v in obj["metadata"].items() if k not in ("uid", "resourceVersion", "managedFields")}
    where = f"/namespaces/{meta['namespace']}" if meta.get("namespace") else ""
    folder = f"{saved['path']}{where}/{saved['plural']}"
    live = client.get(f"{folder}/{meta['name']}")
    if live is None:
        client.raw("POST", folder, {**obj, "metadata": meta})
    elif live.get("spec") != obj.get("spec") or live.get("data") != obj.get("data"):
        body = {**obj, "metadata": {**meta, "resourceVersion": live["metadata"]["resourceVersion"]}}
        client.raw("PUT", f"{folder}/{meta['name']}", body)


def backup(host: Host, name: str) -> None:
    name = (name or f"backup-{time.strftime('%Y-%m-%d-%H-%M-%S')}").removesuffix(".tar.gz")
    content = json.dumps(dump(kube.admin(host))).encode()
    with tarfile.open(f"{name}.tar.gz", "w:gz") as tar:
        about = tarfile.TarInfo(f"{Path(name).name}/objects.json")
        about.size = len(content)
        tar.addfile(about, io.BytesIO(content))
    Path(f"{name}.tar.gz").chmod(0o644)
    finish(0, out=f"The backup is: {name}.tar.gz")


def restore(host: Host, name: str) -> None:
    client = kube.admin(host)
    with tarfile.open(name, "r:gz") as tar:
        found = tar.extractfile(next(m for m in tar.getnames() if m.endswith("/objects.json")))
        assert found is not None
        for saved in json.loads(found.read()):
            put_back(client, saved)
    finish(0)


def run(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    if host.is_worker or host.is_stopped or not host.locked("ha-cluster") or not host.api_url:
        finish(10, out="Please ensure the kubernetes apiserver is running and HA is enabled.")
    found = options.parse("microk8s dbctl", "[-h] [--debug] {restore,backup} ...", argv, {"-o": "output"}, ["--debug"])
    verb = found.arguments[0] if found.arguments else ""
    if verb == "restore" and len(found.arguments) == 2:
        print(f"Restoring from {found.arguments[1]}", flush=True)
        restore(host, found.arguments[1])
    if verb == "backup":
        print("Backing up the datastore", flush=True)
        backup(host, found.options.get("output", ""))
    finish(2 if verb else 0, out="usage: microk8s dbctl [-h] [--debug] {restore,backup} ...")
