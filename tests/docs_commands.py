# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command that README.md and docs/*.md show, and what the tests do with it: run it, or say why not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", REPO / "lab/README.md", *sorted((REPO / "docs").glob("*.md"))]
PROGRAMS = (
    "age",
    "ansible-playbook",
    "curl",
    "go",
    "helm",
    "helmfile",
    "journalctl",
    "kubectl",
    "lab/ctl",
    "make",
    "microk8s",
    "nvidia-smi",
    "openssl",
    "pip",
    "python3",
    "snap",
    "sudo",
    "systemctl",
)


@dataclass(frozen=True)
class Command:
    """A command as a page shows it."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


@dataclass(frozen=True)
class Use:
    """What is done with commands of a form: run, and ended with this code, or left alone for a reason."""

    form: str
    code: int = 0
    reason: str = ""


ON_A_HOST = "for a host; the lab's hosts answer it in tests/lab/test_hostsim_*"
DAMAGE = "destroys what the other tests need; "
USES = (
    # run on a finished lab
    Use(r"ansible-playbook -i inventories/mine playbooks/status\.yml( --tags html)?"),
    Use(r"ansible-playbook -i inventories/mine playbooks/upgrade\.yml --check"),
    Use(r"ansible-playbook -i inventories/mine playbooks/upgrade\.yml -e tokenlabs_microk8s_channel=1\.33/stable", 2),
    # Both say what they would do, and end with an error as long as nobody has confirmed it.
    Use(r"ansible-playbook -i inventories/mine playbooks/remove_node\.yml -e node=spark-02", 2),
    Use(r"ansible-playbook -i inventories/mine playbooks/teardown\.yml", 2),
    Use(r"ansible-playbook -i inventories/mine playbooks/tenants\.yml -e '\{tokenlabs_adopt: true\}' --check --diff"),
    Use(
        r"kubectl -n token-labs get hpa",
        reason="needs a model that comes and goes; tests/scenarios/test_default_zzz_autoscaling has one",
    ),
    Use(r"kubectl (-n \S+ )?(get|describe) .+"),
    Use(r"lab/ctl (--help|COMMAND --help|kubectl get .+|fault)"),
    # not run
    Use(
        r"ansible-playbook .*playbooks/site\.yml.*|ansible-playbook .* tokenlabs\.platform\.site",
        reason=("molecule/default runs it, from nothing and again; tests/scenarios/test_cluster_* with --limit"),
    ),
    Use(
        r"ansible-playbook .*playbooks/usage\.yml.*",
        reason=("needs a Prometheus that has counted; tests/scenarios/test_default_usage runs it with one"),
    ),
    Use(
        r"ansible-playbook .*playbooks/rotate_keys\.yml .*",
        reason=(
            "replaces keys of tenants that this inventory does not have; tests/integration/test_role_tenants runs it"
        ),
    ),
    Use(
        r"ansible-playbook .*playbooks/tenants\.yml -e ('\{tokenlabs_adopt: true\}'|tokenlabs_kubeconfig=.*)",
        reason=("needs tenants made by hand, or another login; tests/integration/test_tenants* have both"),
    ),
    Use(
        r"ansible-playbook .*playbooks/remove_node\.yml .* -e confirm=.*",
        reason=(DAMAGE + "tests/scenarios/test_cluster_remove runs it"),
    ),
    Use(
        r"ansible-playbook .*playbooks/teardown\.yml .*",
        reason=DAMAGE + "tests/scenarios/test_lifecycle_teardown runs it",
    ),
    Use(r"make .+|scripts/.+", reason="runs these tests, or what they run in; CI runs it"),
    Use(r"lab/ctl .+", reason="starts, enters or ends the lab that this runs in; tests/lab/test_core_* run it"),
    Use(r"pip .+|go clean .+", reason="changes the machine that the tests run on"),
    Use(r"(microk8s|snap|journalctl|systemctl|nvidia-smi|sudo) .+", reason=ON_A_HOST),
    Use(
        r"kubectl .*(port-forward|rollout restart|logs|apply).*|kubectl ARGS",
        reason=("needs containers, which the lab's pods are not, or restarts the gateway"),
    ),
    Use(
        r"helm -n monitoring uninstall .*",
        reason=DAMAGE + "tests/scenarios/test_lifecycle_teardown uninstalls releases",
    ),
    Use(r"age .+", reason="needs age and a key of its own; tests/integration/test_tenants_keys open what it closed"),
    Use(r"python3 -m .+", reason="is the command of a model's server"),
)


def commands() -> Iterator[Command]:
    """Lines with a prompt in blocks of the console, and commands in the text; a program's bare name is none."""
    for page in PAGES:
        text, name = page.read_text(), str(page.relative_to(REPO))
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^[$#] (.+)$", block, re.MULTILINE):
                # What it does is told beside it, after a # or a gap.
                yield Command(name, re.split(r"\s{2,}", line)[0].strip())
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`([^`]+)`", prose):
            words = span.split()
            if len(words) > 1 and (words[0] in PROGRAMS or words[0].startswith("scripts/")):
                yield Command(name, " ".join(words))


def use_of(command: Command) -> Use | None:
    return next((use for use in USES if re.fullmatch(use.form, command.text)), None)


def playbook_mentions() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every playbook that a page names with its folder, or with arguments."""
    for page in PAGES:
        for span in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
            words = span.split()
            with_arguments = len(words) > 1 and re.fullmatch(r"\w+\.yml", words[0])
            if with_arguments or (words and re.fullmatch(r"playbooks/\w+\.yml", words[0])):
                yield str(page.relative_to(REPO)), words
    for command in commands():
        for number, word in enumerate(command.words):
            if word.startswith("playbooks/"):
                yield command.page, command.words[number:]
