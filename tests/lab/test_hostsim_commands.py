# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands around a cluster: images and ctr, backups of the datastore, reset, and renewed certificates."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import pki as lab_pki
from lab.hostsim.snapsim import dbctl, images, pki, refresh_certs
from lab.world.authority import Authority
from lab.world.store import Store
from tests.lab.hostsim_harness import FakeApi, SimHost, api_server
from tests.lab.world_objects import obj

NET = f"127.80.{os.getpid() % 250 + 1}"


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SimHost, FakeApi]]:
    root = tmp_path_factory.mktemp("commands")
    with api_server(root / "var/lib/snapsim/seed", f"{NET}.5") as api:
        api.put("api/v1", "services", "default", "kubernetes")
        api.add_node("controller", f"{NET}.2")
        yield SimHost(root, {"hostname": "controller", "address": f"{NET}.2", "api": api.url}).install(), api


# -- images


def archive(**files: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


OCI = {"manifests": [{"annotations": {"io.containerd.image.name": "docker.io/library/b:2"}}, {}]}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (archive(manifest_json=[{"RepoTags": ["docker.io/library/a:1"]}]), ["docker.io/library/a:1"]),
        (archive(index_json=OCI), ["docker.io/library/b:2"]),
        (archive(other_json={}), []),
    ],
)
def test_names_of_an_archive(content: bytes, names: list[str]) -> None:
    assert images.names_in(content) == names


def test_imported_images_are_listed(controller: tuple[SimHost, FakeApi]) -> None:
    host, _api = controller
    path = host.root / "image.tar"
    path.write_bytes(archive(manifest_json=[{"RepoTags": ["docker.io/library/a:1"]}]))
    done = host.microk8s("images", "import", "image.tar")
    assert (done.returncode, done.stdout) == (0, f"Pushing OCI images to {NET}.2:25000\n"), done.stderr
    assert host.microk8s("ctr", "images", "ls", "-q").stdout == "docker.io/library/a:1\n"
    assert host.microk8s("images", "import", "nosuch.tar").returncode == 1
    assert host.microk8s("images").returncode == 2
    assert host.microk8s("ctr", "run", "x", "y").returncode == 1


# -- backups


class Client:
    """A cluster of namespaces and config maps."""

    def __init__(self, objects: dict[str, dict[str, Any]]) -> None:
        self.objects = objects
        self.writes: list[tuple[str, str]] = []

    def call(self, _method: str, path: str) -> dict[str, Any]:
        if path == "/apis":
            return {"groups": []}
        if path == "/api/v1":
            kinds = ("configmaps", "events", "namespaces")
            return {"resources": [{"name": name, "verbs": ["list", "create"]} for name in kinds]}
        plural = path.rpartition("/")[2]
        found = [each for where, each in self.objects.items() if where.split("/")[-2] == plural]
        return {"kind": {"configmaps": "ConfigMapList", "namespaces": "NamespaceList"}[plural], "items": found}

    def get(self, path: str) -> dict[str, Any] | None:
        return self.objects.get(path)

    def raw(self, method: str, path: str, body: dict[str, Any]) -> None:
        self.writes.append((method, path))


def test_a_backup_brings_back_what_is_missing_or_different() -> None:
    def config(value: str) -> dict[str, Any]:
        return {"metadata": {"name": "c", "namespace": "n", "resourceVersion": "1"}, "data": {"k": value}}

    space = {"/api/v1/namespaces/n": {"metadata": {"name": "n", "resourceVersion": "1"}, "spec": {}}}
    before = Client({**space, "/api/v1/namespaces/n/configmaps/c": config("old")})
    saved = dbctl.dump(before)  # type: ignore[arg-type]
    assert [each["kind"] for each in saved] == ["Namespace", "ConfigMap"], "spaces come first, events not at all"
    same, gone = Client(dict(before.objects)), Client({})
    other = Client({**space, "/api/v1/namespaces/n/configmaps/c": config("new")})
    for each in saved:
        for client in (same, gone, other):
            dbctl.put_back(client, each)  # type: ignore[arg-type]
    assert same.writes == []
    assert gone.writes == [("POST", "/api/v1/namespaces"), ("POST", "/api/v1/namespaces/n/configmaps")]
    assert other.writes == [("PUT", "/api/v1/namespaces/n/configmaps/c")]


def test_backup_needs_a_control_plane_that_runs(tmp_path: Path) -> None:
    host = SimHost(tmp_path, {"hostname": "a", "address": "127.0.0.1"}).install()
    host.host.lock("clustered.lock").touch()
    done = host.microk8s("dbctl", "backup")
    assert (done.returncode, done.stdout) == (
        10, "Please ensure the kubernetes apiserver is running and HA is enabled.\n")  # fmt: skip


# -- reset


def test_reset_is_for_single_nodes(controller: tuple[SimHost, FakeApi]) -> None:
    host, api = controller
    api.add_node("other", f"{NET}.3")
    done = host.microk8s("reset")
    api.objects.pop(("api/v1", "nodes", "", "other"))
    assert (done.returncode, "This is a multi-node MicroK8s deployment." in done.stdout) == (0, True)


# -- certificates


def test_server_certificate_is_renewed_and_taken_back(controller: tuple[SimHost, FakeApi]) -> None:
    host, _api = controller
    certs = host.data / "certs"
    before = (certs / "server.crt").read_text()
    assert "The server certificate will expire in 364 days." in host.microk8s("refresh-certs", "-c").stdout
    done = host.microk8s("refresh-certs", "--cert", "server.crt")
    assert done.stdout.endswith("Restarting service kubelite.\nRestarting service cluster-agent.\n")
    assert (certs / "server.crt").read_text() != before
    pki_ok = pki.fingerprint((certs / "server.crt").read_text())
    assert host.microk8s("add-node", "--format", "token-check").stdout.strip().endswith(pki_ok)
    assert host.microk8s("refresh-certs").returncode == 3
    assert host.microk8s("refresh-certs", "-e", "x.crt").returncode == 2
    assert host.microk8s("refresh-certs", "-c", "-u").returncode == 2


def test_a_renewed_authority_is_told_to_the_lab(
    controller: tuple[SimHost, FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, api = controller
    before = (host.data / "certs/ca.crt").read_text()
    monkeypatch.setattr(refresh_certs, "await_server", lambda *_: True)
    refresh_certs.new_authority(host.host)
    after = (host.data / "certs/ca.crt").read_text()
    assert after != before
    told = api.objects[("api/v1", "configmaps", "lab-system", "cluster-authority")]["data"]
    assert told["ca.crt"] == after == (host.root / "var/lib/snapsim/seed/ca.crt").read_text()


def test_hosts_see_a_server_of_the_new_authority_and_the_lab_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    lab_pki.write(folder, "https://10.77.255.254:6443", ["10.77.255.253"])
    kept = (folder / "server.crt").read_bytes()
    other = lab_pki.make_ca("10.152.183.1")
    data = {"ca.crt": other.cert_pem.decode(), "ca.key": other.key_pem.decode()}
    store = Store([obj("ConfigMap", "cluster-authority", "lab-system", data=data)])
    authority = Authority(folder)
    authority.sync(store)
    (tmp_path / "new.crt").write_bytes(other.cert_pem)
    check = ("verify", "-CAfile", str(tmp_path / "new.crt"), "-verify_ip", "10.77.255.253", str(folder / "hosts.crt"))
    pki._openssl(*check)
    assert (folder / "server.crt").read_bytes() == kept
    assert (folder / "clients.crt").read_bytes() == (folder / "ca.crt").read_bytes() + other.cert_pem
    stamp = (folder / "hosts.crt").stat().st_mtime_ns
    authority.sync(store)
    assert (folder / "hosts.crt").stat().st_mtime_ns == stamp
