# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's settings in the catalog, and certificates as files, good and bad."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.plugins.catalog.inventories import GOOD, load, write

MAIN = "group_vars/all/main.yml"
FILES = "tokenlabs_gateway: {tls: {certificate: tls/crt.pem, key: tls/key.pem}}\n"


def pair(directory: Path, name: str = "", first: int = -1, last: int = 30, password: bytes | None = None) -> None:
    """A certificate, valid from and to so many days from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=first))
        .not_valid_after(now + datetime.timedelta(days=last))
        .sign(key, hashes.SHA256())
    )
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}crt.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / f"{name}key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    )


def answer(directory: Path, text: str) -> dict[str, Any]:
    return load(write(directory, {MAIN: GOOD[MAIN] + text}))


def gateway(directory: Path, text: str) -> dict[str, Any]:
    told = answer(directory, text)
    assert not told.get("failed"), told.get("msg")
    return told["catalog"]["gateway"]


def test_without_settings_there_is_http_alone(tmp_path: Path) -> None:
    found = gateway(tmp_path, "")
    assert (found["http_port"], found["https_port"], found["tls"], found["cors"]) == (80, None, None, None)
    assert not found["redirect"] and "sectionName" not in found["parents"][0]


def test_a_redirection_keeps_the_routes_on_https(tmp_path: Path) -> None:
    found = gateway(tmp_path, "tokenlabs_gateway: {tls: {secret: mine}, http: redirect}\n")
    assert found["redirect"] and found["https_port"] == 443
    assert [parent["sectionName"] for parent in found["parents"]] == ["https"]


def test_files_are_beside_the_inventory(tmp_path: Path) -> None:
    pair(tmp_path / "tls")
    found = gateway(tmp_path, FILES)
    assert found["tls"] == {
        "secret": "token-labs-gateway-tls",
        "certificate": str(tmp_path / "tls/crt.pem"),
        "key": str(tmp_path / "tls/key.pem"),
    }


def test_a_redis_of_ones_own_is_spoken_to_by_tls(tmp_path: Path) -> None:
    told = answer(tmp_path, "tokenlabs_redis: {host: redis.example.com}\ntokenlabs_redis_password: k7Qm2ZxPw9LsR4tB\n")
    assert told["catalog"]["redis"] == {"own": False, "host": "redis.example.com", "port": 6379, "tls": True}
    assert "k7Qm2ZxPw9LsR4tB" not in str(told)


def bad(directory: Path, kind: str) -> None:
    tls = directory / "tls"
    pair(tls, last=-1 if kind == "expired" else 30, first=1 if kind == "early" else -2)
    if kind == "other key":
        pair(tls, "other-")
        (tls / "other-key.pem").rename(tls / "key.pem")
    elif kind == "locked":
        pair(tls, password=b"secret")
    elif kind == "no certificate":
        (tls / "crt.pem").write_text("hello\n")
    elif kind == "no key":
        (tls / "key.pem").write_text("hello\n")
    elif kind == "missing":
        (tls / "key.pem").unlink()


@pytest.mark.parametrize(
    ("kind", "what", "reason"),
    [
        ("expired", "certificate", "has expired; renew it"),
        ("early", "certificate", "is not valid yet"),
        ("other key", "key", "is not the key of the certificate"),
        ("locked", "key", "cannot be read without a password"),
        ("no certificate", "certificate", "holds no certificate in PEM"),
        ("no key", "key", "holds no private key in PEM"),
        ("missing", "key", "which cannot be read"),
    ],
)
def test_a_pair_that_cannot_serve_is_refused(tmp_path: Path, kind: str, what: str, reason: str) -> None:
    bad(tmp_path, kind)
    told = answer(tmp_path, FILES)
    assert told.get("failed")
    assert f"{MAIN}:2: tokenlabs_gateway.tls.{what} " in told["msg"] and reason in told["msg"]
    assert "PRIVATE" not in told["msg"]


def test_a_bad_certificate_is_told_with_all_other_mistakes(tmp_path: Path) -> None:
    bad(tmp_path, "expired")
    told = answer(tmp_path, FILES + "tokenlabs_limits_unavailable: perhaps\n")
    assert "has expired" in told["msg"] and "tokenlabs_limits_unavailable cannot be 'perhaps'" in told["msg"]
