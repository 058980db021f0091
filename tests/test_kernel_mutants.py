from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmtests import data
from vmtests.errors import HostFailure
from vmtests.kernel import mutants
from vmtests.pmem import KINDS

ROWS = mutants.table()

#: The rows of the specification that each wrong fast path belongs to.
SPECIFIED = {f"M{number:02}" for number in range(1, 33)}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mutants").mkdir()
    monkeypatch.setattr(data, "folder", lambda _: tmp_path)
    return tmp_path / "mutants/mutants.toml"


def test_every_specified_mistake_has_a_row() -> None:
    found = {re.sub(r"[a-z]?(-.*)?$", "", row.id) for row in ROWS}
    assert found >= SPECIFIED
    assert {"R1", "R2", "R3"} <= found


def test_the_patch_and_the_table_name_the_same() -> None:
    text = (mutants.folder() / "all.patch").read_text()
    listed = text[text.index("VMTESTS_MUTANTS(m)") : text.index("VMTESTS_NUMBER")]
    names = set(re.findall(r"\bm\((\w+)\)", listed)) - {"none"}
    wanted = {row.name for row in ROWS if row.checks and row.alone is None}
    assert names == wanted
    for name in names:
        assert re.search(rf"VMTESTS_{name}\b|vmtests_is\({name}\)", text), f"{name} is named, and does nothing"
    assert 'early_param("' + mutants.PARAMETER + '"' in text
    for said in (mutants.SAID, mutants.UNKNOWN):
        assert said.format(name="%s") in text


def test_rows_can_be_run() -> None:
    kinds = {kind.id for kind in KINDS}
    for row in ROWS:
        assert row.kind in kinds, row.id
        assert row.reason is None or not row.checks
        for says in row.checks.values():
            re.compile(says)
        if row.alone:
            assert mutants.recipe(row.alone).patches[-1].path.is_file()
    assert sum(row.quick for row in ROWS) == 5
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_recipes() -> None:
    series = mutants.recipe(None).patches
    assert mutants.recipe().patches[:-1] == series
    assert (mutants.recipe().name, mutants.recipe(over="hugetlb-memcg").name) == (
        "mutants-all",
        "mutants-all-hugetlb-memcg",
    )
    assert [path.name for path in mutants.recipe(None, over="kasan").fragments] == ["base.config", "kasan.config"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[M", "the table cannot be read"),
        ('[M1]\nwrong = "x"\nchek = ["F"]', "M1: no row has chek"),
        ('[M1]\nwrong = "x"', "either `reason` or `check`"),
        ('[M1]\nwrong = "x"\nreason = "y"\ncheck = ["F"]\nsays = "z"', "either `reason` or `check`"),
        ('[M1]\nwrong = "x"\ncheck = ["F", "D"]\nsays = { F = "z" }', "for each what it `says`"),
        ('[M1]\nwrong = "x"\ncheck = ["Z"]\nsays = "z"', "one letter of"),
        ('[M1]\nwrong = "x"\ncheck = ["F"]\nsays = "z"\nplace = "nowhere"', "a place one of alone"),
    ],
)
def test_bad_rows(table: Path, text: str, message: str) -> None:
    table.write_text(text)
    with pytest.raises(HostFailure, match=message):
        mutants.table()


def test_the_page_about_them_has_the_table() -> None:
    page = (Path(__file__).parent.parent / "docs/mutants.md").read_text()
    lines = [
        f"| {row.id} | {row.wrong} | {', '.join(row.checks) or row.reason} | {row.kind if row.checks else ''} |"
        for row in ROWS
    ]
    table = "\n".join(
        ["| | what is wrong | caught by, or why not | kind of namespace |", "| --- | --- | --- | --- |", *lines]
    )
    assert page.endswith(f"\n{table}\n"), f"docs/mutants.md must end with:\n{table}"
