# SPDX-License-Identifier: GPL-3.0-or-later
"""Real x509 with the openssl program: small elliptic-curve keys, one process a certificate."""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CA_DAYS, CERT_DAYS = 3650, 365


def _openssl(*args: str, stdin: bytes | None = None) -> bytes:
    done = subprocess.run(["openssl", *args], input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {args[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


@contextmanager
def _config(extensions: Sequence[str] = ()) -> Iterator[str]:
    """A configuration without the distribution's defaults, which would make every certificate a CA."""
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as out:
        out.write("[req]\ndistinguished_name = dn\nprompt = no\n[dn]\n[ext]\n" + "\n".join(extensions) + "\n")
        out.flush()
        yield out.name


def _key_options(key: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]


def make_ca(cert: Path, key: Path, name: str) -> None:
    extensions = [
        "basicConstraints = critical,CA:TRUE",
        "keyUsage = critical,digitalSignature,keyCertSign,cRLSign",
        "subjectKeyIdentifier = hash",
    ]
    with _config(extensions) as conf:
        _openssl(
            "req",
            "-x509",
            "-new",
            "-config",
            conf,
            "-extensions",
            "ext",
            "-subj",
            f"/CN={name}",
            "-days",
            str(CA_DAYS),
            *_key_options(key),
            "-out",
            str(cert),
        )
    key.chmod(0o660)


def san_line(names: Sequence[str]) -> str:
    kinds = [("IP" if n.replace(".", "").isdigit() or ":" in n else "DNS", n) for n in dict.fromkeys(names)]
    return "subjectAltName = " + ",".join(f"{kind}:{name}" for kind, name in kinds)


def issue(ca: tuple[Path, Path], cert: Path, key: Path, subject: str, names: Sequence[str] = (), days: int = 0) -> None:
    """A new key and its certificate, signed by a CA that lies on this host."""
    extensions = ["basicConstraints = CA:FALSE", "extendedKeyUsage = serverAuth,clientAuth"]
    with _config([*extensions, *([san_line(names)] if names else [])]) as conf:
        _openssl(
            "req",
            "-x509",
            "-new",
            "-config",
            conf,
            "-extensions",
            "ext",
            "-subj",
            subject,
            "-days",
            str(days or CA_DAYS),
            "-CA",
            str(ca[0]),
            "-CAkey",
            str(ca[1]),
            *_key_options(key),
            "-out",
            str(cert),
        )
    key.chmod(0o660)


def make_key(path: Path) -> None:
    path.write_bytes(_openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"))
    path.chmod(0o660)


def make_request(key: Path, subject: str, names: Sequence[str] = ()) -> str:
    with _config([san_line(names)] if names else []) as conf:
        extensions = ["-reqexts", "ext"] if names else []
        csr = _openssl("req", "-new", "-config", conf, *extensions, "-subj", subject, *_key_options(key))
    key.chmod(0o660)
    return csr.decode()


def sign(ca: tuple[Path, Path], request: str) -> str:
    with _config(["basicConstraints = CA:FALSE", "extendedKeyUsage = serverAuth,clientAuth"]) as conf:
        return _openssl(
            "x509",
            "-req",
            "-CA",
            str(ca[0]),
            "-CAkey",
            str(ca[1]),
            "-days",
            str(CA_DAYS),
            "-set_serial",
            "0x" + os.urandom(12).hex(),
            "-extfile",
            conf,
            "-extensions",
            "ext",
            "-copy_extensions",
            "copy",
            stdin=request.encode(),
        ).decode()


def days_left(cert: Path) -> int:
    text = _openssl("x509", "-noout", "-enddate", "-in", str(cert)).decode().strip().partition("=")[2]
    return int((ssl.cert_time_to_seconds(text) - time.time()) // 86400)


def subject(cert: Path) -> str:
    return _openssl("x509", "-noout", "-subject", "-in", str(cert)).decode().strip()


def fingerprint(pem: str) -> str:
    """The check part of a join token: the first twelve digits of the certificate's SHA-256."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()[:12]


def kubeconfig(server: str, ca: Path, cert: Path, key: Path, user: str) -> str:
    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    return f"""apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {data(ca)}
    server: {server}
  name: microk8s-cluster
contexts:
- context:
    cluster: microk8s-cluster
    user: {user}
  name: microk8s
current-context: microk8s
kind: Config
preferences: {{}}
users:
- name: {user}
  user:
    client-certificate-data: {data(cert)}
    client-key-data: {data(key)}
"""


def is_ancient(ca: Path) -> bool:
    """Very old installations named their authority after the loopback address."""
    return "127.0.0.1" in subject(ca)
