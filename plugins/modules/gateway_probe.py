#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_probe
short_description: Send requests to the gateway and judge the answers
version_added: 0.1.0
description:
  - Sends a list of requests, several at a time, and tells for each whether the answer is as expected.
  - Unlike M(ansible.builtin.uri) it repeats a request, keeps a connection or not, reads event streams to their end,
    and sends Host and path exactly as they are given.
  - Keys are read from files on the host, and are in no result.
author:
  - TokenLabs platform developers (@tokenlabs)
options:
  base_url:
    description: Where the gateway is, as C(http://HOST[:PORT]) or C(https://HOST[:PORT]).
    type: str
    required: true
  cases:
    description: What is to be proved.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What is proved, in a few words. No two cases may have the same name.
        type: str
        required: true
      method:
        description: The HTTP method. By default C(POST) with a body, else C(GET).
        type: str
      path:
        description: Path and query, sent as they are.
        type: str
        required: true
      headers:
        description: Headers beside the usual ones; C(Host) may be one of them.
        type: dict
      json:
        description: The body, as data.
        type: dict
      body_base64:
        description: The body, in Base64, for what is no text.
        type: str
      body:
        description: The body, as text.
        type: str
      key_file:
        description: A file on the host with the key to send.
        type: path
      scheme:
        description: The word before the key in the header C(Authorization).
        type: str
        default: Bearer
      repeat:
        description: How often to send the request.
        type: int
        default: 1
      parallel:
        description: How many of the repeated requests to send at a time.
        type: int
        default: 1
      until:
        description: Stop repeating at this status. The expected status is then that of the last answer only.
        type: int
      reuse:
        description: Send repeated requests over one connection, in turn.
        type: bool
        default: false
      stage:
        description: Cases of a lower stage are done before those of a higher one begin.
        type: int
        default: 0
      patience:
        description: Repeat the whole case for up to this many seconds until it is as expected. Default is O(patience).
        type: float
      timeout:
        description: Seconds for one answer, to its last byte. Default is O(timeout).
        type: float
      hint:
        description: Returned with the result; what to look at when it fails.
        type: str
        default: ""
      expect:
        description: What must hold for the answer; the last one, where a request is repeated.
        type: dict
        required: true
        suboptions:
          status:
            description: The statuses that are right, for every answer.
            type: list
            elements: int
          counts:
            description: How many answers must have which status, exactly.
            type: dict
          headers:
            description: Headers that must be there, each with a regular expression for its value.
            type: dict
          contains:
            description: Text that must be in the body.
            type: str
          json:
            description:
              - Values in the body by dotted path, such as C(choices.0.message.content) or C(data.*.id).
              - A list from C(*) is sorted.
              - An empty value means that anything will do. In a stream, only C(usage) can be asked for.
            type: dict
          positive:
            description: Dotted paths of numbers that must be greater than zero.
            type: list
            elements: str
          stream:
            description: Whether it must be an event stream that ends with C([DONE]).
            type: bool
            default: false
          tokens:
            description: How many tokens the successful answers must have used together.
            type: int
  concurrency:
    description: How many requests may be under way at a time.
    type: int
    default: 8
  timeout:
    description: Seconds for one answer, to its last byte.
    type: float
    default: 30
  patience:
    description: Repeat a case for up to this many seconds until it is as expected.
    type: float
    default: 0
  validate_certs:
    description: Whether the gateway's certificate must be valid.
    type: bool
    default: true
  ca_path:
    description: A file with certificates of authorities to trust.
    type: path
  certificate:
    description:
      - The certificate that the gateway must show, in PEM. Exactly this one is trusted then, whatever names are in it,
        so that keys go to nobody else.
    type: str
  fail:
    description: Whether the module fails when a case does. Else look at RV(failed_cases).
    type: bool
    default: true
extends_documentation_fragment:
  - tokenlabs.platform.attributes
attributes:
  check_mode:
    support: full
    details: Requests are sent in check mode too. They change nothing on the host, but count for the tenant.
  diff_mode:
    support: none
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Nobody gets in without a key
  tokenlabs.platform.gateway_probe:
    base_url: http://192.168.1.200
    cases:
      - name: chat without a key
        path: /v1/chat/completions
        json: {model: qwen, messages: [{role: user, content: Hello}]}
        expect: {status: [401]}
      - name: a stream, to its end and with usage
        path: /v1/chat/completions
        json: {model: qwen, stream: true, messages: [{role: user, content: Hello}]}
        key_file: /var/lib/tokenlabs/keys/acme.key
        expect: {status: [200], stream: true, positive: [usage.total_tokens]}
"""

RETURN = r"""
cases:
  description: For every case, in the order given, what came of it.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The case., type: str, returned: always}
    ok: {description: Whether all was as expected., type: bool, returned: always}
    expected: {description: What was expected., type: str, returned: always}
    got: {description: The status that came., type: str, returned: always}
    reason: {description: Why it is not as expected., type: str, returned: always}
    hint: {description: What to look at., type: str, returned: always}
    requests: {description: How many requests were sent., type: int, returned: always}
    tokens: {description: How many tokens the answers used., type: int, returned: always}
    seconds: {description: How long the answers took together., type: float, returned: always}
failed_cases:
  description: The names of the cases that failed.
  returned: always
  type: list
  elements: str
"""

import ssl
from collections import Counter

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tokenlabs.platform.plugins.module_utils import _probe

EXPECT = {
    "status": {"type": "list", "elements": "int"},
    "counts": {"type": "dict"},
    "headers": {"type": "dict"},
    "contains": {"type": "str"},
    "json": {"type": "dict"},
    "positive": {"type": "list", "elements": "str"},
    "stream": {"type": "bool", "default": False},
    "tokens": {"type": "int", "no_log": False},
}
# no_log: these are names of files, not keys.
CASE = {
    "name": {"type": "str", "required": True},
    "method": {"type": "str"},
    "path": {"type": "str", "required": True},
    "headers": {"type": "dict"},
    "json": {"type": "dict"},
    "body": {"type": "str"},
    "body_base64": {"type": "str"},
    "key_file": {"type": "path", "no_log": False},
    "scheme": {"type": "str", "default": "Bearer"},
    "repeat": {"type": "int", "default": 1},
    "parallel": {"type": "int", "default": 1},
    "until": {"type": "int"},
    "reuse": {"type": "bool", "default": False},
    "stage": {"type": "int", "default": 0},
    "patience": {"type": "float"},
    "timeout": {"type": "float"},
    "hint": {"type": "str", "default": ""},
    "expect": {"type": "dict", "required": True, "options": EXPECT},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "base_url": {"type": "str", "required": True},
            "cases": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": CASE,
                "mutually_exclusive": [("json", "body", "body_base64")],
            },
            "concurrency": {"type": "int", "default": 8},
            "timeout": {"type": "float", "default": 30},
            "patience": {"type": "float", "default": 0},
            "validate_certs": {"type": "bool", "default": True},
            "ca_path": {"type": "path"},
            "certificate": {"type": "str"},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    cases = [_probe.case_from(options, params["timeout"], params["patience"]) for options in params["cases"]]
    twice = [name for name, number in Counter(case.name for case in cases).items() if number > 1]
    if twice:
        module.fail_json(msg=f"cases must have different names: {', '.join(twice)}")

    keys = _probe.Keys()
    try:
        client = _probe.Client(params["base_url"], params["concurrency"], _context(params))
    except (_probe.ProbeError, OSError) as error:
        module.fail_json(msg=str(error))
    results = [_probe.report(verdict, keys.redact) for verdict in _probe.run(client, cases, keys.read)]
    failed = [result for result in results if not result["ok"]]
    names = [result["name"] for result in failed]
    if failed and params["fail"]:
        lines = [f"{result['name']}: expected {result['expected']}, {result['reason']}" for result in failed]
        module.fail_json(msg="\n".join(lines), cases=results, failed_cases=names)
    module.exit_json(changed=False, cases=results, failed_cases=names)


def _context(params: dict) -> ssl.SSLContext:
    if params["certificate"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        # The certificate itself, and not an authority above it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=_first(params["certificate"]))
        return context
    context = ssl.create_default_context(cafile=params["ca_path"])
    if not params["validate_certs"]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _first(pem: str) -> str:
    """The first certificate of a chain."""
    end = "-----END CERTIFICATE-----"
    return pem.partition(end)[0] + end


if __name__ == "__main__":
    main()
