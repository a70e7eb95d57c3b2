# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s images` and `microk8s ctr`: the names of imported images are kept, their layers are not."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from typing import Any

from . import cluster, kube, tree, wire
from .console import finish, need_permission, usage
from .host import AGENT_PORT, Host, read_json, write_file


def names_in(archive: bytes) -> list[str]:
    """The tags of a docker or OCI archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for name, pick in (("manifest.json", _docker_tags), ("index.json", _oci_names)):
            try:
                found = tar.extractfile(name)
            except KeyError:
                continue
            return pick(json.loads(found.read())) if found else []
    return []


def _docker_tags(manifest: list[dict[str, Any]]) -> list[str]:
    return [tag for image in manifest for tag in image.get("RepoTags") or []]


def _oci_names(index: dict[str, Any]) -> list[str]:
    notes = [each.get("annotations") or {} for each in index.get("manifests") or []]
    return [n["io.containerd.image.name"] for n in notes if n.get("io.containerd.image.name")]


def known(host: Host) -> list[str]:
    return list(read_json(host.common / "images.json", []))


def remember(host: Host, archive: bytes) -> list[str]:
    found = names_in(archive)
    write_file(host.common / "images.json", json.dumps(sorted({*known(host), *found})) + "\n")
    return found


def run(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    if not argv or argv[0] != "import":
        usage("microk8s images", "[OPTIONS] COMMAND [ARGS]...", "Missing command." if not argv else "No such command.")
    path = argv[1] if len(argv) > 1 else "-"
    try:
        archive = sys.stdin.buffer.read() if path == "-" else host.path(path).read_bytes()
    except OSError as error:
        finish(1, err=f"Error: failed to read {path}: {error}")
    others = _other_nodes(host)
    print(f"Pushing OCI images to {host.address}:{AGENT_PORT}", flush=True)
    remember(host, archive)
    for address in others:
        print(f"Pushing OCI images to {address}:{AGENT_PORT}", flush=True)
        headers = {"x-microk8s-callback-token": tree.callback_token(host)}
        there = wire.Connection(address, AGENT_PORT, wire.context())
        answer = there.request("POST", "/cluster/api/v2.0/image/import", archive, headers)
        if answer.status != 200:
            finish(1, err=f"Error: {address} did not import the images ({answer.status})")
    finish(0)


def _other_nodes(host: Host) -> list[str]:
    if not host.api_url:
        return []
    nodes = kube.admin(host).call("GET", "/api/v1/nodes").get("items") or []
    return [cluster.address_of(n) for n in nodes if n["metadata"]["name"] != host.node_name]


def ctr(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    words = [a for a in argv if not a.startswith("-")]
    if words[:1] == ["version"]:
        version = read_json(host.runtime_file, {}).get("version", "")
        finish(0, out=f"Client:\n  Version:  v{version}\n\nServer:\n  Version:  v{version}")
    if words[:1] in (["image"], ["images"], ["i"]) and words[1:2] in (["ls"], ["list"]):
        if "-q" in argv or "--quiet" in argv:
            finish(0, out="\n".join(known(host)))
        rows = "".join(f"\n{name} application/vnd.oci.image.index.v1+json - - - -" for name in known(host))
        finish(0, out=f"REF TYPE DIGEST SIZE PLATFORMS LABELS{rows}")
    if words[:1] in (["container"], ["containers"], ["c"], ["task"], ["tasks"]):
        finish(0, out="CONTAINER    IMAGE    RUNTIME")
    finish(1, err=f"ctr: '{' '.join(argv)}' is not simulated here: no container runs on a simulated host")
