# SPDX-License-Identifier: GPL-3.0-or-later
"""The role image_build on this machine, with programs in place of docker and microk8s that note what they are told."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]

# Docker: knows what was built and pushed. MicroK8s: knows what was imported.
DOCKER = """\
#!/bin/sh
echo "docker $*" >>"$JOURNAL"
case "$1" in
  build) test -f Dockerfile || exit 1; echo "$3" >>"$STATE/built" ;;
  save) grep -qxF "$2" "$STATE/built" && echo "archive of $2" ;;
  login) echo "password $(cat)" >>"$JOURNAL" ;;
  push) echo "$2" >>"$STATE/pushed" ;;
  manifest) grep -qxF "$3" "$STATE/pushed" ;;
esac
"""
MICROK8S = """\
#!/bin/sh
echo "microk8s $*" >>"$JOURNAL"
case "$3" in
  ls) grep -xF "${5#name==}" "$STATE/imported" || true ;;
  import) read -r _archive _of image && echo "$image" >>"$STATE/imported" ;;
esac
"""
PLAYBOOK = """\
- hosts: localhost
  gather_facts: false
  roles:
    - role: tokenlabs.platform.image_build
"""


@dataclass
class Node:
    folder: Path

    def __post_init__(self) -> None:
        for name, text in (("docker", DOCKER), ("microk8s", MICROK8S)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        for name in ("built", "pushed", "imported", "journal"):
            (self.folder / name).touch()
        (self.folder / "context").mkdir()
        (self.folder / "context/Dockerfile").write_text("FROM scratch\n")
        (self.folder / "play.yml").write_text(PLAYBOOK)

    def build(self, image: str, *arguments: str, **changes: Any) -> dict[str, Any]:
        """A run for one image: how it ended, what was done, and what was told to the programs."""
        context, file = str(self.folder / "context"), "Dockerfile"
        wanted = {"name": "own", "image": image, "context": context, "dockerfile": file, "args": {}, "push": False}
        variables = {
            "image_build_images": [{**wanted, **changes}],
            "image_build_directory": str(self.folder / "node"),
            "image_build_server": "registry.example.com",
            "image_build_username": "me",
            "image_build_password": "canary-password",
            "__image_build_microk8s": str(self.folder / "microk8s"),
        }
        (self.folder / "journal").write_text("")
        done = subprocess.run(
            ["ansible-playbook", "-i", "localhost,", "-c", "local", self.folder / "play.yml", *arguments]
            + ["-vv", "-e", json.dumps(variables)],
            env={
                **os.environ,
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "JOURNAL": str(self.folder / "journal"),
                "STATE": str(self.folder),
                "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            },
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        journal = (self.folder / "journal").read_text().splitlines()
        return {"code": done.returncode, "text": done.stdout + done.stderr, "journal": journal}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_an_image_is_built_once_and_imported(node: Node) -> None:
    image = "tokenlabs.local/own:0123456789ab"
    rehearsed = node.build(image, "--check")
    assert rehearsed["code"] == 0, rehearsed["text"]
    assert "changed=0" not in rehearsed["text"]
    assert rehearsed["journal"] == [f"microk8s ctr image ls -q name=={image}"]
    first = node.build(image, args={"VERSION": "v1", "PLAIN": "a b"})
    assert first["code"] == 0, first["text"]
    assert first["journal"][1] == (
        f"docker build --tag {image} --file Dockerfile --build-arg=VERSION=v1 --build-arg=PLAIN=a b ."
    )
    assert first["journal"][2:] in (
        [f"docker save {image}", "microk8s ctr image import -"],
        ["microk8s ctr image import -", f"docker save {image}"],
    )
    assert (node.folder / "node/own/Dockerfile").exists()
    second = node.build(image)
    assert "changed=0" in second["text"] and second["journal"] == [f"microk8s ctr image ls -q name=={image}"]
    # Another content is another tag.
    assert "docker build" in " ".join(node.build(f"{image}c")["journal"])


def test_an_image_for_a_registry_is_pushed_there_and_the_password_is_told_to_nobody_else(node: Node) -> None:
    image = "registry.example.com/me/own:0123456789ab"
    first = node.build(image, push=True)
    assert first["code"] == 0, first["text"]
    told = [line.partition(" ")[2].partition(" ")[0] for line in first["journal"] if line.startswith("docker")]
    assert told == ["manifest", "build", "login", "push"]
    assert "password canary-password" in first["journal"]
    assert "canary" not in first["text"]
    assert not [line for line in first["journal"] if "canary" in line and line.startswith("docker")]
    second = node.build(image, push=True)
    assert "changed=0" in second["text"] and second["journal"] == [f"docker manifest inspect {image}"]


def test_a_build_that_fails_ends_the_run_of_this_node(node: Node) -> None:
    (node.folder / "context/Dockerfile").unlink()
    (node.folder / "context/other").write_text("x")
    failed = node.build("tokenlabs.local/own:0123456789ab")
    assert failed["code"] == 2 and "Build the image" in failed["text"]
    assert (node.folder / "imported").read_text() == ""
