#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_info
short_description: Read the true state of a MicroK8s node
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Reads lock files, certificates and argument files, because on a worker C(microk8s) exits 0 and does nothing.
  - Names the next step that a host needs to become what it shall be. It changes nothing.
requirements:
  - Root on the target, and Python 3.11 or newer there. Nothing else is needed.
attributes:
  check_mode:
    description: Can run in check mode; it only reads.
    support: full
  diff_mode:
    description: Returns what changed in diff mode.
    support: none
  idempotent:
    description: The same call gives the same result while the host stays as it is.
    support: full
options:
  target_role:
    description: What the host shall be. Without it no next step is named.
    type: str
    choices: [controller, worker]
  chosen:
    description: Whether this is the controller through which the cluster is seen, and which the other hosts join.
    type: bool
    default: false
  channel:
    description:
      - The snap channel that the host shall follow, with its risk. Another one is never gone to by itself.
      - Where MicroK8s is not installed, the snap store is asked whether it has the channel for the machine.
    type: str
  address:
    description: The host's address for the cluster's traffic. A controller is in the datastore under it.
    type: str
  ca_fingerprint:
    description:
      - SHA-256 of the cluster's CA certificate, which is RV(ca_fingerprint) on the chosen controller.
      - Empty when there is no cluster yet.
    type: str
  datastore:
    description: The members of the datastore, as RV(datastore) of the chosen controller has them.
    type: list
    elements: str
    default: []
  node:
    description:
      - The Node of the host as RV(cluster.nodes) of the chosen controller has it; an empty dictionary when it has none.
      - Leave it out when the controller could not be asked.
    type: dict
  force:
    description: Name the steps that take a host over from another cluster instead of refusing.
    type: bool
    default: false
  gpu:
    description: Ask the GPU's driver as well.
    type: bool
    default: false
  kubelet_args:
    description: The kubelet flags that this collection sets on the host, for RV(stray_args).
    type: dict
    default: {}
  inherited_args:
    description: The RV(other_args) of the control plane that a worker has joined, for RV(stray_args).
    type: dict
    default: {}
  gather:
    description:
      - What to return. V(state) is what the host's files tell. V(nodes) and V(addons) are what the API of a control
        plane tells; V(addons) takes longer and includes V(nodes). V(arguments) are what addons really run with.
    type: list
    elements: str
    choices: [state, nodes, addons, arguments]
    default: [state]
seealso:
  - module: community.general.snap
"""

EXAMPLES = r"""
- name: Read what the controller knows
  tokenlabs.platform.microk8s_info:
    gather: [state, nodes]
  delegate_to: "{{ groups['tokenlabs_controller'][0] }}"
  run_once: true
  register: cluster

- name: Find out what this host needs
  tokenlabs.platform.microk8s_info:
    target_role: worker
    channel: 1.34/stable
    address: "{{ ansible_host }}"
    ca_fingerprint: "{{ cluster.ca_fingerprint or '' }}"
    datastore: "{{ cluster.datastore }}"
    node: "{{ cluster.cluster.nodes[inventory_hostname] | default({}) }}"
  register: host
"""

RETURN = r"""
node_name:
  description: The name under which the host's kubelet registers.
  returned: when O(gather) contains V(state)
  type: str
snapd:
  description: Whether the C(snap) command exists.
  returned: when O(gather) contains V(state)
  type: bool
installed:
  description: Whether MicroK8s is installed.
  returned: when O(gather) contains V(state)
  type: bool
version:
  description: The version of the installed snap.
  returned: when O(gather) contains V(state)
  type: str
revision:
  description: The revision of the installed snap.
  returned: when O(gather) contains V(state)
  type: str
channel:
  description: The channel that the snap follows.
  returned: when O(gather) contains V(state)
  type: str
  sample: 1.34/stable
held:
  description: Whether automatic refreshes are held.
  returned: when O(gather) contains V(state)
  type: bool
broken:
  description: Whether the snap is disabled or broken.
  returned: when O(gather) contains V(state)
  type: bool
stopped:
  description: Whether MicroK8s has been stopped by hand.
  returned: when O(gather) contains V(state)
  type: bool
launch_done:
  description: Whether the launch configuration has been applied.
  returned: when O(gather) contains V(state)
  type: bool
role:
  description:
    - What the host is now, V(controlplane) or V(worker). A host on its own is a control plane.
    - None when nothing is installed.
  returned: when O(gather) contains V(state)
  type: str
member:
  description:
    - Whether the host belongs to the cluster of O(ca_fingerprint). None when no fingerprint was given.
    - A worker does when it trusts that CA, a control plane when it has that CA and its datastore has joined others.
  returned: when O(gather) contains V(state)
  type: bool
half_joined:
  description: Whether a join broke off half-way.
  returned: when O(gather) contains V(state)
  type: bool
join_in_progress:
  description: Whether the marker of a running or failed join is there.
  returned: when O(gather) contains V(state)
  type: bool
join_running:
  description: Whether a join is at work at this moment.
  returned: when O(gather) contains V(state)
  type: bool
has_peers:
  description: Whether other nodes have joined this control plane.
  returned: when O(gather) contains V(state)
  type: bool
datastore_address:
  description: The address under which the host's own datastore is a member; empty on a worker.
  returned: when O(gather) contains V(state)
  type: str
  sample: 10.0.0.10:19001
datastore:
  description: The addresses of the datastore's members, as this control plane has them.
  returned: when O(gather) contains V(state)
  type: list
  elements: str
voters:
  description: Those of RV(datastore) that vote. The loss of one is survived when there are three.
  returned: when O(gather) contains V(state)
  type: list
  elements: str
join_tokens:
  description: How many tokens with a time limit wait for a join on this control plane, expired or not.
  returned: when O(gather) contains V(state)
  type: int
user_namespaces:
  description: Namespaces other than kube-system whose pods have run on a control plane.
  returned: when O(gather) contains V(state)
  type: list
  elements: str
ca_fingerprint:
  description: SHA-256 of the host's own CA certificate.
  returned: when O(gather) contains V(state)
  type: str
remote_ca_fingerprint:
  description: SHA-256 of the CA certificate of the cluster that the host has joined as a worker.
  returned: when O(gather) contains V(state)
  type: str
certificates:
  description: File names of the certificates that are there, with the time when each ends.
  returned: when O(gather) contains V(state)
  type: dict
  sample: {server.crt: '2027-01-31T09:00:00+00:00'}
args:
  description: The flags of kubelet and kube-apiserver.
  returned: when O(gather) contains V(state)
  type: dict
managed_args:
  description: The kubelet flags that this collection has written.
  returned: when O(gather) contains V(state)
  type: dict
other_args:
  description: The kubelet flags that somebody else has written.
  returned: when O(gather) contains V(state)
  type: dict
stray_args:
  description:
    - Kubelet flags among RV(other_args) that have to go, because O(kubelet_args) sets them, or because the join has
      copied them from the control plane although they belong to one node.
  returned: when O(gather) contains V(state)
  type: list
  elements: str
template:
  description: What containerd's template says.
  returned: when O(gather) contains V(state)
  type: dict
  contains:
    cri_plugin:
      description: The name of the CRI plugin; it tells containerd 1.7 from 2.x.
      type: str
    handlers:
      description: The runtime handlers with their programs.
      type: dict
    imported:
      description: The runtime handlers of files that it imports, each with its file.
      type: dict
    block:
      description: What this collection has written into it.
      type: str
    cdi:
      description: Whether it tells the CRI plugin to take CDI devices.
      type: bool
    cdi_ours:
      description: Whether this collection has written that.
      type: bool
    error:
      description: Why it cannot be parsed, or what in it switches the CRI plugin off.
      type: str
pending_restart:
  description: Services whose configuration is newer than their process.
  returned: when O(gather) contains V(state)
  type: list
  elements: str
unproven:
  description: Whether a change of the services' configuration was broken off before the node came back with it.
  returned: when O(gather) contains V(state)
  type: bool
aliases:
  description:
    - C(kubectl) and C(helm), with what they stand for among the commands of snaps, such as C(microk8s.kubectl).
    - Empty when the name is free.
  returned: when O(gather) contains V(state)
  type: dict
refreshes:
  description: Automatic refreshes that snapd remembers, when they are not held.
  returned: when O(gather) contains V(state)
  type: list
  elements: str
store_channels:
  description: The channels that the store has for this machine, when O(channel) is given and nothing is installed.
  returned: when O(gather) contains V(state)
  type: list
  elements: str
apparmor_rule:
  description: Whether AppArmor lets runc signal containers.
  returned: when O(gather) contains V(state)
  type: bool
ssh_keepalive:
  description: Whether the host's ssh client gives up connections to hosts that are gone.
  returned: when O(gather) contains V(state)
  type: bool
swaps:
  description: Swap files and devices in use.
  returned: when O(gather) contains V(state)
  type: list
  elements: str
swap_masked:
  description: Whether systemd is kept from turning swap on at a boot.
  returned: when O(gather) contains V(state)
  type: bool
time_sync:
  description: Whether the clock is kept right, V(on) or V(off). V(missing) when no program for it is installed.
  returned: when O(gather) contains V(state)
  type: str
gpu_driver:
  description: The version of the GPU's driver.
  returned: when O(gather) contains V(state) and O(gpu) is true
  type: str
gpu_error:
  description: Why the GPU's driver does not answer.
  returned: when O(gather) contains V(state) and O(gpu) is true
  type: str
cluster:
  description: What the control plane's API says.
  returned: when O(gather) contains V(nodes), V(addons) or V(arguments)
  type: dict
  contains:
    api:
      description: Whether the API answers.
      type: bool
    running:
      description: Whether C(microk8s status) calls the cluster running. False when O(gather) lacks V(addons).
      type: bool
    addons:
      description: Addon names with true when enabled.
      type: dict
    nodes:
      description: Node names with their uid, readiness, message, heartbeat, version, address and taints.
      type: dict
    arguments:
      description:
        - What addons run with. C(dns) has CoreDNS' C(corefile) and the C(servers) that it forwards to, C(metallb) the
          C(addresses) that it may give away.
        - Empty when O(gather) lacks V(arguments).
      type: dict
action:
  description:
    - The next step. V(install), V(start), V(restart) its kubelet, V(wait) for readiness, V(join), V(replace) the
      stale Node and join, V(repair) a broken join, V(rejoin) after leaving another cluster, V(finish) a join that has
      only left its marks, V(none), or V(fail).
  returned: when O(target_role) is given
  type: str
reason:
  description: Why that is the next step.
  returned: when O(target_role) is given
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import (
    MicroK8sError,
    Target,
    decide,
    describe,
    read_cluster,
    read_state,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._node import stray_args


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "target_role": {"type": "str", "choices": ["controller", "worker"]},
            "chosen": {"type": "bool", "default": False},
            "channel": {"type": "str"},
            "address": {"type": "str"},
            "ca_fingerprint": {"type": "str"},
            "datastore": {"type": "list", "elements": "str", "default": []},
            "node": {"type": "dict"},
            "force": {"type": "bool", "default": False},
            "gpu": {"type": "bool", "default": False},
            "kubelet_args": {"type": "dict", "default": {}},
            "inherited_args": {"type": "dict", "default": {}},
            "gather": {
                "type": "list",
                "elements": "str",
                "choices": ["state", "nodes", "addons", "arguments"],
                "default": ["state"],
            },
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}

    def run(argv):
        if module.get_bin_path(argv[0]) is None:
            return 127, "", f"{argv[0]} is not installed"
        return module.run_command(list(argv), check_rc=False)

    params = module.params
    gather = set(params["gather"])
    target = Target(
        role=params["target_role"] or "worker",
        channel=params["channel"] or "",
        chosen=params["chosen"],
        address=params["address"] or "",
        datastore=tuple(params["datastore"]),
        force=params["force"],
    )
    try:
        state = read_state(run, params["ca_fingerprint"] or None, store=bool(target.channel), gpu=params["gpu"])
        result: dict[str, Any] = {}
        if "state" in gather:
            result = describe(state)
            result["stray_args"] = stray_args(state.other_args, params["kubelet_args"], params["inherited_args"])
        if gather - {"state"}:
            result["cluster"] = read_cluster(state, run, "addons" in gather, "arguments" in gather)
    except MicroK8sError as error:
        module.fail_json(msg=str(error))
    if params["target_role"]:
        action = decide(state, params["node"], target)
        result |= {"action": action.kind, "reason": action.reason}
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
