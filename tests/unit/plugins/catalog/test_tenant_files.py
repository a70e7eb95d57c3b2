# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants in files: what is written in them, and every mistake with its line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.tokenlabs.platform.plugins.lookup import inventory_tenants
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import desired, moment
from ansible_collections.tokenlabs.platform.plugins.plugin_utils._tenant_files import read_tenants

from tests.unit.plugins.catalog.inventories import load, problems, write

YAML = """\
- {name: umbrella, tier: free}
- name: wayne
  tier: pro
  expires: 2027-06-30
  rotate: 2
  contact: fox@wayne.example
  metadata: {customer-number: "4713"}
  keys: [{name: default}, {name: ci}]
"""
JSONL = """\
{"name": "umbrella", "tier": "free"}

{"name": "wayne", "tier": "pro", "expires": "2027-06-30", "rotate": 2, "contact": "fox@wayne.example", \
"metadata": {"customer-number": "4713"}, "keys": [{"name": "default"}, {"name": "ci"}]}
"""
CSV = """\
name,tier,expires,rotate,contact,metadata.customer-number,keys
umbrella,free
"wayne",pro,2027-06-30,2,fox@wayne.example,4713,default ci
"""


def variable(*names: str) -> dict[str, str | None]:
    return {"group_vars/all/more.yml": f"tokenlabs_tenants_files: {json.dumps(names)}\n"}


def found(directory: Path, name: str, text: str) -> tuple[list[Any], list[int], list[str]]:
    (directory / name).write_text(text)
    file, wrong = read_tenants(directory / name, name, lambda path: Path(path).read_text(encoding="utf-8"))
    return list(file.entries), list(file.lines), [str(problem) for problem in wrong]


@pytest.mark.parametrize(
    ("name", "text", "lines"), [("a.yml", YAML, [1, 2]), ("a.jsonl", JSONL, [1, 3]), ("a.csv", CSV, [2, 3])]
)
def test_three_forms_say_the_same(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    entries, at, wrong = found(tmp_path, name, text)
    assert (at, wrong) == (lines, [])
    assert entries[0] == {"name": "umbrella", "tier": "free"}
    assert {**entries[1], "expires": str(entries[1]["expires"]), "rotate": int(entries[1]["rotate"])} == {
        "name": "wayne",
        "tier": "pro",
        "expires": "2027-06-30",
        "rotate": 2,
        "contact": "fox@wayne.example",
        "metadata": {"customer-number": "4713"},
        "keys": [{"name": "default"}, {"name": "ci"}],
    }
    # And so it goes through the catalog.
    write(tmp_path, {**variable(name), name: text})
    answer = load(tmp_path)
    assert not answer.get("failed"), answer
    assert "Tenants: 4, 1 suspended" in answer["summary"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.yml", "- name: a\n  tier: free\n- name: b\n tier: pro\n", "a.yml:4: is not YAML: "),
        ("a.yml", "name: a\n", "a.yml:1: holds no list of tenants; begin every tenant with a dash"),
        ("a.yml", "", "a.yml:1: holds no list of tenants"),
        ("a.yml", "- {name: a, tier: free}\n- {name: b, tier: free, tier: pro}\n", "a.yml:2: has tier twice; remove"),
        ("a.yml", "- {name: a, tier: free, expires: 2027-02-30}\n", "a.yml: is not YAML: day is out of range"),
        ("a.yml", "- !!python/object:os.system {}\n", "a.yml:1: is not YAML: could not determine a constructor"),
        ("a.jsonl", '{"name": "a", "tier": "free"}\n{"name": "b"\n', "a.jsonl:2: is not JSON: "),
        ("a.csv", "name;tier\na;free\n", "a.csv:1: has other separators than commas; save it with commas"),
        ("a.csv", "name,teir\na,free\n", "a.csv:1: has a column 'teir', which does not exist; did you mean tier?"),
        ("a.csv", "name,metadata.\na,x\n", "a.csv:1: has a column 'metadata.', which does not exist"),
        ("a.csv", "tier\nfree\n", "a.csv:1: has no column name; begin with a line such as name,tier,state"),
        ("a.csv", "", "a.csv:1: has no column name"),
        ("a.csv", "name,tier,name\n", "a.csv:1: has two columns name; remove one"),
        ("a.csv", "name,tier\na,free\nb,pro,x\n", "a.csv:3: has 3 fields, the first line names 2; put a text"),
        ("a.csv", 'name,tier\na,"free\n', "a.csv:2: is not CSV: unexpected end of data"),
        ("a.txt", "a", "a.txt: is no file of tenants; give it one of the endings .yml, .yaml, .csv, .jsonl"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, text: str, problem: str) -> None:
    _entries, _lines, wrong = found(tmp_path, name, text)
    assert len(wrong) == 1 and wrong[0].startswith(problem)


def test_a_file_of_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffname,tier\r\na,free\r\n,\r\n".encode())
    file, wrong = read_tenants(tmp_path / "a.csv", "a.csv", lambda path: Path(path).read_text(encoding="utf-8"))
    assert (list(file.entries), wrong) == ([{"name": "a", "tier": "free"}], [])


def test_all_mistakes_of_all_files_at_once(tmp_path: Path) -> None:
    files = {
        "group_vars/all/a.csv": "name,tier,rotate\nacme,pro,\nBad,pro,\nc,gold,x\n",
        "group_vars/all/b.jsonl": '{"name": "c", "tier": "free"}\n{"name": "d"}\nnonsense\n',
        "lists/c.yml": "- {name: e, tier: free}\n- {name: d, tier: pro, kyes: []}\n- f\n",
    }
    write(tmp_path, {**variable(*files, "d.csv"), **files})
    wrong = problems(tmp_path)
    for expected in (
        "group_vars/all/a.csv:2: [0].name 'acme' is the name of tokenlabs_tenants[0] too; give every tenant",
        "group_vars/all/a.csv:3: [1].name is 'Bad', not of the right form",
        "group_vars/all/a.csv:4: [2].tier is 'gold', which is no tier; known are free, pro",
        "group_vars/all/a.csv:4: [2].rotate is 'x', which is no generation, date or time",
        "group_vars/all/b.jsonl:1: [0].name 'c' is the name of [2] in group_vars/all/a.csv too",
        "group_vars/all/b.jsonl:2: [1].tier is missing; add it",
        "group_vars/all/b.jsonl:3: is not JSON",
        "lists/c.yml:2: [1].name 'd' is the name of [1] in group_vars/all/b.jsonl too",
        "lists/c.yml:2: [1].kyes is not a key that exists; did you mean keys?",
        "lists/c.yml:3: [2] must be a mapping",
        "group_vars/all/more.yml:1: tokenlabs_tenants_files[3] names d.csv, which is no file; create it",
    ):
        assert [line for line in wrong if line.startswith(expected)], (expected, wrong)
    assert len(wrong) == 11


def lookup(variables: dict[str, Any]) -> inventory_tenants.LookupModule:
    """As Ansible's loader makes it."""
    name = "tokenlabs.platform.inventory_tenants"
    options = yaml.safe_load(inventory_tenants.DOCUMENTATION)["options"]
    constants.config.initialize_plugin_configuration_definitions("lookup", name, options)
    loader = DataLoader()
    plugin = inventory_tenants.LookupModule(loader=loader, templar=Templar(loader=loader, variables=variables))
    plugin._load_name = name
    return plugin


def test_the_lookup_reads_them_all(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": CSV, "b.jsonl": '{"name": "c", "tier": "free"}\n'})
    variables = {
        "tokenlabs_tenants": [{"name": "acme", "tier": "pro"}],
        "tokenlabs_tenants_files": ["a.csv", "b.jsonl"],
        "inventory_dir": str(tmp_path),
    }
    plugin = lookup(variables)
    everybody = plugin.run([], variables)
    assert [tenant["name"] for tenant in everybody] == ["acme", "umbrella", "wayne", "c"]
    assert [tenant["name"] for tenant in plugin.run(["c", "acme"], variables)] == ["acme", "c"]
    with pytest.raises(AnsibleLookupError, match="has no such tenants: d, e$"):
        plugin.run(["acme", "d", "e"], variables)
    assert [json.loads(text) for text in plugin.run([], variables, json=True)] == [everybody]
    assert plugin.run([], {"inventory_dir": str(tmp_path)}, json=False) == []


def test_a_date_in_a_file_of_yaml_is_handed_over_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, {"a.yml": "- {name: a, tier: free, expires: 2027-06-30, rotate: 2027-01-31T18:00:00Z}\n"})
    variables = {"tokenlabs_tenants_files": ["a.yml"], "inventory_dir": str(tmp_path)}
    plugin = lookup(variables)
    [text] = plugin.run([], variables, json=True)
    [tenant] = desired(json.loads(text), ["free"])
    assert (tenant.expires, tenant.rotate) == (moment("2027-06-30"), moment("2027-01-31T18:00Z"))


@pytest.mark.parametrize("ending", ["yml", "jsonl", "csv"])
def test_ten_thousand_are_read_in_seconds(tmp_path: Path, ending: str) -> None:
    lines = {
        "yml": "".join(f"- {{name: t{number}, tier: free, contact: a@b.example}}\n" for number in range(10_000)),
        "jsonl": "".join(json.dumps({"name": f"t{number}", "tier": "free"}) + "\n" for number in range(10_000)),
        "csv": "name,tier,contact\n" + "".join(f"t{number},free,a@b.example\n" for number in range(10_000)),
    }
    start = time.process_time()
    entries, at, wrong = found(tmp_path, f"a.{ending}", lines[ending])
    assert len(entries) == len(at) == 10_000 and wrong == []
    assert time.process_time() - start < 3
