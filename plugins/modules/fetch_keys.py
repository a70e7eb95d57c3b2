#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fetch_keys
short_description: Bring new keys to the operator
version_added: 0.2.0
author: TokenLabs platform developers (@tokenlabs)
description:
  - Fetches key files that M(tokenlabs.platform.tenants) has made to the machine that runs Ansible, thousands in two
    round trips.
  - On their way they are encrypted for this one run, so that they are in the clear in no result, log, debug output or
    temporary file.
  - Files that were fetched are not offered again by M(tokenlabs.platform.tenants). When the run is interrupted, they
    are, and are fetched once more.
extends_documentation_fragment:
  - tokenlabs.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Fetches what it is told to.
requirements:
  - cryptography >= 44 on the machine that runs Ansible
  - C(openssl) on the host with the key files
  - C(age) on the machine that runs Ansible, with O(recipient)
options:
  src:
    description:
      - The directory of the key files, C(key_dir) of M(tokenlabs.platform.tenants).
    type: path
    required: true
  names:
    description:
      - The files to fetch, without C(.key); the keys of C(key_files) of M(tokenlabs.platform.tenants). Without any,
        it is only found out whether files could be encrypted for O(recipient).
    type: list
    elements: str
    required: true
  dest:
    description:
      - The directory on the machine that runs Ansible, relative to where it was started. It is made with mode V(0700)
        if need be, and closed to others when it is there. Each file in it has mode V(0600).
    type: path
    required: true
  recipient:
    description:
      - For whom to encrypt the files, a recipient of C(age), which begins with C(age1) or C(ssh-). The files are
        C(NAME.key.age) then, and nothing is written in the clear.
    type: str
"""

EXAMPLES = r"""
- name: Reconcile the tenants
  tokenlabs.platform.tenants:
    key_dir: /var/lib/tokenlabs/keys
    tiers: [free, pro]
    tenants: "{{ tokenlabs_tenants }}"
  register: result

- name: Fetch the new keys
  tokenlabs.platform.fetch_keys:
    src: /var/lib/tokenlabs/keys
    names: "{{ result.key_files | list }}"
    dest: credentials
"""

RETURN = r"""
files:
  description: The files that were written, by name.
  type: dict
  returned: success
  sample: {acme: /home/ops/credentials/acme.key}
"""
