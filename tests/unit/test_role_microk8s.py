"""What the role microk8s renders, with Ansible's own templating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles/microk8s"
NODES = {
    name: {"name": name, "role": role, "address": address, "gpu": role == "worker"}
    for name, role, address in (
        ("controller-01", "controller", "10.0.0.1"),
        ("controller-02", "controller", "10.0.0.2"),
        ("spark-01", "worker", "10.0.0.3"),
    )
}
COREFILE = ".:53 {\n    errors\n    forward . 8.8.8.8 8.8.4.4\n    cache 30\n}\n"


def render(expression: str, host: str = "controller-01", **more: Any) -> Any:
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for name in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLE / name / "main.yml"), trusted_as_template=True)
    variables |= {"inventory_hostname": host, "microk8s_nodes": NODES, "microk8s_controller": "controller-01"}
    variables |= {"groups": {"controllers": ["controller-01", "controller-02"], "sparks": ["spark-01"]}}
    return Templar(loader=loader, variables=variables | more).template(trust_as_template(expression))


def launch(host: str, **more: Any) -> dict[str, Any]:
    text = (ROLE / "templates/launch.yaml.j2").read_text()
    return yaml.safe_load(render(text, host, **more))


def test_every_controller_has_its_own_names_in_its_certificate() -> None:
    for host, address in (("controller-01", "10.0.0.1"), ("controller-02", "10.0.0.2")):
        config = launch(host, ansible_host="203.0.113.7", microk8s_extra_sans=["api.example"])
        assert config["extraSANs"] == [host, address, "203.0.113.7", "api.example"]
        assert config["addons"] == [{"name": "dns"}]


def test_a_worker_enables_nothing() -> None:
    assert set(launch("spark-01")) == {"version", "extraKubeletArgs"}


def test_sources_and_environment_are_every_nodes() -> None:
    config = launch(
        "spark-01",
        microk8s_registry_mirrors={"docker.io": "http://mirror.example:5000"},
        microk8s_containerd_env={"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "10.0.0.0/8,.example"},
    )
    assert '[host."http://mirror.example:5000"]' in config["containerdRegistryConfigs"]["docker.io"]
    assert config["extraContainerdEnv"] == {
        "HTTPS_PROXY": "http://proxy.example:3128",
        "NO_PROXY": "10.0.0.0/8,.example",
    }


def test_name_servers_reach_the_addon_and_the_launch_configuration() -> None:
    servers = ["10.0.0.53", "1.1.1.1"]
    assert launch("controller-01", microk8s_dns_servers=servers)["addons"] == [
        {"name": "dns", "args": ["10.0.0.53,1.1.1.1"]}
    ]
    assert render("{{ __microk8s_addon_args.dns }}", microk8s_dns_servers=servers) == ":10.0.0.53,1.1.1.1"


@pytest.mark.parametrize(
    ("servers", "forward"),
    [
        pytest.param([], None, id="left to MicroK8s"),
        pytest.param(["8.8.8.8", "8.8.4.4"], None, id="as they are"),
        pytest.param(["10.0.0.53"], "    forward . 10.0.0.53", id="changed"),
    ],
)
def test_changed_name_servers_change_only_their_line(servers: list[str], forward: str | None) -> None:
    found = {"cluster": {"arguments": {"dns": {"corefile": COREFILE, "servers": ["8.8.8.8", "8.8.4.4"]}}}}
    definitions = render("{{ __microk8s_dns }}", microk8s_dns_servers=servers, __microk8s_objects=found)
    if forward is None:
        assert definitions == []
        return
    (config,) = definitions
    assert (config["kind"], config["metadata"]) == ("ConfigMap", {"name": "coredns", "namespace": "kube-system"})
    assert config["data"]["Corefile"] == COREFILE.replace("    forward . 8.8.8.8 8.8.4.4", forward)


def test_controllers_join_before_workers_in_the_order_of_the_inventory() -> None:
    actions = {"spark-01": "join", "controller-02": "replace", "controller-01": "none", "spark-02": "restart"}
    assert render("{{ __microk8s_joining_controllers }}", __microk8s_actions=actions) == ["controller-02"]
    assert render("{{ __microk8s_joining_workers }}", __microk8s_actions=actions) == ["spark-01", "spark-02"]
    # A controller that did not register again is looked into by people.
    assert render("{{ __microk8s_joining_controllers }}", __microk8s_actions={"controller-02": "restart"}) == []
