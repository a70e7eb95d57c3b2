# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong inventories, as files: each mistake is named with its file, its line, its path and the reason."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.plugins.catalog.inventories import GOOD, load, problems, write

SPARK = "host_vars/spark-02.yml"
TIERS = "group_vars/all/tiers.yml"
TENANTS = "group_vars/all/tenants.yml"
MAIN = "group_vars/all/main.yml"
SECRET = "S3cretThatMustNeverBeSeen"  # planted, and looked for


@dataclass(frozen=True)
class Case:
    """Changed files, and every line that must come of them: beginning, and what else it says."""

    name: str
    files: dict[str, str | None]
    lines: list[tuple[str, str]]
    extra: dict[str, object] = field(default_factory=dict)


def hosts(controllers: str = "controller: {ansible_host: 192.168.1.10}", sparks: str | None = None) -> str:
    default = "spark-01: {ansible_host: 192.168.1.11}, spark-02: {ansible_host: 192.168.1.12}"
    return f"controllers:\n  hosts: {{{controllers}}}\nsparks:\n  hosts: {{{default if sparks is None else sparks}}}\n"


def model(**values: str) -> str:
    keys = {
        "name": "qwen-7b",
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "image": "ghcr.io/llm-d/llm-d-cuda:v0.5.0",
        **values,
    }
    lines = [f"    {key}: {value}" for key, value in keys.items() if value]
    return "tokenlabs_models:\n  -\n" + "\n".join(lines) + "\n"


def tiers(free: str) -> str:
    return f"tokenlabs_tiers:\n  free: {{{free}}}\n  pro: {{requests: {{1m: 1}}, tokens: {{1m: 1}}}}\n"


def tenants(*lines: str) -> str:
    return "tokenlabs_tenants:\n" + "".join(f"  - {line}\n" for line in lines)


CASES = [
    # hosts and groups
    Case("no controller", {"hosts.yml": hosts("")}, [("INVENTORY: controllers has no host", "name the controller")]),
    Case(
        "no Spark",
        {
            "hosts.yml": hosts(sparks=""),
            TIERS: tiers("requests: {1m: 1}, tokens: {1m: 1}"),
            SPARK: None,
            "host_vars/spark-01.yml": None,
        },
        [("INVENTORY: sparks has no host", "at least one Spark")],
    ),
    Case(
        "two controllers",
        {"hosts.yml": hosts("a: {ansible_host: 192.168.1.8}, b: {ansible_host: 192.168.1.9}")},
        [("INVENTORY: controllers has 2 hosts: a majority must be up", "name 1 or 3")],
    ),
    Case(
        "four controllers",
        {"hosts.yml": hosts(", ".join(f"c{n}: {{ansible_host: 192.168.1.{n}}}" for n in range(1, 5)))},
        [
            (
                "INVENTORY: controllers has 4 hosts: a majority must be up, so no more of them may fail than of 3",
                "3 or 5",
            )
        ],
    ),
    Case(
        "a host by the name of a group",
        {"hosts.yml": hosts("localhost: {ansible_host: 192.168.1.10}")},
        [("hosts.yml:2: 'localhost' cannot be the name of a host", "rename it")],
    ),
    Case(
        "a host in both groups",
        {"hosts.yml": hosts("spark-01: {ansible_host: 192.168.1.11}")},
        [("hosts.yml:2: 'spark-01' is in both groups", "tokenlabs_controller_is_spark")],
    ),
    Case(
        "an upper-case name",
        {"hosts.yml": hosts("Controller: {ansible_host: 192.168.1.10}")},
        [("hosts.yml:2: 'Controller' cannot be the name of a node", "write controller")],
    ),
    Case(
        "a name with a dot",
        {"hosts.yml": hosts("controller.lan: {ansible_host: 192.168.1.10}")},
        [("hosts.yml:2: 'controller.lan' cannot be the name of a node", "ansible_host")],
    ),
    Case(
        "the same name twice, but for capitals",
        {
            "hosts.yml": hosts(sparks="spark-01: {ansible_host: 192.168.1.11}, SPARK-01: {ansible_host: 192.168.1.12}"),
            SPARK: None,
        },
        [
            ("hosts.yml:4: 'SPARK-01' and 'spark-01' are one name", "rename"),
            ("hosts.yml:4: 'SPARK-01' cannot be the name", "write spark-01"),
        ],
    ),
    Case(
        "an address twice",
        {"hosts.yml": hosts("controller: {ansible_host: 192.168.1.12}")},
        [("hosts.yml:4: ansible_host is 192.168.1.12, the address of controller too", "its own")],
    ),
    Case(
        "a login twice",
        {
            "hosts.yml": hosts(
                "controller: {ansible_host: 192.168.1.12, tokenlabs_cluster_address: 10.0.0.1}",
            )
        },
        [("hosts.yml:4: ansible_host is 192.168.1.12, where Ansible logs in to controller too", "its own")],
    ),
    Case(
        "a name for an address",
        {"hosts.yml": hosts("controller: {ansible_host: controller.lan}")},
        [("hosts.yml:2: ansible_host 'controller.lan' is a name, and MicroK8s joins by IPv4", "cluster_address")],
    ),
    Case(
        "no address",
        {"hosts.yml": hosts("controller: ")},
        [("hosts.yml:2: 'controller' is a name, and MicroK8s joins by IPv4", "tokenlabs_cluster_address")],
    ),
    Case(
        "the placeholder of the example",
        {"hosts.yml": hosts("controller: {ansible_host: <address>}")},
        [("hosts.yml:2: ansible_host is still the placeholder", "IPv4 address")],
    ),
    Case(
        "a loopback address",
        {"hosts.yml": hosts("controller: {ansible_host: 192.168.1.10, tokenlabs_cluster_address: 127.0.0.1}")},
        [("hosts.yml:2: tokenlabs_cluster_address is 127.0.0.1, which other hosts cannot reach", "network")],
    ),
    Case(
        "a host name as the cluster address",
        {"host_vars/spark-01.yml": GOOD["host_vars/spark-01.yml"] + "tokenlabs_cluster_address: spark-01.lan\n"},
        [
            (
                "host_vars/spark-01.yml:6: tokenlabs_cluster_address is 'spark-01.lan', not an IPv4 address",
                "192.168.1.11",
            )
        ],
    ),
    Case(
        "an IPv6 cluster address",
        {"host_vars/spark-01.yml": GOOD["host_vars/spark-01.yml"] + "tokenlabs_cluster_address: fd00::11\n"},
        [("host_vars/spark-01.yml:6: tokenlabs_cluster_address is 'fd00::11', not an IPv4 address", "192.168.1.11")],
    ),
    Case(
        "a LAN within the network of pods, told once",
        {
            "hosts.yml": hosts(
                "controller: {ansible_host: 10.1.0.10}",
                "spark-01: {ansible_host: 10.1.0.11}, spark-02: {ansible_host: 10.1.0.12}",
            )
        },
        [("hosts.yml:2: ansible_host is 10.1.0.10, within 10.1.0.0/16, which MicroK8s gives to pods", "2 more hosts")],
    ),
    Case(
        "a host within the network of services",
        {"hosts.yml": hosts("controller: {ansible_host: 10.152.183.9}")},
        [("hosts.yml:2: ansible_host is 10.152.183.9, within 10.152.183.0/24", "tokenlabs_cluster_address")],
    ),
    # nodes
    Case(
        "an unknown architecture",
        {SPARK: GOOD[SPARK] + "tokenlabs_arch: aarch64\n"},
        [(f"{SPARK}:5: tokenlabs_arch cannot be 'aarch64'", "amd64, arm64")],
    ),
    Case(
        "an unknown label of Kubernetes",
        {SPARK: GOOD[SPARK] + "tokenlabs_node_labels: {toplogy.kubernetes.io/zone: a}\n"},
        [
            (
                f"{SPARK}:5: tokenlabs_node_labels['toplogy.kubernetes.io/zone'] is not a label that Kubernetes knows",
                "did you mean topology.kubernetes.io/zone?",
            )
        ],
    ),
    Case(
        "a label of another part",
        {SPARK: GOOD[SPARK] + "tokenlabs_node_labels: {kubernetes.io/arch: amd64, nvidia.com/gpu.present: 'true'}\n"},
        [
            (f"{SPARK}:5: tokenlabs_node_labels['kubernetes.io/arch'] is set by its kubelet", "remove it"),
            (f"{SPARK}:5: tokenlabs_node_labels['nvidia.com/gpu.present'] is set by the GPU operator", "remove it"),
        ],
    ),
    Case(
        "a label that is none",
        {SPARK: GOOD[SPARK] + "tokenlabs_node_labels: {my rack: a1}\n"},
        [(f"{SPARK}:5: tokenlabs_node_labels['my rack'] is 'my rack', not of the right form", "name of a label")],
    ),
    Case(
        "a label's value that is none",
        {SPARK: GOOD[SPARK] + "tokenlabs_node_labels: {rack: a 1, spare: yes}\n"},
        [
            (f"{SPARK}:5: tokenlabs_node_labels.rack is 'a 1', not of the right form", "at most 63"),
            (f"{SPARK}:5: tokenlabs_node_labels.spare must be a text, is a truth value", "quotes"),
        ],
    ),
    Case(
        "an unknown effect of a taint",
        {SPARK: GOOD[SPARK] + "tokenlabs_node_taints: [{key: example.com/x, effect: NoScheduling}]\n"},
        [(f"{SPARK}:5: tokenlabs_node_taints[0].effect cannot be 'NoScheduling'", "did you mean NoSchedule?")],
    ),
    Case(
        "a taint that Kubernetes sets",
        {SPARK: GOOD[SPARK] + "tokenlabs_node_taints: [{key: node.kubernetes.io/not-ready, effect: NoExecute}]\n"},
        [(f"{SPARK}:5: tokenlabs_node_taints[0].key node.kubernetes.io/not-ready is set by Kubernetes", "your own")],
    ),
    Case(
        "a taint twice",
        {SPARK: GOOD[SPARK] + "tokenlabs_node_taints: [{key: a, effect: NoExecute}, {key: a, effect: NoExecute}]\n"},
        [(f"{SPARK}:5: tokenlabs_node_taints[1] is the same key and effect as tokenlabs_node_taints[0]", "remove")],
    ),
    Case(
        "another part's namespace",
        {MAIN: "tokenlabs_namespace: kube-system\n"},
        [(f"{MAIN}:1: tokenlabs_namespace is kube-system, which belongs to another part", "token-labs")],
    ),
    # variables
    Case(
        "an unknown variable",
        {MAIN: "tokenlabs_tire:\n  a: 1\n"},
        [(f"{MAIN}:1: tokenlabs_tire is not a variable", "did you mean tokenlabs_tiers?")],
    ),
    Case(
        "a platform-wide variable for one host",
        {"host_vars/spark-01.yml": GOOD["host_vars/spark-01.yml"] + "tokenlabs_release: '2026.07'\n"},
        [("host_vars/spark-01.yml:6: tokenlabs_release is not the same for all hosts", "group_vars/all")],
    ),
    Case(
        "a truth value in quotes",
        {MAIN: "tokenlabs_prune: 'yes'\n"},
        [(f"{MAIN}:1: tokenlabs_prune must be true or false, is the text 'yes'", "write true without quotes")],
    ),
    Case(
        "a truth value on the command line",
        {},
        [("INVENTORY: tokenlabs_prune must be true or false, is the text 'no'", "write false without quotes")],
        {"tokenlabs_prune": "no"},
    ),
    Case(
        "an undefined variable in a leaf",
        {SPARK: model(image='"{{ registry }}/llm-d:v1"')},
        [(f"{SPARK}:5: tokenlabs_models[0].image uses registry, which is not defined", "define registry")],
    ),
    Case(
        "a variable that refers to itself",
        {SPARK: model(image='"{{ loop }}"') + 'loop: "{{ pool }}"\npool: "{{ loop }}"\n'},
        [(f"{SPARK}:5: tokenlabs_models[0].image refers to itself", "break the circle")],
    ),
    Case(
        "a platform-wide variable for one group",
        {"group_vars/sparks.yml": "tokenlabs_prune: true\n"},
        [("group_vars/sparks.yml:1: tokenlabs_prune is not the same for all hosts", "group_vars/all")],
    ),
    Case(
        "a secret of a vault without its password",
        {MAIN: "tokenlabs_redis_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n"},
        [(f"{MAIN}:1: tokenlabs_redis_password cannot be decrypted", "--ask-vault-pass")],
    ),
    Case(
        "a file that does not exist",
        {MAIN: "tokenlabs_checksums: \"{{ lookup('ansible.builtin.file', '/nowhere/sums.json') | from_json }}\"\n"},
        [(f"{MAIN}:1: tokenlabs_checksums reads the file /nowhere/sums.json, which does not exist", "create")],
    ),
    # observability
    Case(
        "a Prometheus that there is not",
        {MAIN: "tokenlabs_observability: {prometheus: stak}\n"},
        [(f"{MAIN}:1: tokenlabs_observability.prometheus cannot be 'stak'", "did you mean stack?")],
    ),
    Case(
        "settings of Prometheus without effect",
        {MAIN: "tokenlabs_observability: {retention: 30d, url: http://x:9090, namespace: mon}\n"},
        [
            (f"{MAIN}:1: tokenlabs_observability.namespace has no effect with prometheus: none", "stack"),
            (f"{MAIN}:1: tokenlabs_observability.retention has no effect with prometheus: none", "stack"),
            (f"{MAIN}:1: tokenlabs_observability.url has no effect with prometheus: none", "existing"),
        ],
    ),
    Case(
        "a Prometheus of others that nobody could find",
        {MAIN: "tokenlabs_observability: {prometheus: existing, storage: 5Gi}\n"},
        [
            (f"{MAIN}:1: tokenlabs_observability.namespace is missing", "monitors and rules"),
            (f"{MAIN}:1: tokenlabs_observability.storage has no effect with prometheus: existing", "stack"),
            (f"{MAIN}:1: tokenlabs_observability.url is missing", "prometheus-operated"),
        ],
    ),
    Case(
        "a currency that is none",
        {MAIN: "tokenlabs_currency: euro\n"},
        [(f"{MAIN}:1: tokenlabs_currency is 'euro', not of the right form", "EUR")],
    ),
    Case(
        "an autoscaler on one Spark with one GPU",
        {
            MAIN: "tokenlabs_observability: {prometheus: stack}\n",
            SPARK: model(replicas=1, max_replicas=2),
        },
        [(f"{SPARK}:", "is 2, above the GPU slots of spark-02, which hold 1")],
    ),
    Case(
        "an autoscaler that nobody tells of the load, and that could add nothing",
        {SPARK: model(max_replicas=2, replicas=2, memory_fraction=0.3) + "tokenlabs_gpu_slots: 2\n"},
        [
            (f"{SPARK}:", "nothing could be added"),
            (f"{SPARK}:", "needs a Prometheus that reads the queue"),
        ],
    ),
    # release sets
    Case(
        "an unknown release",
        {MAIN: "tokenlabs_release: '2026.70'\n"},
        [(f"{MAIN}:1: tokenlabs_release is '2026.70', which does not exist", "did you mean 2026.0")],
    ),
    Case(
        "a release as a number",
        {MAIN: "tokenlabs_release: 2026.07\n"},
        [(f"{MAIN}:1: tokenlabs_release must be a text, is a number", "quotes")],
    ),
    Case(
        "versions that must not meet",
        {MAIN: "tokenlabs_versions:\n  envoy_gateway: v1.5.0\n"},
        [
            (f"{MAIN}:2: tokenlabs_versions.envoy_gateway cannot be: Envoy AI Gateway 0.5 needs", "compatibility.md"),
            (f"{MAIN}:2: tokenlabs_versions.envoy_gateway cannot be: Envoy Gateway before 1.7.4", "GHSA"),
        ],
    ),
    Case(
        "versions that nobody has tested",
        {MAIN: "tokenlabs_versions:\n  envoy_gateway: v1.8.3\n  gateway_api: v1.5.1\n"},
        [
            (f"{MAIN}:2: tokenlabs_versions.envoy_gateway cannot be: Envoy AI", "tokenlabs_release_unsupported"),
            (f"{MAIN}:2: tokenlabs_versions.envoy_gateway cannot be: Kuadrant 1.5", "tokenlabs_release_unsupported"),
        ],
    ),
    Case(
        "a version that is known to break, more than one rule",
        {MAIN: "tokenlabs_versions: {kuadrant_operator: 1.4.1}\n"},
        [
            (f"{MAIN}:1: tokenlabs_versions.kuadrant_operator cannot be: Kuadrant before 1.4.3", "1.5.2"),
            (f"{MAIN}:1: tokenlabs_versions.kuadrant_operator cannot be: Kuadrant before 1.5", "1.5.2"),
        ],
    ),
    Case(
        "a version that the set excuses, chosen by hand",
        {MAIN: "tokenlabs_release: '2026.04'\ntokenlabs_versions: {envoy_gateway: v1.6.4}\n"},
        [
            (f"{MAIN}:2: tokenlabs_versions.envoy_gateway cannot be: Envoy Gateway before 1.7.4", "GHSA"),
            (f"{MAIN}:2: tokenlabs_versions.envoy_gateway cannot be: Kuadrant before 1.5", "make/envoy-gateway.mk"),
        ],
    ),
    Case(
        "Kubernetes outside of the range of the set",
        {MAIN: "tokenlabs_release: '2026.04'\ntokenlabs_microk8s_channel: 1.34/stable\n"},
        [(f"{MAIN}:2: tokenlabs_microk8s_channel cannot be: Envoy Gateway 1.6 is tested with", "1.33/stable")],
    ),
    Case(
        "a chart that is none",
        {MAIN: "tokenlabs_charts: {envoy: {repository: oci://registry.example}}\n"},
        [(f"{MAIN}:1: tokenlabs_charts.envoy is not a chart", "envoy_gateway")],
    ),
    Case(
        "a chart's source that is none",
        {MAIN: "tokenlabs_charts: {envoy_gateway: {repository: registry.example}}\n"},
        [(f"{MAIN}:1: tokenlabs_charts.envoy_gateway.repository must begin with", "oci://")],
    ),
    Case(
        "an image without a tag",
        {MAIN: f"tokenlabs_images: {{redis: redis, epp: 'ghcr.io/x/epp@sha256:{'0' * 64}'}}\n"},
        [
            (f"{MAIN}:1: tokenlabs_images.redis has neither tag nor digest", "add"),
            (f"{MAIN}:1: tokenlabs_images.epp has no tag", "add"),
        ],
    ),
    Case(
        "latest for a version",
        {MAIN: "tokenlabs_versions: {helm: latest}\n"},
        [(f"{MAIN}:1: tokenlabs_versions.helm is 'latest', not one version", "v3.19.5")],
    ),
    Case(
        "an unknown component",
        {MAIN: "tokenlabs_versions: {envoy: v1.7.5}\n"},
        [(f"{MAIN}:1: tokenlabs_versions.envoy is not a component", "ai_gateway")],
    ),
    Case(
        "a channel that Envoy Gateway is not tested with",
        {MAIN: "tokenlabs_microk8s_channel: 1.36/stable\n"},
        [(f"{MAIN}:1: tokenlabs_microk8s_channel cannot be: Envoy Gateway 1.7 and 1.8", "unsupported")],
    ),
    Case(
        "a channel that cannot be",
        {MAIN: "tokenlabs_microk8s_channel: 1.99/stable\n"},
        [(f"{MAIN}:1: tokenlabs_microk8s_channel cannot be: Envoy Gateway 1.7 and 1.8", "1.34/stable")],
    ),
    Case(
        "a channel that is too old, for more than one reason",
        {MAIN: "tokenlabs_microk8s_channel: 1.30/stable\n"},
        [(f"{MAIN}:1: tokenlabs_microk8s_channel cannot be: Envoy AI Gateway needs", "1.34/stable")],
    ),
    Case(
        "the latest channel",
        {MAIN: "tokenlabs_microk8s_channel: latest/stable\n"},
        [(f"{MAIN}:1: tokenlabs_microk8s_channel is 'latest/stable', not of the right form", "1.34/stable")],
    ),
    # models
    Case(
        "an unknown key of a model",
        {SPARK: model(arg="[a]")},
        [(f"{SPARK}:6: tokenlabs_models[0].arg is not a key", "did you mean args?")],
    ),
    Case(
        "arguments that are no list",
        {SPARK: model(args="--max-model-len=1")},
        [(f"{SPARK}:6: tokenlabs_models[0].args must be a list, is a text", "[--max-model-len=32768]")],
    ),
    Case(
        "an argument that YAML reads as a number",
        {SPARK: model(args="[--seed, 1]")},
        [(f"{SPARK}:6: tokenlabs_models[0].args[1] must be a text, is a number", "quotes")],
    ),
    Case(
        "models that are no list",
        {SPARK: "tokenlabs_models: {name: x}\n"},
        [(f"{SPARK}:1: tokenlabs_models must be a list, is a mapping", "a list of")],
    ),
    Case(
        "no model at all",
        {SPARK: None, "host_vars/spark-01.yml": None, TIERS: tiers("requests: {1m: 1}, tokens: {1m: 1}")},
        [("INVENTORY: tokenlabs_models is empty on every Spark", "host_vars")],
    ),
    Case(
        "more models than a route holds",
        {
            SPARK: "tokenlabs_gpu_slots: 32\ntokenlabs_models:\n"
            + "".join(
                f"  - {{name: m-{n}, model: o/m-{n}, image: 'r/s:1', memory_fraction: 0.05}}\n" for n in range(15)
            )
        },
        [("INVENTORY: tokenlabs_models names 16 models, one route holds 15", "fewer")],
    ),
    Case(
        "a public name that is too long",
        {SPARK: model(served_name="n" * 129)},
        [(f"{SPARK}:6: tokenlabs_models[0].served_name has 129 characters", "at most 128")],
    ),
    Case(
        "a missing image",
        {SPARK: model(image="")},
        [(f"{SPARK}:3: tokenlabs_models[0].image is missing", "add it")],
    ),
    Case(
        "an image without a tag",
        {SPARK: model(image="ghcr.io/llm-d/llm-d-cuda")},
        [(f"{SPARK}:5: tokenlabs_models[0].image has neither tag nor digest", "add the tag")],
    ),
    Case(
        "the tag latest",
        {SPARK: model(image="ghcr.io:443/llm-d/llm-d-cuda:latest")},
        [(f"{SPARK}:5: tokenlabs_models[0].image has the tag latest", "version")],
    ),
    Case(
        "an image that is none",
        {SPARK: model(image="https://ghcr.io/llm-d:v1")},
        [(f"{SPARK}:5: tokenlabs_models[0].image is 'https://ghcr.io/llm-d:v1', not an image", "registry/name:tag")],
    ),
    Case(
        "a name that is too long",
        {SPARK: model(name="m" * 36)},
        [(f"{SPARK}:3: tokenlabs_models[0].name has 36 characters", "at most 35")],
    ),
    Case(
        "a name that is no label",
        {SPARK: model(name="Qwen_7B")},
        [(f"{SPARK}:3: tokenlabs_models[0].name is 'Qwen_7B', not of the right form", "lower-case")],
    ),
    Case(
        "two definitions of one model",
        {SPARK: GOOD["host_vars/spark-01.yml"].replace("32768", "16384")},
        [(f"{SPARK}:2: tokenlabs_models[0] defines llama-8b otherwise than spark-01 does (different: args)", "equal")],
    ),
    Case(
        "one model twice on a host",
        {SPARK: GOOD[SPARK] + GOOD[SPARK].partition("\n")[2]},
        [(f"{SPARK}:5: tokenlabs_models[1].name qwen-7b is on this host twice", "remove")],
    ),
    Case(
        "two models under one public name",
        {SPARK: model(model="nvidia/Llama-3.1-8B-Instruct")},
        [(f"{SPARK}:4: tokenlabs_models[0].model 'nvidia/Llama-3.1-8B-Instruct' is what", "served_name")],
    ),
    Case(
        "more GPUs than there are",
        {SPARK: model(gpus="2")},
        [(f"{SPARK}:1: tokenlabs_models needs 2 GPU slots, spark-02 has 1", "tokenlabs_gpu_slots: 2")],
    ),
    Case(
        "a GPU model on a host without a GPU",
        {SPARK: GOOD[SPARK] + "tokenlabs_gpu_slots: 0\n"},
        [(f"{SPARK}:1: tokenlabs_models needs 1 GPU slots, spark-02 has 0", "Spark with a GPU")],
    ),
    Case(
        "a host file of nobody",
        {"host_vars/spark-03.yml": model(name="x", model="org/x"), "host_vars/notes.txt": "tokens"},
        [("host_vars/spark-03.yml: spark-03 is no host of the inventory", "add spark-03 to the group sparks")],
    ),
    Case(
        "more memory than a Spark has",
        {SPARK: model(memory_fraction="0.96")},
        [
            (
                f"{SPARK}:1: tokenlabs_models takes 0.96 of the unified memory of spark-02, which is more than 0.95",
                "leave",
            )
        ],
    ),
    Case(
        "two models that each take what is usual",
        {SPARK: model() + model(name="b", model="org/b").partition("\n")[2] + "tokenlabs_gpu_slots: 2\n"},
        [(f"{SPARK}:1: tokenlabs_models takes 1.6 of the unified memory", "memory_fraction (default 0.8)")],
    ),
    Case(
        "parts of the memory that are none",
        {SPARK: model(memory_fraction="80%"), "host_vars/spark-01.yml": model(name="a", memory_fraction="1.5")},
        [
            (f"{SPARK}:6: tokenlabs_models[0].memory_fraction must be a number, is a text", "0.8"),
            ("host_vars/spark-01.yml:6: tokenlabs_models[0].memory_fraction is 1.5", "1 at most"),
            (f"{TIERS}:5: tokenlabs_tiers.free.models[0] 'llama-8b' is served by no Spark", "a, qwen-7b"),
        ],
    ),
    Case(
        "more replicas than slots",
        {SPARK: model(replicas="3") + "tokenlabs_gpu_slots: 2\n"},
        [
            (
                f"{SPARK}:6: tokenlabs_models[0].replicas is 3, above the GPU slots of spark-02, which hold 2",
                "more Sparks",
            )
        ],
    ),
    Case(
        "replicas that fit, but for another model",
        {
            SPARK: model(replicas="2", memory_fraction="0.2")
            + model(name="b", model="org/b", memory_fraction="0.2").partition("\n")[2]
            + "tokenlabs_gpu_slots: 2\n"
        },
        [(f"{SPARK}:1: tokenlabs_models needs 3 GPU slots, spark-02 has 2", "tokenlabs_gpu_slots: 3")],
    ),
    Case(
        "a gated model without a token",
        {SPARK: model(model="meta-llama/Llama-3.1-8B-Instruct")},
        [(f"{SPARK}:4: tokenlabs_models[0].model meta-llama/Llama-3.1-8B-Instruct is gated", "tokenlabs_hf_token")],
    ),
    Case(
        "another gated model without a token",
        {SPARK: model(gated="true")},
        [(f"{SPARK}:4: tokenlabs_models[0].model Qwen/Qwen2.5-7B-Instruct is gated", "tokenlabs_hf_token")],
    ),
    Case(
        "an unknown tier in a model's access",
        {SPARK: model(access="[pro, golden]")},
        [(f"{SPARK}:6: tokenlabs_models[0].access[1] 'golden' is no tier", "known are free, pro")],
    ),
    Case(
        "a tier and a model that disagree",
        {SPARK: model(access="[pro]"), TIERS: GOOD[TIERS].replace("[llama-8b]", "[qwen-7b]")},
        [(f"{TIERS}:5: tokenlabs_tiers.free.models[0] names qwen-7b, whose access leaves this tier out", "add free")],
    ),
    Case(
        "a tier that no model is for",
        {
            SPARK: model(access="[free]"),
            "host_vars/spark-01.yml": GOOD["host_vars/spark-01.yml"] + "    access: [free]\n",
        },
        [(f"{TIERS}:6: tokenlabs_tiers.pro may use no model", "access of one")],
    ),
    Case(
        "a tier for a model that is no more",
        {"host_vars/spark-01.yml": GOOD["host_vars/spark-01.yml"] + "    state: absent\n"},
        [(f"{TIERS}:5: tokenlabs_tiers.free.models[0] 'llama-8b' is served by no Spark", "qwen-7b")],
    ),
    Case(
        "a release that two models would have",
        {SPARK: model(adopt="{pool: pool-llama-8b, worker: llm-d-modelservice, label: llama-8b}")},
        [
            (f"{SPARK}:6: tokenlabs_models[0].adopt.pool makes the release pool-llama-8b, as llama-8b does", "another"),
            (f"{SPARK}:6: tokenlabs_models[0].adopt.label makes the label llama-8b, as llama-8b does", "another"),
        ],
    ),
    Case(
        "a name to adopt that the chart would cut",
        {SPARK: model(adopt="{pool: " + "p" * 41 + "}")},
        [(f"{SPARK}:6: tokenlabs_models[0].adopt.pool has 41 characters", "at most 40")],
    ),
    Case(
        "what an engine cannot do",
        {SPARK: model(engine="trtllm", tool_parser="hermes", served_name="qwen", args="[--tp_size=2]")},
        [
            (f"{SPARK}:7: tokenlabs_models[0].tool_parser has no effect with the engine trtllm", "vllm, sglang"),
            (f"{SPARK}:8: tokenlabs_models[0].served_name cannot be set", "remove"),
            (f"{SPARK}:9: tokenlabs_models[0].args[0] --tp_size must not be set", "`gpus`"),
        ],
    ),
    Case(
        "prices that are none",
        {SPARK: model(price="{input: cheap, output: -1}")},
        [
            (f"{SPARK}:6: tokenlabs_models[0].price.input must be an amount of money, is 'cheap'", "0.25"),
            (f"{SPARK}:6: tokenlabs_models[0].price.output must be an amount of money, is '-1'", "0.25"),
        ],
    ),
    Case(
        "a model without an image, and one with two",
        {
            SPARK: model(image="") + "    build: vllm\n",
            "host_vars/spark-01.yml": GOOD["host_vars/spark-01.yml"] + "    build: x\n",
        },
        [
            (f"{SPARK}:5: tokenlabs_models[0].build 'vllm' is not built", "none is known"),
            ("host_vars/spark-01.yml:6: tokenlabs_models[0].build is set beside image", "remove one"),
        ],
    ),
    Case(
        "a model with no image at all",
        {SPARK: model(image="")},
        [(f"{SPARK}:3: tokenlabs_models[0].image is missing", "tokenlabs_image_builds")],
    ),
    Case(
        "folders that nothing can be built from",
        {
            MAIN: "tokenlabs_image_builds:\n  a: {context: nowhere}\n  b: {context: host_vars}\n  c: {args: {}}\n",
        },
        [
            (f"{MAIN}:2: tokenlabs_image_builds.a.context names nowhere, which is no folder", "Dockerfile"),
            (f"{MAIN}:3: tokenlabs_image_builds.b.context has no Dockerfile", "Dockerfile"),
            (f"{MAIN}:4: tokenlabs_image_builds.c.context is missing", "add it"),
        ],
    ),
    Case(
        "speech on a host of nobody, for a tier of nobody",
        {MAIN: "tokenlabs_magpie_tts: {host: spark-03, image: 'r/tts:v1', access: [gold]}\n"},
        [
            (f"{MAIN}:1: tokenlabs_magpie_tts.host 'spark-03' is no host of the cluster", "spark-0"),
            (f"{MAIN}:1: tokenlabs_magpie_tts.access[0] 'gold' is no tier", "known are free, pro"),
        ],
    ),
    Case(
        "NVIDIA without a key",
        {MAIN: "tokenlabs_riva_stt: {host: integrate.api.nvidia.com}\n"},
        [(f"{MAIN}:1: tokenlabs_riva_stt.host is NVIDIA's, which asks for a key", "tokenlabs_nvidia_api_key")],
    ),
    Case(
        "a key in clear text",
        {
            MAIN: "tokenlabs_riva_stt: {host: 192.168.1.7, protocol: http}\n"
            "tokenlabs_nvidia_api_key: nvapi-aB3dE5gH7jK9mN1pQ2\n"
        },
        [(f"{MAIN}:1: tokenlabs_riva_stt.protocol is http: tokenlabs_nvidia_api_key would be sent in clear", "https")],
    ),
    Case(
        "a certificate of an address",
        {MAIN: "tokenlabs_riva_stt: {host: 192.168.1.7}\n"},
        [(f"{MAIN}:1: tokenlabs_riva_stt.host is an address, and certificates are for names", "use http")],
    ),
    Case(
        "a registry without a password, and a key of another make",
        {MAIN: f"tokenlabs_registry: {{server: ghcr.io, username: me}}\ntokenlabs_nvidia_api_key: {SECRET}\n"},
        [
            (f"{MAIN}:1: tokenlabs_registry is set without tokenlabs_registry_password", "set"),
            (f"{MAIN}:2: tokenlabs_nvidia_api_key is not of the right form", "vault"),
        ],
    ),
    Case(
        "kubelet flags that are set in another way, and one that is none",
        {
            SPARK: GOOD[SPARK]
            + "tokenlabs_kubelet_args:\n  --node-ip: 10.0.0.1\n  max-pods: '150'\n  --v: 2\n  --a: b c\n"
        },
        [
            (f"{SPARK}:6: tokenlabs_kubelet_args.--node-ip must not be set", "tokenlabs_cluster_address"),
            (f"{SPARK}:7: tokenlabs_kubelet_args.max-pods is 'max-pods', not of the right form", "--max-pods"),
            (f"{SPARK}:8: tokenlabs_kubelet_args.--v must be a text, is a number", "quotes"),
            (f"{SPARK}:9: tokenlabs_kubelet_args.--a is 'b c', not of the right form", "one word"),
        ],
    ),
    Case(
        "a GPU toolkit of nobody",
        {MAIN: "tokenlabs_gpu_toolkit: nvidia\ntokenlabs_gpu_cdi: 'yes'\n"},
        [
            (f"{MAIN}:1: tokenlabs_gpu_toolkit cannot be 'nvidia'", "host, operator"),
            (f"{MAIN}:2: tokenlabs_gpu_cdi must be true or false", "true without quotes"),
        ],
    ),
    Case(
        "models on the controller",
        {"host_vars/controller.yml": GOOD[SPARK]},
        [("host_vars/controller.yml:1: tokenlabs_models is set for controller, which is no Spark", "move it")],
    ),
    Case(
        "an argument that the platform sets",
        {SPARK: model(args=f"[--api-key={SECRET}, --port=1]")},
        [
            (f"{SPARK}:6: tokenlabs_models[0].args[0] --api-key must not be set", "the gateway checks keys"),
            (f"{SPARK}:6: tokenlabs_models[0].args[1] --port must not be set", "chooses"),
        ],
    ),
    Case(
        "a secret in the environment",
        {SPARK: model(env=f"{{HF_TOKEN: {SECRET}}}")},
        [(f"{SPARK}:6: tokenlabs_models[0].env.HF_TOKEN looks like a secret", "tokenlabs_hf_token")],
    ),
    Case(
        "a request above the limit",
        {SPARK: model(resources="{requests: {cpu: '2', memory: 32Gi}, limits: {cpu: 2500m, memory: 30000Mi}}")},
        [(f"{SPARK}:6: tokenlabs_models[0].resources.requests.memory is 32Gi, above the limit 30000Mi", "less")],
    ),
    Case(
        "the engine custom without a command",
        {SPARK: model(engine="custom")},
        [(f"{SPARK}:3: tokenlabs_models[0].command is missing", "starts the server")],
    ),
    Case(
        "a simulator that is none",
        {SPARK: model(engine="sim")},
        [(f"{SPARK}:5: tokenlabs_models[0].image is not the simulator", "llm-d-inference-sim")],
    ),
    # tiers
    Case("no tiers", {TIERS: None, TENANTS: None}, [("INVENTORY: tokenlabs_tiers is missing", "tiers.yml")]),
    Case(
        "a window in days",
        {TIERS: tiers("requests: {1d: 100}, tokens: {1m: 1}")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.requests.1d counts in days", "write 24h")],
    ),
    Case(
        "a window that is none",
        {TIERS: tiers("requests: {minute: 100}, tokens: {1m: 1}")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.requests.minute is not a window", "1m, 24h")],
    ),
    Case(
        "a window below a second",
        {TIERS: tiers("requests: {500ms: 100}, tokens: {1m: 1}")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.requests.500ms is not a whole number of seconds", "1s or more")],
    ),
    Case(
        "one window twice",
        {TIERS: tiers("requests: {1h: 100, 60m: 5}, tokens: {1m: 1}")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.requests.60m is as long as 1h", "keep one")],
    ),
    Case(
        "a token window that Envoy Gateway lacks",
        {TIERS: tiers("requests: {1m: 1}, tokens: {5m: 1}")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.tokens.5m is not one second, one minute, one hour", "kuadrant")],
    ),
    Case(
        "a limit of zero",
        {TIERS: tiers("requests: {1m: 0}, tokens: {1m: 1}")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.requests.1m is 0", "1 or more")],
    ),
    Case(
        "a limit as a text",
        {TIERS: tiers("requests: {1m: '10'}, tokens: {1m: 1}")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.requests.1m must be a number, is the text '10'", "write 10 without")],
    ),
    Case(
        "a tier without token limits",
        {TIERS: tiers("requests: {1m: 1}")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.tokens is missing", "add it")],
    ),
    Case(
        "a model that nobody serves",
        {TIERS: tiers("requests: {1m: 1}, tokens: {1m: 1}, models: [llama-8]")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.models[0] 'llama-8' is served by no Spark", "did you mean llama-8b?")],
    ),
    Case(
        "a tier without any model",
        {TIERS: tiers("requests: {1m: 1}, tokens: {1m: 1}, models: []")},
        [(f"{TIERS}:2: tokenlabs_tiers.free.models is an empty list", "remove it")],
    ),
    # tenants
    Case(
        "an unknown tier",
        {TENANTS: tenants("{name: acme, tier: por}")},
        [(f"{TENANTS}:2: tokenlabs_tenants[0].tier is 'por', which is no tier", "did you mean pro?")],
    ),
    Case(
        "a tenant twice",
        {TENANTS: tenants("{name: acme, tier: pro}", "{name: acme, tier: free}")},
        [(f"{TENANTS}:3: tokenlabs_tenants[1].name 'acme' is the name of tokenlabs_tenants[0] too", "of its own")],
    ),
    Case(
        "a tenant that cannot be a label",
        {TENANTS: tenants("{name: ACME Corp, tier: pro}")},
        [(f"{TENANTS}:2: tokenlabs_tenants[0].name is 'ACME Corp', not of the right form", "lower-case")],
    ),
    Case(
        "a key in the inventory",
        {TENANTS: tenants(f"{{name: acme, tier: pro, api_key: {SECRET}}}")},
        [(f"{TENANTS}:2: tokenlabs_tenants[0].api_key is not a key that exists", "keys are made by the platform")],
    ),
    Case(
        "an unknown state",
        {TENANTS: tenants("{name: acme, tier: pro, state: suspend}")},
        [(f"{TENANTS}:2: tokenlabs_tenants[0].state cannot be 'suspend'", "did you mean suspended?")],
    ),
    Case(
        "a tenant's name that YAML reads as a truth value",
        {TENANTS: tenants("{name: no, tier: pro}")},
        [(f"{TENANTS}:2: tokenlabs_tenants[0].name must be a text, is a truth value", "quotes")],
    ),
    # secrets
    Case(
        "a placeholder for a password",
        {MAIN: "tokenlabs_redis_password: changeme-changeme-1\n"},
        [(f"{MAIN}:1: tokenlabs_redis_password is a placeholder", "vault")],
    ),
    Case(
        "a short password",
        {MAIN: "tokenlabs_redis_password: k7Qm2Zx\n"},
        [(f"{MAIN}:1: tokenlabs_redis_password is not of the right form", "at least 16")],
    ),
    Case(
        "a token that is none",
        {MAIN: f"tokenlabs_hf_token: {SECRET}\n"},
        [(f"{MAIN}:1: tokenlabs_hf_token is not of the right form", "Hugging Face")],
    ),
    Case(
        "the placeholder of a token",
        {MAIN: "tokenlabs_hf_token: hf_xxxxxxxxxxxxxxxxxxxxxxxx\n"},
        [(f"{MAIN}:1: tokenlabs_hf_token is a placeholder", "vault")],
    ),
    # addresses of the gateway
    Case(
        "a range over a host",
        {MAIN: "tokenlabs_loadbalancer_range: 192.168.1.12-192.168.1.20\n"},
        [(f"{MAIN}:1: tokenlabs_loadbalancer_range contains 192.168.1.12, the address of spark-02", "no host has")],
    ),
    Case(
        "a range that is none",
        {MAIN: "tokenlabs_loadbalancer_range: 192.168.1.0/24\n"},
        [(f"{MAIN}:1: tokenlabs_loadbalancer_range is '192.168.1.0/24', not a range", "FIRST-LAST")],
    ),
    Case(
        "a range backwards",
        {MAIN: "tokenlabs_loadbalancer_range: 192.168.1.50-192.168.1.40\n"},
        [(f"{MAIN}:1: tokenlabs_loadbalancer_range ends before it begins", "192.168.1.40-192.168.1.50")],
    ),
    Case(
        "ranges that overlap",
        {MAIN: "tokenlabs_loadbalancer_range: 192.168.1.40-192.168.1.50,192.168.1.45-192.168.1.60\n"},
        [(f"{MAIN}:1: tokenlabs_loadbalancer_range names addresses twice", "overlap")],
    ),
    Case(
        "a gateway outside the range",
        {MAIN: GOOD[MAIN] + "tokenlabs_gateway: {address: 192.168.1.9}\n"},
        [(f"{MAIN}:2: tokenlabs_gateway.address is 192.168.1.9, outside tokenlabs_loadbalancer_range", "within")],
    ),
    Case(
        "a gateway's address that nobody has",
        {MAIN: "tokenlabs_gateway: {address: 192.168.1.9}\n"},
        [(f"{MAIN}:1: tokenlabs_gateway.address is 192.168.1.9, which is no host's", "choose a host's, set the range")],
    ),
    Case(
        "a gateway that would shut everybody out of the hosts",
        {MAIN: "tokenlabs_gateway: {http_port: 22}\n"},
        [(f"{MAIN}:1: tokenlabs_gateway.http_port is 22, which sshd has on the hosts", "choose another port")],
    ),
    Case(
        "a gateway in the place of the API server",
        {MAIN: "tokenlabs_gateway: {http_port: 16443}\n"},
        [
            (
                f"{MAIN}:1: tokenlabs_gateway.http_port is 16443, which the API server has on the hosts",
                "or set the range",
            )
        ],
    ),
    Case(
        "a range within the network of pods",
        {MAIN: "tokenlabs_loadbalancer_range: 10.1.0.200-10.1.0.210\n"},
        [(f"{MAIN}:1: tokenlabs_loadbalancer_range meets 10.1.0.0/16, which MicroK8s gives to pods", "hosts' network")],
    ),
    # HTTPS, web pages, placement
    Case(
        "HTTPS without a certificate",
        {MAIN: "tokenlabs_gateway: {https_port: 443, http: redirect}\n"},
        [
            (f"{MAIN}:1: tokenlabs_gateway.http has no effect without a certificate", "add tls"),
            (f"{MAIN}:1: tokenlabs_gateway.https_port has no effect without a certificate", "add tls"),
        ],
    ),
    Case(
        "two certificates",
        {MAIN: "tokenlabs_gateway: {tls: {secret: mine, self_signed: [a.example.com]}}\n"},
        [(f"{MAIN}:1: tokenlabs_gateway.tls has secret and self_signed", "either certificate and key")],
    ),
    Case(
        "no certificate at all",
        {MAIN: "tokenlabs_gateway: {tls: {}}\n"},
        [(f"{MAIN}:1: tokenlabs_gateway.tls says nothing of where the certificate comes from", "self_signed")],
    ),
    Case(
        "a certificate without its key",
        {MAIN: "tokenlabs_gateway: {tls: {certificate: tls.pem}}\n"},
        [(f"{MAIN}:1: tokenlabs_gateway.tls.certificate is set without its key", "add key")],
    ),
    Case(
        "a key without its certificate",
        {MAIN: "tokenlabs_gateway: {tls: {secret: mine, key: key.pem}}\n"},
        [(f"{MAIN}:1: tokenlabs_gateway.tls.key is set without a certificate", "add certificate")],
    ),
    Case(
        "one port for two",
        {MAIN: "tokenlabs_gateway: {https_port: 80, tls: {secret: mine}}\n"},
        [(f"{MAIN}:1: tokenlabs_gateway.https_port is 80, the port for HTTP", "another one")],
    ),
    Case(
        "a host name for the gateway",
        {MAIN: "tokenlabs_gateway: {hostname: api.example.com}\n"},
        [(f"{MAIN}:1: tokenlabs_gateway.hostname is not a setting that exists", "capitals would pass without a key")],
    ),
    Case(
        "every web page",
        {MAIN: "tokenlabs_gateway: {cors: {origins: ['*', 'https://chat.example.com/app']}}\n"},
        [
            (f"{MAIN}:1: tokenlabs_gateway.cors.origins[0] is '*', not of the right form", "without a path or a star"),
            (f"{MAIN}:1: tokenlabs_gateway.cors.origins[1] is 'https://chat.example.com/app'", "https://chat.example"),
        ],
    ),
    # a Redis of one's own
    *(
        Case(
            f"a Redis at {host}",
            {MAIN: f"tokenlabs_redis: {{host: '{host}'}}\ntokenlabs_redis_password: k7Qm2ZxPw9LsR4tB\n"},
            [(f"{MAIN}:1: tokenlabs_redis.host {reason}", remedy)],
        )
        for host, reason, remedy in (
            ("rediss://redis.example.com", "is an address with more than a host in it", "the host alone"),
            ("redis.example.com:6380", "has a port in it", "port: 6380"),
            ("localhost", "is localhost, which is another machine for each pod", "pods reach"),
            ("127.0.0.1", "is 127.0.0.1, which is another machine for each pod", "pods reach"),
            ("redis.redis-system.svc", "is the Redis that the platform runs itself", "leave tokenlabs_redis out"),
            ("my redis", "is 'my redis', not a name or IPv4 address", "redis.example.com"),
        )
    ),
    Case(
        "a Redis without a password",
        {MAIN: "tokenlabs_redis: {host: redis.example.com}\n"},
        [(f"{MAIN}:1: tokenlabs_redis is a Redis of your own, and there is no password", "could change what tenants")],
    ),
    Case(
        "limits that are neither",
        {MAIN: "tokenlabs_limits_unavailable: fail-open\n"},
        [(f"{MAIN}:1: tokenlabs_limits_unavailable cannot be 'fail-open'", "allow, deny")],
    ),
    # an identity provider
    Case(
        "an issuer without encryption",
        {MAIN: "tokenlabs_oidc: {issuer: http://id.example.com, tier_claim: tier, tenant_claim: tenant}\n"},
        [(f"{MAIN}:1: tokenlabs_oidc.issuer is not encrypted", "https://")],
    ),
    Case(
        "an issuer that is none",
        {MAIN: "tokenlabs_oidc: {issuer: id.example.com, tier_claim: tier, tenant_claim: tenant}\n"},
        [(f"{MAIN}:1: tokenlabs_oidc.issuer is 'id.example.com', not an issuer", "the iss of its tokens")],
    ),
    Case(
        "one claim for both",
        {MAIN: "tokenlabs_oidc: {issuer: https://id.example.com, tier_claim: group, tenant_claim: group}\n"},
        [(f"{MAIN}:1: tokenlabs_oidc.tenant_claim is the claim of the tier too", "two claims")],
    ),
    Case(
        "claims that say something else, or nothing",
        {MAIN: "tokenlabs_oidc: {issuer: https://id.example.com, tier_claim: aud, tenant_claim: a-b}\n"},
        [(f"{MAIN}:1: tokenlabs_oidc.tenant_claim is 'a-b', not of the right form", "letters, digits and _")],
    ),
    Case(
        "a claim that says something else",
        {MAIN: "tokenlabs_oidc: {issuer: https://id.example.com, tier_claim: aud, tenant_claim: tenant}\n"},
        [(f"{MAIN}:1: tokenlabs_oidc.tier_claim is aud, which says something else", "of your own")],
    ),
    Case(
        "an issuer without claims",
        {MAIN: "tokenlabs_oidc: {issuer: https://id.example.com}\n"},
        [
            (f"{MAIN}:1: tokenlabs_oidc.tenant_claim is missing", "add it"),
            (f"{MAIN}:1: tokenlabs_oidc.tier_claim is missing", "add it"),
        ],
    ),
    # mirrors
    Case(
        "a mirror with credentials",
        {MAIN: f"tokenlabs_mirrors: {{downloads: 'https://me:{SECRET}@mirror/d'}}\n"},
        [(f"{MAIN}:1: tokenlabs_mirrors.downloads contains a user name or password", "without")],
    ),
    Case(
        "a mirror of another scheme",
        {MAIN: "tokenlabs_mirrors: {charts: 'https://mirror:5000'}\n"},
        [(f"{MAIN}:1: tokenlabs_mirrors.charts must begin with oci://", "oci://mirror.example.com:5000")],
    ),
    Case(
        "a mirror with a slash at the end",
        {MAIN: "tokenlabs_mirrors: {pypi: 'http://mirror/simple/'}\n"},
        [(f"{MAIN}:1: tokenlabs_mirrors.pypi is 'http://mirror/simple/', not an address", "without a slash")],
    ),
    Case(
        "plain HTTP for no mirror",
        {MAIN: "tokenlabs_mirrors: {charts_plain_http: true}\n"},
        [(f"{MAIN}:1: tokenlabs_mirrors.charts_plain_http is set without a mirror", "add charts")],
    ),
    Case(
        "a checksum that is none",
        {MAIN: "tokenlabs_checksums: {helm: {amd64: abc}}\n"},
        [(f"{MAIN}:1: tokenlabs_checksums.helm.amd64 is 'abc', not of the right form", "64 hex")],
    ),
]


def test_the_good_inventory_is_good(tmp_path: Path) -> None:
    assert problems(write(tmp_path, {})) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_a_mistake_is_named(case: Case, tmp_path: Path) -> None:
    found = problems(write(tmp_path, case.files), dict(case.extra))
    for beginning, rest in case.lines:
        beginning = beginning.replace("INVENTORY", os.path.relpath(tmp_path))
        hits = [line for line in found if beginning in line[: len(beginning) + 40]]
        assert hits, f"nothing begins with {beginning!r} in\n" + "\n".join(found)
        assert any(rest in line for line in hits), "\n".join(hits)
    assert len(found) == len(case.lines), "\n".join(found)
    assert SECRET not in "\n".join(found)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    """One broken host, tenant or tier never hides another."""
    found = problems(
        write(
            tmp_path,
            {
                "hosts.yml": hosts("controller: {ansible_host: 192.168.1.12}"),
                SPARK: model(image='"{{ registry }}"', arg="1"),
                TIERS: tiers("requests: {1d: 0}, tokens: {1m: 1}"),
                TENANTS: tenants("{name: acme, tier: gold}", "{name: acme, tier: pro}", "{tier: pro}", "acme"),
                MAIN: "tokenlabs_prune: 1\ntokenlabs_relase: x\n",
            },
        )
    )
    assert len(found) == 11, "\n".join(found)
    assert [line.split(":")[0] for line in found] == sorted(line.split(":")[0] for line in found)


EXISTING = {
    "hosts.yml": "controllers: {hosts: {localhost: {ansible_connection: local}}}\n"
    "sparks: {hosts: {spark-01: {}, ip-10-0-0-7.compute.internal: {}}}\n",
    "host_vars/spark-02.yml": None,
}
ELSEWHERE = "tokenlabs_cluster: existing\ntokenlabs_kubeconfig: /root/.kube/config\n"


def test_a_cluster_of_somebody_else_needs_no_addresses(tmp_path: Path) -> None:
    gateway = "tokenlabs_gateway: {address: 10.9.9.9, http_port: 10250}\n"
    answer = load(write(tmp_path, {**EXISTING, MAIN: ELSEWHERE + gateway}))
    assert not answer.get("failed"), answer.get("msg")
    assert answer["catalog"]["cluster"] == "existing" and answer["catalog"]["controller"] == "localhost"
    assert answer["catalog"]["gateway"]["host_addresses"] == []
    assert "somebody else" in answer["summary"][0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tokenlabs_cluster: existing\n", "tokenlabs_kubeconfig is missing"),
        (ELSEWHERE + "tokenlabs_microk8s_channel: 1.34/stable\n", "tokenlabs_microk8s_channel is set, but"),
        (ELSEWHERE + "tokenlabs_loadbalancer_range: 10.0.0.1-10.0.0.9\n", "tokenlabs_loadbalancer_range is set, but"),
        (ELSEWHERE.replace("existing", "kind"), "tokenlabs_cluster cannot be 'kind'"),
    ],
)
def test_what_makes_no_sense_on_a_cluster_of_somebody_else(tmp_path: Path, text: str, told: str) -> None:
    found = problems(write(tmp_path, {**EXISTING, MAIN: text}))
    assert any(told in line for line in found), found


def test_the_same_inventory_without_it_is_refused(tmp_path: Path) -> None:
    found = problems(write(tmp_path, {**EXISTING}))
    assert any("localhost" in line for line in found) and len(found) >= 2


def test_a_choice_at_ones_own_risk_is_taken_with_a_warning(tmp_path: Path) -> None:
    """A pair that upstream rules out."""
    text = "tokenlabs_versions: {envoy_gateway: v1.5.0}\ntokenlabs_release_unsupported: true\n"
    answer = load(write(tmp_path, {MAIN: text}))
    assert not answer.get("failed"), answer.get("msg")
    warnings = [line for line in answer["summary"] if line.startswith("Warning: ")]
    assert any(
        "Envoy AI Gateway 0.5 needs Envoy Gateway 1.6" in line and "compatibility.md" in line for line in warnings
    )


def test_much_memory_is_remarked_on(tmp_path: Path) -> None:
    """More than 0.85 of it is allowed, and told."""

    def warnings(fraction: str) -> list[str]:
        summary = load(write(tmp_path, {SPARK: model(memory_fraction=fraction)}))["summary"]
        return [line for line in summary if line.startswith("Warning: host_vars")]

    (told,) = warnings("0.9")
    assert f"{SPARK}:1: tokenlabs_models takes 0.9 of the unified memory of spark-02, more than 0.85" in told
    assert warnings("0.85") == []


def test_a_gated_model_may_come_from_elsewhere(tmp_path: Path) -> None:
    changes = {SPARK: model(model="meta-llama/Llama-3.1-8B-Instruct", gated="false")}
    assert problems(write(tmp_path, changes)) == []
    changes = {SPARK: model(gated="true"), MAIN: GOOD[MAIN] + "tokenlabs_hf_token: hf_aB3dE5gH7jK9mN1pQ2\n"}
    assert problems(write(tmp_path, changes)) == []


def test_a_model_moves_by_its_state(tmp_path: Path) -> None:
    """What is absent on a host is as if it were not there, and may still be defined there."""
    here = GOOD["host_vars/spark-01.yml"]
    changes = {"host_vars/spark-01.yml": here + "    state: absent\n", SPARK: here}
    models = load(write(tmp_path, changes))["catalog"]["models"]
    assert [(each["name"], each["hosts"]) for each in models] == [("llama-8b", ["spark-02"])]


def test_good_labels_and_taints(tmp_path: Path) -> None:
    text = (
        "tokenlabs_node_labels: {rack: a1, example.com/Owner_1: '', node-role.kubernetes.io/worker: '',"
        " topology.kubernetes.io/zone: z, nvidia.com/gpu.deploy.dcgm: 'false'}\n"
        "tokenlabs_node_taints: [{key: a, effect: NoExecute}, {key: a, value: b, effect: NoSchedule}]\n"
    )
    assert problems(write(tmp_path, {SPARK: GOOD[SPARK] + text})) == []


def test_hosts_behind_one_address_have_ports_of_their_own(tmp_path: Path) -> None:
    """As with port forwarding, where ansible_host is the router's."""
    sparks = ", ".join(
        f"spark-0{n}: {{ansible_host: 203.0.113.1, ansible_port: 220{n}, tokenlabs_cluster_address: 192.168.1.1{n}}}"
        for n in (1, 2)
    )
    assert problems(write(tmp_path, {"hosts.yml": hosts(sparks=sparks)})) == []


def test_mirrors_are_known_by_their_ports(tmp_path: Path) -> None:
    text = GOOD[MAIN] + (
        "tokenlabs_mirrors: {charts: 'oci://a', charts_plain_http: true, downloads: 'http://b:81/d', pypi: 'https://c/s'}\n"
    )
    mirrors = load(write(tmp_path, {MAIN: text}))["catalog"]["mirrors"]
    assert [tuple(mirror.values()) for mirror in mirrors] == [
        ("charts", "a", 80),
        ("downloads", "b", 81),
        ("pypi", "c", 443),
    ]


def test_an_odd_number_of_controllers(tmp_path: Path) -> None:
    three = ", ".join(f"c{n}: {{ansible_host: 192.168.1.{n}}}" for n in range(1, 4))
    assert problems(write(tmp_path, {"hosts.yml": hosts(three)})) == []


def test_an_architecture_is_expected_of_sparks_only(tmp_path: Path) -> None:
    nodes = load(write(tmp_path, {SPARK: GOOD[SPARK] + "tokenlabs_arch: amd64\n"}))["catalog"]["nodes"]
    assert [node["arch"] for node in nodes.values()] == [None, "arm64", "amd64"]


def test_a_spark_may_be_the_controller_when_that_is_meant(tmp_path: Path) -> None:
    changes = {
        "hosts.yml": hosts("spark-01: {ansible_host: 192.168.1.11}"),
        "host_vars/spark-01.yml": GOOD["host_vars/spark-01.yml"] + "tokenlabs_controller_is_spark: true\n",
    }
    answer = load(write(tmp_path, changes))
    assert answer["catalog"]["nodes"]["spark-01"]["role"] == "controller"
    assert answer["catalog"]["nodes"]["spark-01"]["gpu"] is True


def test_values_may_come_from_other_variables(tmp_path: Path) -> None:
    changes = {
        SPARK: model(image='"{{ registry }}/llm-d:{{ tag }}"', gpus='"{{ 1 }}"') + "tag: v1\n",
        MAIN: 'registry: ghcr.io\ntokenlabs_release: "{{ wanted }}"\nwanted: "2026.07"\n',
    }
    catalog = load(write(tmp_path, changes))["catalog"]
    assert next(each for each in catalog["models"] if each["name"] == "qwen-7b")["image"] == "ghcr.io/llm-d:v1"
