# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's certificates, as openssl sees them."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from pathlib import Path

import pytest

from lab import pki


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki") / "pki"
    pki.write(directory, "https://10.77.255.254:6443", ["10.77.255.254", "10.77.0.10"])
    return directory


def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["127.0.0.1", "10.152.183.1", "10.77.255.254", "10.77.0.10"])
def test_the_server_certificate_holds_for_each_address(files: Path, name: str) -> None:
    done = openssl("verify", "-CAfile", f"{files}/ca.crt", "-verify_ip", name, f"{files}/server.crt")
    assert done.returncode == 0, done.stderr


def test_it_does_not_hold_for_another_address(files: Path) -> None:
    assert openssl("verify", "-CAfile", f"{files}/ca.crt", "-verify_ip", "10.77.0.99", f"{files}/server.crt").returncode


def test_a_client_certificate_is_not_a_servers(files: Path) -> None:
    assert (
        openssl("verify", "-CAfile", f"{files}/ca.crt", "-purpose", "sslclient", f"{files}/admin.crt").returncode == 0
    )
    assert openssl("verify", "-CAfile", f"{files}/ca.crt", "-purpose", "sslserver", f"{files}/admin.crt").returncode


def test_every_client_has_a_name_of_its_own(files: Path) -> None:
    names = set()
    for client, (name, groups) in pki.CLIENTS.items():
        config = json.loads((files / f"{client}.kubeconfig").read_text())
        user = config["users"][0]["user"]
        certificate = base64.b64decode(user["client-certificate-data"]).decode()
        shown = subprocess.run(
            ["openssl", "x509", "-noout", "-subject", "-nameopt", "multiline"],
            input=certificate,
            capture_output=True,
            text=True,
        ).stdout
        assert f"commonName                = {name}\n" in shown
        assert all(group in shown for group in groups)
        names.add(name)
    assert len(names) == len(pki.CLIENTS)


def test_only_root_reads_them(files: Path) -> None:
    assert stat.S_IMODE(files.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.iterdir()} == {0o600}
