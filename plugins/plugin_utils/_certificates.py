# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a certificate and a key can be used together, found out by using them. Private to the collection."""

from __future__ import annotations

import ssl

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL (include/openssl/x509_vfy.h).
_TIMES = {9: "is not valid yet", 10: "has expired"}


def problem_of(certificate: str, key: str) -> tuple[str, str, str] | None:
    """What is wrong with a certificate and a key in two files: which of them, the reason and the remedy.

    Both are PEM; the certificate may have its chain behind it. A key that needs a password cannot be used.
    """
    try:
        with open(certificate, encoding="ascii") as stream:
            leaf = stream.read().partition("-----END CERTIFICATE-----")
        ssl.PEM_cert_to_DER_cert(leaf[0] + leaf[1])
    except (OSError, ValueError) as error:
        return "certificate", _unreadable(error, "no certificate in PEM"), "give the path of a PEM file, leaf first"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with open(key, encoding="ascii") as stream:
            if "PRIVATE KEY-----" not in stream.read():
                return "key", "holds no private key in PEM", "give the path of a PEM file"
        # Without a password here, OpenSSL would ask for one at the terminal.
        server.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return "key", "is not the key of the certificate", "give the two that belong together"
        return "key", "cannot be read without a password", "give it without one, in a vault-encrypted file"
    except (OSError, ValueError) as error:
        return "key", _unreadable(error, "no private key in PEM"), "give the path of a PEM file"
    reason = _refusal(server, leaf[0] + leaf[1])
    return ("certificate", reason, "renew it") if reason else None


def _unreadable(error: Exception, what: str) -> str:
    return f"cannot be read ({error.strerror})" if isinstance(error, OSError) and error.strerror else f"holds {what}"


def _refusal(server: ssl.SSLContext, leaf: str) -> str:
    """Why a client that trusts exactly this certificate would not take it today."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=leaf)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _turn in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return _TIMES.get(error.verify_code, f"is not accepted ({error.verify_message})")
            except ssl.SSLError as error:
                return f"cannot be used ({error.reason})"
    return ""
