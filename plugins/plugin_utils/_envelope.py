# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Receives something that nobody on the way may read, not even Ansible's own logs. Private to the collection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ansible.errors import AnsibleActionFail

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import pkcs7
    from cryptography.x509.oid import NameOID

    LIBRARY = hasattr(pkcs7, "pkcs7_decrypt_der")
except ImportError:
    LIBRARY = False


class Envelope:
    """A key pair for one answer: the certificate goes out, the private key stays in this process."""

    def __init__(self) -> None:
        if not LIBRARY:
            raise AnsibleActionFail("the Python library cryptography (44 or newer) is missing where Ansible runs")
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fetch_keys")])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(self._private, hashes.SHA256())
        )

    @property
    def certificate(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def open(self, sealed: bytes) -> bytes:
        """What is in a CMS envelope for this certificate (DER)."""
        return pkcs7.pkcs7_decrypt_der(sealed, self._certificate, self._private, [])
