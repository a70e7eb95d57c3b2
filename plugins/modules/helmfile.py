#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: helmfile
short_description: Install, update and remove Helm releases with helmfile
version_added: 0.1.0
description:
  - Makes the cluster have exactly the releases that a helmfile describes, and reports a change when a release changed.
  - Objects of a release that were changed by hand or deleted are put right again. As long as there are none, nothing
    is written to the cluster, not even a dry run.
  - In check mode it runs C(helmfile diff), which also works while releases are not installed yet.
  - It does not wait for workloads unless the helmfile says so; use M(tokenlabs.platform.wait_ready) for that.
author:
  - TokenLabs platform developers (@tokenlabs)
options:
  state:
    description: Whether the releases shall be there.
    type: str
    choices: [present, absent]
    default: present
  file:
    description: A helmfile that is on the host already. Exactly one of O(file) and O(definition) is needed.
    type: path
  definition:
    description:
      - The content of C(helmfile.yaml). It is written to O(directory) first, in check mode to a temporary one.
    type: dict
  values:
    description:
      - Values of releases by name, written to C(values/NAME.yaml) beside the helmfile, for O(definition) to name.
      - They must not hold secrets. Let them name a Secret instead.
    type: dict
    default: {}
  directory:
    description:
      - Where O(definition) and O(values) are kept on the host. It is made when missing.
      - Other files in its C(values) are removed. Writing them counts as a change, even where no release changes.
    type: path
  charts:
    description:
      - Charts that releases of O(definition) name. They are fetched once, kept on the host, and held against a checksum
        where there is one; helmfile is then given the files. A source that does not answer is asked three times.
      - What a release names that is not here is left to helmfile.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What releases call it, as their C(chart).
        type: str
        required: true
      ref:
        description: Its address in an OCI registry, or its name in O(charts[].repo_url).
        type: str
        required: true
      version:
        description: Its version.
        type: str
        required: true
      repo_url:
        description: The classic repository that it is in.
        type: str
      plain_http:
        description: Whether the registry speaks HTTP without TLS.
        type: bool
        default: false
      sha256:
        description: The checksum of its archive.
        type: str
  prune_label:
    description:
      - A Helm release label as C(key=value). Releases that carry it but are not in the file are uninstalled.
      - helmfile gives a release its labels in helm when C(helmDefaults.syncReleaseLabels) is true.
    type: str
  binary_path:
    description: The helmfile program; by default it is looked for in C(PATH).
    type: path
  helm_path:
    description: The helm program; by default it is looked for in C(PATH).
    type: path
  environment_vars:
    description: Environment variables for helmfile and helm, such as E(HELM_PLUGINS). Not for secrets.
    type: dict
    default: {}
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - tokenlabs.platform.attributes
  - tokenlabs.platform.attributes.kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - helm and helmfile log in with O(kubeconfig), which must be a path here, and O(context).
    The other login options only serve to read events.
"""

EXAMPLES = r"""
- name: Install what the helmfile describes
  tokenlabs.platform.helmfile:
    file: /srv/releases/helmfile.yaml
    kubeconfig: /root/.kube/config

- name: Install releases from variables, and remove those that left them
  tokenlabs.platform.helmfile:
    directory: /var/lib/tokenlabs/helmfile
    definition:
      helmDefaults: {syncReleaseLabels: true}
      commonLabels: {tokenlabs-managed: llm-d}
      releases:
        - name: ms-qwen
          namespace: token-labs
          chart: modelservice
          values: [values/ms-qwen.yaml]
    charts:
      - name: modelservice
        ref: oci://registry.example/llm-d-modelservice
        version: v0.4.11
    values:
      ms-qwen: {fullnameOverride: ms-qwen}
    prune_label: tokenlabs-managed=llm-d
"""

RETURN = r"""
updated:
  description: Releases that were installed or upgraded, or would be, as namespace/name.
  returned: success
  type: list
  elements: str
  sample: [token-labs/ms-qwen]
removed:
  description: Releases that were uninstalled, or would be.
  returned: success
  type: list
  elements: str
failed_releases:
  description: Releases that are known to have failed.
  returned: failure
  type: list
  elements: str
events:
  description: The last warnings about the failed releases' objects.
  returned: failure
  type: list
  elements: str
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils import _charts, _helmfile
from ansible_collections.tokenlabs.platform.plugins.module_utils._drift import drift
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import (
    Kube,
    KubeError,
    connect,
    kube_module,
)

try:
    import yaml
except ImportError:
    yaml = None

QUIET = {"NO_COLOR": "1", "HELMFILE_UPGRADE_NOTICE_DISABLED": "true", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def write(root: str, texts: dict[str, str]) -> bool:
    """Bring the directory to these texts; true when that took a change."""
    os.makedirs(os.path.join(root, "values"), mode=0o755, exist_ok=True)
    changed = False
    for relative, text in texts.items():
        path = os.path.join(root, relative)
        try:
            with open(path, encoding="utf-8") as old:
                if old.read() == text:
                    continue
        except FileNotFoundError:
            pass
        with open(path + ".new", "w", encoding="utf-8") as new:
            new.write(text)
        os.replace(path + ".new", path)
        changed = True
    for name in os.listdir(os.path.join(root, "values")):
        if f"values/{name}" not in texts:
            os.unlink(os.path.join(root, "values", name))
            changed = True
    return changed


def local_charts(module: Any, definition: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """The definition with files in place of the charts that are known by name."""
    known = {each["name"]: _charts.chart(each) for each in module.params["charts"]}
    named = sorted({each["chart"] for each in definition.get("releases") or []} & set(known))
    if not named:
        return definition
    helm, local = program(module, "helm_path", "helm"), module._module
    scratch = tempfile.mkdtemp(prefix="charts-", dir=local.tmpdir)
    local.add_cleanup_file(scratch)
    store = _charts.Store(
        lambda command: local.run_command([helm, *command], environ_update=environment),
        _charts.default_directory({**os.environ, **environment}),
        scratch,
        keep=not module.check_mode,
    )
    files = {name: store.path(known[name]) for name in named}
    releases = [{**each, "chart": files.get(each["chart"], each["chart"])} for each in definition["releases"]]
    return {**definition, "releases": releases}


def program(module: Any, option: str, name: str) -> str:
    wanted = module.params[option]
    found = wanted if wanted else shutil.which(name)
    if not found or not os.access(found, os.X_OK):
        place = wanted or "PATH"
        module.fail_json(msg=f"{name} is not installed (looked at {place}); the role kube_tools installs it")
    return found


def drift_finder(module: Any) -> Callable[[_helmfile.Release, str], bool]:
    """Tells whether the live objects of a manifest are other than it says; logs in only when there is a manifest."""
    clients: list[Kube] = []

    def drifted(release: _helmfile.Release, manifest: str) -> bool:
        if not clients:
            clients.append(connect(module))
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        bodies = [body for body in yaml.load_all(manifest, Loader=loader) if body]
        return bool(drift(clients[0], release.namespace, bodies))

    return drifted


def warnings(module: Any, failed: list[str]) -> list[str]:
    """What the API's events say about the failed releases; their absence must not hide the failure itself."""
    try:
        kube = connect(module)
        events = [
            event
            for namespace in sorted({name.rpartition("/")[0] for name in failed})
            for event in kube.list(kube.resource("v1", "Event").path(namespace or None))
        ]
    except KubeError:
        return []
    return _helmfile.warnings_of(events, failed)


def main() -> None:
    module = kube_module(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "file": {"type": "path"},
            "definition": {"type": "dict"},
            "values": {"type": "dict", "default": {}},
            "charts": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": {"type": "str", "required": True}, **_charts.OPTIONS},
            },
            "directory": {"type": "path"},
            "prune_label": {"type": "str"},
            "binary_path": {"type": "path"},
            "helm_path": {"type": "path"},
            "environment_vars": {"type": "dict", "default": {}},
        },
        mutually_exclusive=[("file", "definition")],
        required_one_of=[("file", "definition")],
        required_by={"definition": ["directory"]},
        supports_check_mode=True,
    )
    params, local = module.params, module._module  # kubernetes.core wraps the AnsibleModule, which runs the commands
    environment = {**QUIET, **{key: str(value) for key, value in params["environment_vars"].items()}}
    if isinstance(params["kubeconfig"], dict):
        module.fail_json(msg="kubeconfig must be the path of a file: helm reads nothing else")
    kubeconfig = params["kubeconfig"] or os.environ.get("K8S_AUTH_KUBECONFIG")
    if kubeconfig:
        environment["KUBECONFIG"] = kubeconfig

    file, rewritten = params["file"], False
    if params["definition"] is not None:
        try:
            definition = local_charts(module, params["definition"], environment)
        except _helmfile.HelmfileError as error:
            module.fail_json(msg=str(error), failed_releases=[], events=[])
        texts = _helmfile.files(
            definition, params["values"], lambda data: yaml.safe_dump(data, default_flow_style=False)
        )
        root = params["directory"]
        if module.check_mode:
            root = tempfile.mkdtemp(prefix="helmfile-", dir=local.tmpdir)
            local.add_cleanup_file(root)
        rewritten = write(root, texts) and not module.check_mode
        file = os.path.join(root, "helmfile.yaml")
    if not os.path.isfile(file):
        module.fail_json(msg=f"there is no helmfile {file}")

    tool = _helmfile.Helmfile(
        lambda command: local.run_command(command, environ_update=environment, cwd=os.path.dirname(file)),
        program(module, "binary_path", "helmfile"),
        program(module, "helm_path", "helm"),
        file,
        params["context"],
    )
    try:
        if params["state"] == "present":
            outcome = _helmfile.converge(tool, module.check_mode, params["prune_label"], drift_finder(module))
        else:
            outcome = _helmfile.remove(tool, module.check_mode, params["prune_label"])
    except KubeError as error:
        module.fail_json(msg=str(error), failed_releases=[], events=[])
    except _helmfile.HelmfileError as error:
        events = warnings(module, error.failed) if error.failed else []
        told = f"{error}\n" + "\n".join(events) if events else str(error)
        module.fail_json(msg=told, failed_releases=error.failed, events=events)
    result = {"changed": outcome.changed or rewritten, "updated": outcome.updated, "removed": outcome.removed}
    if module._diff and outcome.changed:
        result["diff"] = {"prepared": _helmfile.summary(outcome)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
