# SPDX-License-Identifier: GPL-3.0-or-later
"""Self-signed certificates, as generators in charts and jobs make them."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def issue(common_name: str, days: int) -> dict[str, bytes]:
    """A server certificate with a CA of its own: ca.crt, tls.crt and tls.key in PEM."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name(f"{common_name}-ca")
    ca = _builder(ca_name, ca_name, ca_key, days).add_extension(x509.BasicConstraints(True, None), True)
    leaf = _builder(_name(common_name), ca_name, key, days).add_extension(
        x509.SubjectAlternativeName([_alternative(common_name)]), False
    )
    return {
        "ca.crt": _pem(ca.sign(ca_key, hashes.SHA256())),
        "tls.crt": _pem(leaf.sign(ca_key, hashes.SHA256())),
        "tls.key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
