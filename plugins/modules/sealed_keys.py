#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sealed_keys
short_description: Hand out key files, encrypted
description:
  - The part of M(tokenlabs.platform.fetch_keys) that runs where the key files are. Use that instead.
version_added: 0.2.0
author:
  - TokenLabs platform developers (@tokenlabs)
extends_documentation_fragment:
  - tokenlabs.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
requirements:
  - openssl
options:
  src:
    description:
      - The directory of the key files.
    type: path
    required: true
  names:
    description:
      - The files to hand out, without C(.key).
    type: list
    elements: str
    default: []
  certificate:
    description:
      - For whom to encrypt them, a certificate in PEM.
    type: str
  fetched:
    description:
      - Files that have arrived, by name, with the first eight digits of the SHA-256 of what is in them. They are not
        offered again.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Fetch the new keys
  tokenlabs.platform.fetch_keys:
    src: /var/lib/tokenlabs/keys
    names: [acme]
    dest: /home/ops/credentials
"""

RETURN = r"""
sealed:
  description: The files by name, as JSON in a CMS envelope, in base64.
  type: str
  returned: when O(certificate) is given
missing:
  description: Those of O(names) that there are no files of.
  type: list
  elements: str
  returned: when O(certificate) is given
"""

import base64
import json
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import KeyFileError, KeyFiles


def seal(module: AnsibleModule, text: str) -> str:
    """Nobody but the owner of the certificate can read the answer."""
    with tempfile.NamedTemporaryFile("w", dir=module.tmpdir) as certificate:
        certificate.write(module.params["certificate"])
        certificate.flush()
        command = ["openssl", "cms", "-encrypt", "-binary", "-aes-256-cbc", "-outform", "DER", certificate.name]
        _code, envelope, _error = module.run_command(
            command, data=text.encode(), binary_data=True, encoding=None, check_rc=True, environ_update={"LANG": "C"}
        )
    return base64.b64encode(envelope).decode()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "certificate": {"type": "str"},
            "fetched": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    files = KeyFiles(module.params["src"])
    answer = {}
    try:
        if module.params["certificate"]:
            there = files.stems() if files.check() else set()
            keys = {name: files.read(name) for name in module.params["names"] if name in there}
            found = {name: key for name, key in keys.items() if key}
            answer["missing"] = sorted(set(module.params["names"]) - set(found))
            answer["sealed"] = seal(module, json.dumps(found))
        elif not module.check_mode:
            files.fetched(module.params["fetched"])
    except (KeyFileError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
