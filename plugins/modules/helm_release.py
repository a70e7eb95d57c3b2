#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: helm_release
short_description: Install a chart, and keep what it has made
description:
  - Installs or upgrades one helm release when its chart, its version or its values are other than wanted, when its last
    change failed, or when objects of it are gone or were changed by hand.
  - To find that out takes a few reads of the API. helm and the source of the chart are only asked when there is
    something to do, and nothing is written otherwise.
  - Charts are kept on the host, and held against a checksum where there is one. A source that does not answer is asked
    a few times.
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - tokenlabs.platform.attributes
  - tokenlabs.platform.attributes.kubernetes
requirements:
  - helm >= 3.18
  - helm-diff
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows why the release is changed, and what helm-diff makes of it. Secrets are not shown.
  idempotent:
    support: full
options:
  name:
    description:
      - The name of the release.
    type: str
    required: true
  namespace:
    description:
      - Its namespace, which is made when it is missing.
    type: str
    required: true
  chart:
    description:
      - The chart.
    type: dict
    required: true
    suboptions:
      ref:
        description:
          - Its address in an OCI registry, or its name in O(chart.repo_url).
        type: str
        required: true
      version:
        description:
          - Its version.
        type: str
        required: true
      repo_url:
        description:
          - The classic repository that it is in.
        type: str
      plain_http:
        description:
          - Whether the registry speaks HTTP without TLS.
        type: bool
        default: false
      sha256:
        description:
          - The checksum of its archive.
        type: str
  values:
    description:
      - Values, beside the chart's own.
    type: dict
    default: {}
  skip_crds:
    description:
      - Leave out the definitions in the chart's folder C(crds).
    type: bool
    default: false
  certificate:
    description:
      - A Secret with a certificate that the chart makes once and keeps for ever. It is deleted before its end, so that
        the chart makes another one.
    type: dict
    suboptions:
      secret:
        description:
          - The name of the Secret, in O(namespace).
        type: str
        required: true
      days:
        description:
          - How many days before its end.
        type: int
        default: 30
  directory:
    description:
      - Where charts are kept. By default that is the folder C(charts) in E(HELM_CACHE_HOME), or in C(~/.cache/helm).
    type: path
  attempts:
    description:
      - How often a source that does not deliver the chart is asked.
    type: int
    default: 3
  timeout:
    description:
      - Seconds that helm waits for hooks of the chart.
    type: int
    default: 300
  helm_path:
    description:
      - The program helm. By default it is looked for in E(PATH).
    type: path
seealso:
  - module: tokenlabs.platform.helmfile
  - module: tokenlabs.platform.wait_ready
"""

EXAMPLES = r"""
- name: Install Envoy Gateway
  tokenlabs.platform.helm_release:
    name: eg
    namespace: envoy-gateway-system
    chart:
      ref: oci://docker.io/envoyproxy/gateway-helm
      version: v1.7.5
    skip_crds: true
    values:
      config: {envoyGateway: {extensionApis: {enableBackend: true}}}
"""

RETURN = r"""
reasons:
  description: Why the release was changed, or would be.
  returned: success
  type: list
  elements: str
  sample: ["chart gateway-helm v1.6.7 -> gateway-helm v1.7.5"]
"""

import json
import os
import shutil
import tempfile
from datetime import UTC, datetime
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils import _charts
from ansible_collections.tokenlabs.platform.plugins.module_utils import _helm_release as releases
from ansible_collections.tokenlabs.platform.plugins.module_utils._drift import drift
from ansible_collections.tokenlabs.platform.plugins.module_utils._helmfile import HelmfileError, explain, plain_diff
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import Kube, KubeError, connect, kube_module

try:
    import yaml
except ImportError:
    yaml = None


class Helm:
    """The program, with the environment that it needs; what it downloads and is told stays in files of its own."""

    def __init__(self, module: Any):
        self._module = module
        self._local = module._module
        found = module.params["helm_path"] or shutil.which("helm")
        if not found or not os.access(found, os.X_OK):
            module.fail_json(msg="helm is not installed; the role kube_tools installs it")
        self._command = [found]
        if module.params["context"]:
            self._command += ["--kube-context", module.params["context"]]
        # A chart that looks into the cluster must find it in a diff too.
        self._environment = {"HELM_DIFF_USE_UPGRADE_DRY_RUN": "true", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
        kubeconfig = module.params["kubeconfig"] or os.environ.get("K8S_AUTH_KUBECONFIG")
        if kubeconfig:
            self._environment["KUBECONFIG"] = str(kubeconfig)
        self.scratch = tempfile.mkdtemp(prefix="helm-", dir=self._local.tmpdir)
        self._local.add_cleanup_file(self.scratch)
        directory = module.params["directory"] or _charts.default_directory(os.environ)
        self._charts = _charts.Store(
            self.run, directory, self.scratch, module.params["attempts"], not module.check_mode
        )

    def run(self, command: list[str]) -> tuple[int, str, str]:
        return self._local.run_command([*self._command, *command], environ_update=self._environment)

    def must(self, command: list[str]) -> None:
        rc, out, err = self.run(command)
        if rc:
            raise explain(out, err)

    def chart(self, wanted: releases.Wanted) -> str:
        return self._charts.path(wanted.chart)

    def values(self, wanted: releases.Wanted) -> str:
        path = os.path.join(self.scratch, "values.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(wanted.values, file)
        return path


def expiring(kube: Kube, module: Any) -> tuple[dict[str, Any] | None, str]:
    """The Secret whose certificate has to be renewed, and why."""
    told = module.params["certificate"]
    if not told:
        return None, ""
    secret = kube.get(f"/api/v1/namespaces/{module.params['namespace']}/secrets/{told['secret']}")
    if secret is None:
        return None, ""
    pem = releases.base64.b64decode((secret.get("data") or {}).get("tls.crt") or "").decode("utf-8", "replace")
    why = releases.ends_soon(pem, told["days"], datetime.now(UTC))
    return (secret, f"Secret {told['secret']}: {why}") if why else (None, "")


def converge(module: Any, helm: Helm, kube: Kube, wanted: releases.Wanted) -> dict[str, Any]:
    record = releases.newest(kube, wanted.namespace, wanted.name)
    reasons = releases.differences(record, wanted)
    old, why = expiring(kube, module)
    if why:
        reasons.append(why)
    suspicion = False
    if record is not None and not reasons:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        found = drift(kube, wanted.namespace, (body for body in yaml.load_all(record.manifest, Loader=loader) if body))
        reasons = releases.told(found)
        # Other values may be the server's or a controller's way to write the same ones: helm-diff knows better.
        suspicion = bool(found) and not found.missing
    if not reasons:
        return {"changed": False, "reasons": []}

    text = ""
    if suspicion or (module._diff and record is not None):
        rc, out, err = helm.run(wanted.diff(helm.chart(wanted), helm.values(wanted)))
        if rc not in (0, 2):
            raise explain(out, err)
        text = plain_diff(out)
        if suspicion and rc == 0:
            return {"changed": False, "reasons": []}
    if not module.check_mode:
        chart, values = helm.chart(wanted), helm.values(wanted)
        if old is not None:
            path = f"/api/v1/namespaces/{wanted.namespace}/secrets/{old['metadata']['name']}"
            kube.delete(path, uid=old["metadata"]["uid"])
        helm.must(wanted.upgrade(chart, values))
    result: dict[str, Any] = {"changed": True, "reasons": reasons}
    if module._diff:
        lines = [f"release {wanted.namespace}/{wanted.name}: {reason}" for reason in reasons]
        result["diff"] = {"prepared": "\n".join([*lines, text]).strip() + "\n"}
    return result


def main() -> None:
    module = kube_module(
        argument_spec={
            "name": {"type": "str", "required": True},
            "namespace": {"type": "str", "required": True},
            "chart": {
                "type": "dict",
                "required": True,
                "options": _charts.OPTIONS,
            },
            "values": {"type": "dict", "default": {}},
            "skip_crds": {"type": "bool", "default": False},
            "certificate": {
                "type": "dict",
                "options": {
                    # A name.
                    "secret": {"type": "str", "required": True, "no_log": False},
                    "days": {"type": "int", "default": 30},
                },
            },
            "directory": {"type": "path"},
            "attempts": {"type": "int", "default": 3},
            "timeout": {"type": "int", "default": 300},
            "helm_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    wanted = releases.Wanted(
        params["name"],
        params["namespace"],
        _charts.chart(params["chart"]),
        params["values"],
        params["skip_crds"],
        params["timeout"],
    )
    try:
        module.exit_json(**converge(module, Helm(module), connect(module), wanted))
    except KubeError as error:
        module.fail_json(msg=str(error), reasons=[])
    except HelmfileError as error:
        module.fail_json(msg=f"release {wanted.namespace}/{wanted.name}: {error}", reasons=[])


if __name__ == "__main__":
    main()
