"""Types from BTF: data/btf-7.3.4-cloud.json is bpftool's JSON of Debian's kernel, cut to what these tests look at.

Pointers lead to void there, and struct zone has only its free_area.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import drgn
import pytest

from tests.fake_bzimage import vmlinux
from vmtests.errors import HostFailure
from vmtests.kernel import btf
from vmtests.memmap.btf import VARIABLES, add_types, add_variables
from vmtests.memmap.debuginfo import derive, pgmap_offsets
from vmtests.memmap.layout import Bits, Field, Role
from vmtests.memmap.program import load

RECORDS = json.loads((Path(__file__).parent / "data/btf-7.3.4-cloud.json").read_text())

#: What the .config of the same package says.
CONFIG = {
    "CONFIG_X86_64": "y",
    "CONFIG_NUMA": "y",
    "CONFIG_NODES_SHIFT": "10",
    "CONFIG_NR_CPUS": "8192",
    "CONFIG_NUMA_BALANCING": "y",
    "CONFIG_LRU_GEN": "y",
    "CONFIG_MEMCG": "y",
    "CONFIG_MM_ID": "y",
    "CONFIG_HUGETLB_PAGE": "y",
    "CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP": "y",
    "CONFIG_PAGE_BLOCK_MAX_ORDER": "10",
    "CONFIG_ILLEGAL_POINTER_VALUE": "0xdead000000000000",
    "CONFIG_ARCH_WANT_OPTIMIZE_DAX_VMEMMAP": "y",
}


def program_of(records: list[dict[str, Any]]) -> drgn.Program:
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    add_types(program, records)
    return program


@pytest.fixture(scope="module")
def program() -> drgn.Program:
    return program_of(RECORDS)


def test_the_layout_of_a_distribution_kernel(program: drgn.Program) -> None:
    """Everything that a check needs, as pahole and the source of 7.3.4 have it for this config."""
    layout = derive(program, CONFIG, "7.3.4+deb13-cloud-amd64")
    assert (layout.series, layout.size, layout.debug_vm) == ("7.3", 64, False)
    assert (layout.node, layout.zone, layout.last_cpupid) == (Bits(54, 10), Bits(51, 3), Bits(30, 21))
    assert (layout.zone_device, layout.reserved, layout.head) == (4, 13, 6)
    assert (layout.memory_types["FS_DAX"], layout.memory_types["GENERIC"]) == (3, 4)
    assert layout.compound_mask
    assert layout.fields[Role.PAGE][-1] == Field("memcg_data", 56, 8)
    assert layout.fields[Role.TAIL_1][-1] == Field("_nr_pages", 56, 4)
    assert layout.field(Role.TAIL_2, "_deferred_list.prev") == Field("_deferred_list.prev", 24, 8)
    blocks = layout.pageblocks
    assert (blocks.order, blocks.bits, blocks.migratetype_mask, blocks.movable) == (9, 8, 7, 1)
    assert pgmap_offsets(program) == {
        "base_pfn": 0,
        "reserve": 16,
        "free": 24,
        "type": 96,
        "flags": 100,
        "vmemmap_shift": 104,
    }


def test_types_by_their_names_in_c(program: drgn.Program) -> None:
    for name, size in {"unsigned long": 8, "int": 4, "_Bool": 1, "struct page *": 8, "struct mem_section": 16}.items():
        assert drgn.sizeof(program.type(name)) == size, name
    assert program.type("unsigned long [7]").length == 7
    with pytest.raises(LookupError):
        program.type("struct no_such")


def test_enumerators_are_constants(program: drgn.Program) -> None:
    """Of an enum without a name, too."""
    assert program["PG_head"].value_() == 6
    assert program["SECTION_IS_EARLY_BIT"].value_() == 3
    with pytest.raises(KeyError):
        program["PG_no_such"]


NUMBER: dict[str, Any] = {"id": 1, "kind": "INT", "name": "int", "size": 4, "encoding": "SIGNED"}


def member(name: str, type_id: int, bits: int, **more: int) -> dict[str, Any]:
    return {"name": name, "type_id": type_id, "bits_offset": bits, **more}


def test_members_are_read() -> None:
    """Bit fields, arrays, anonymous unions, qualifiers, enums and what points to itself."""
    structure = {
        "id": 2,
        "kind": "STRUCT",
        "name": "sample",
        "size": 32,
        "members": [
            member("low", 1, 0, bitfield_size=3),
            member("high", 1, 3, bitfield_size=5),
            member("pair", 3, 32),
            member("(anon)", 4, 96),
            member("next", 5, 128),
            member("state", 7, 192),
        ],
    }
    union = {"kind": "UNION", "name": "(anon)", "size": 4, "members": [member("one", 6, 0), member("other", 6, 0)]}
    values = [{"name": "OFF", "val": -1}, {"name": "ON", "val": 1}]
    program = program_of(
        [
            NUMBER,
            structure,
            {"id": 3, "kind": "ARRAY", "name": "(anon)", "type_id": 1, "index_type_id": 1, "nr_elems": 2},
            {"id": 4, **union},
            {"id": 5, "kind": "PTR", "name": "(anon)", "type_id": 2},
            {"id": 6, "kind": "VOLATILE", "name": "(anon)", "type_id": 1},
            {"id": 7, "kind": "ENUM", "name": "state", "size": 4, "encoding": "SIGNED", "values": values},
        ]
    )
    words = [0b01011_101, 7, -8, 9, 0, 0, -1, 0]
    data = b"".join(word.to_bytes(4, "little", signed=True) for word in words)
    found = drgn.Object.from_bytes_(program, "struct sample", data)
    assert (found.low.value_(), found.high.value_()) == (-3, 11)
    assert [item.value_() for item in found.pair] == [7, -8]
    assert (found.one.value_(), found.other.value_()) == (9, 9)
    assert found.next.type_.type.member("state").offset == 24
    assert found.state.value_() == program["OFF"].value_() == -1


def test_every_variable_has_a_type_in_c() -> None:
    """Their types can be parsed, and name types that a kernel has; those that are cut off here are stood in for."""
    have = {record["name"] for record in RECORDS}
    absent = ["cpumask", "mm_struct", "static_key_false", "pglist_data"]
    empty = [{"id": -i, "kind": "STRUCT", "name": name, "size": 8, "members": []} for i, name in enumerate(absent, 1)]
    mask = {"id": -9, "kind": "TYPEDEF", "name": "nodemask_t", "type_id": -1}
    program = program_of([*RECORDS, *(one for one in empty if one["name"] not in have), mask])
    for name, spelled in VARIABLES.items():
        assert program.type(spelled) is not None, name


def test_a_kernel_without_symbols(program: drgn.Program) -> None:
    with pytest.raises(HostFailure, match="CONFIG_KALLSYMS_ALL=y"):
        add_variables(program)


def test_another_build_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(vmlinux("ab" * 20))
    info: Mapping[str, str] = {"BUILD-ID": "cd" * 20}
    with pytest.raises(
        HostFailure, match=rf"build id {'ab' * 20}. is not of the kernel that runs .build id {'cd' * 20}"
    ):
        load(drgn.Program(), tmp_path / "vmlinux", info)


BPFTOOL = """
import json, sys
assert sys.argv[1:5] == ["-j", "btf", "dump", "file"], sys.argv
print(json.dumps({"types": [{"id": 1, "kind": "INT"}, {"id": 2, "kind": "FUNC"}]}))
"""


def test_types_are_read_by_bpftool_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        fetched = 0

        @classmethod
        def fetch(cls, name: str) -> Stub:
            assert name == "bpftool"
            cls.fetched += 1
            return cls()

        def argv(self, *arguments: str) -> list[str]:
            return [sys.executable, "-c", BPFTOOL, *arguments]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(btf, "Borrowed", Stub)
    (tmp_path / "vmlinux").write_bytes(vmlinux("ab" * 20))
    for _ in range(2):
        assert btf.records(tmp_path / "vmlinux") == [{"id": 1, "kind": "INT"}]
    assert Stub.fetched == 1
