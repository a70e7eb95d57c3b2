# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pages name exists, playbooks, tags, variables, targets and links; every command has its use in the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import docs_commands
from tests.docs_commands import PAGES, REPO

SOURCES = [path for folder in ("playbooks", "roles") for path in sorted((REPO / folder).rglob("*.yml"))]
TAGS = set(re.findall(r"[\w-]+", " ".join(re.findall(r"tags: \[([^\]]*)\]", "\n".join(map(Path.read_text, SOURCES))))))
TAGS |= {tag for path in SOURCES for tag in re.findall(r"tags:\n(?:\s+- ([\w-]+)\n)+", path.read_text())}
TAGS |= {tag for path in SOURCES for tag in re.findall(r"^\s+- (\w+)$", path.read_text(), re.MULTILINE)}
VARIABLES = "\n".join(path.read_text() for path in [*SOURCES, *sorted((REPO / "plugins").rglob("*.py"))])


def test_every_command_is_run_or_has_a_reason_why_not() -> None:
    found = list(docs_commands.commands())
    assert len(found) > 60
    assert [f"{each.page}: {each.text}" for each in found if docs_commands.use_of(each) is None] == []
    for each in found:
        use = docs_commands.use_of(each)
        if use and use.reason:
            print(f"not run: {each.text}: {use.reason}")


def test_every_use_is_one() -> None:
    found = list(docs_commands.commands())
    for use in docs_commands.USES:
        assert any(docs_commands.use_of(each) is use for each in found), f"no page shows {use.form}"


def test_a_command_that_nobody_knows_is_seen() -> None:
    assert docs_commands.use_of(docs_commands.Command("x", "ansible-playbook playbooks/nothing.yml")) is None
    assert docs_commands.use_of(docs_commands.Command("x", "kubectl delete namespace token-labs")) is None


def test_playbooks_tags_and_variables_exist() -> None:
    found = list(docs_commands.playbook_mentions())
    assert len(found) > 30
    for page, words in found:
        path = REPO / "playbooks" / words[0].removeprefix("playbooks/")
        assert path.exists(), f"{page}: {' '.join(words)}"
        for before, word in zip(words, words[1:], strict=False):
            if before == "--tags" and word.islower():
                assert set(word.split(",")) <= TAGS, f"{page}: {' '.join(words)}"
            if before == "-e" and "=" in word:
                name = word.partition("=")[0]
                assert re.search(rf"\b{name}\b", VARIABLES), f"{page}: nobody reads {name}"


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"`make ([a-z-]+)", page.read_text())}
    assert named and named <= targets


def anchor(heading: str) -> str:
    """As a forge makes it of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip()
    return re.sub(r"[^\w -]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted(REPO.glob("roles/*/README.md"))], ids=lambda page: str(page.relative_to(REPO))
)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _hash, name = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if name:
            assert name in anchors(file), target
