# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and kubeconfigs of one lab; EC keys, made in milliseconds, thrown away with the lab."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=3650)  # as MicroK8s makes its CA
MASTERS = "system:masters"
# Names by which the audit log can tell the lab's own parts from whoever works on the cluster.
CLIENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("lab-operator", (MASTERS,)),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "kwok": ("lab-kwok", (MASTERS,)),
    "world": ("lab-world", (MASTERS,)),
    "gateway": ("lab-gateway", (MASTERS,)),
}
CLUSTER_CA = "cluster-ca.crt"
# Vouches for servers outside of the cluster: the one public authority that the images of this world know.
INTERNET_CA = "internet.crt"
SERVICE_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cert_pem(self) -> bytes:
        return self.cert.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return private_pem(self.key)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _subject(name: str, groups: Iterable[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


def make_ca(name: str) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name, ())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def issue(ca: Pair, name: str, groups: Iterable[str] = (), names: Iterable[str] = (), ips: Iterable[str] = ()) -> Pair:
    """A certificate for a server when it has names or addresses, for a client otherwise."""
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(each)) for each in ips]
    usage = ExtendedKeyUsageOID.SERVER_AUTH if alternatives else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_subject(name, groups), ca.cert.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return Pair(builder.sign(ca.key, hashes.SHA256()), key)


def kubeconfig(server: str, ca: Pair, user: str, pair: Pair) -> bytes:
    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "lab", "cluster": {"server": server, "certificate-authority-data": encoded(ca.cert_pem)}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": encoded(pair.cert_pem),
                    "client-key-data": encoded(pair.key_pem),
                },
            }
        ],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    }
    return json.dumps(config, indent=1).encode() + b"\n"


def write(directory: Path, server: str, ips: Iterable[str]) -> None:
    """Everything the control plane and its clients need, as files only root can read."""
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    ca = make_ca("10.152.183.1")  # MicroK8s names its CA after the API's service address
    internet = make_ca("the internet")
    accounts = ec.generate_private_key(ec.SECP256R1())
    serving = issue(ca, "127.0.0.1", names=SERVICE_NAMES, ips=["127.0.0.1", "10.152.183.1", *ips])
    public = accounts.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files = {
        "ca.crt": ca.cert_pem,
        "ca.key": ca.key_pem,
        INTERNET_CA: internet.cert_pem,
        "internet.key": internet.key_pem,
        "sa.key": private_pem(accounts),
        "sa.pub": public,
        "server.crt": serving.cert_pem,
        "server.key": serving.key_pem,
    }
    for client, (name, groups) in CLIENTS.items():
        pair = issue(ca, name, groups)
        files[f"{client}.kubeconfig"] = kubeconfig(server, ca, name, pair)
        if client == "admin":
            files["admin.crt"], files["admin.key"] = pair.cert_pem, pair.key_pem
    for name, data in files.items():
        write_private(directory / name, data)
    adopt(directory, ca.cert_pem, ca.key_pem)


def adopt(directory: Path, cert: bytes, key: bytes) -> None:
    """The hosts' cluster has this authority: what its API server shows them is signed by it, and it knows its clients.

    At first it is the lab's own. The lab's parts stay with theirs. The API server reads these files again by itself.
    """
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    authority = Pair(x509.load_pem_x509_certificate(cert), private)
    shown = x509.load_pem_x509_certificate((directory / "server.crt").read_bytes())
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ips = [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    pair = issue(authority, "127.0.0.1", names=names.get_values_for_type(x509.DNSName), ips=ips)
    own = (directory / "ca.crt").read_bytes()
    files = {
        "hosts.key": pair.key_pem,
        "hosts.crt": pair.cert_pem,
        "clients.crt": own if own == cert else own + cert,
        CLUSTER_CA: cert,
    }
    for name, data in files.items():
        new = directory / f".{name}.new"
        write_private(new, data)
        new.replace(directory / name)


def write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
