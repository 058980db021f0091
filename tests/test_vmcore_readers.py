"""What crash prints is understood, and readers that do not agree are found out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vmtests.borrowed import Borrowed
from vmtests.errors import HostFailure
from vmtests.vmcore.crash import Crash, parse_memory, parse_struct
from vmtests.vmcore.dump import Dump
from vmtests.vmcore.elf import Core
from vmtests.vmcore.readers import Reading, agree

#: crash 9.0.2 of a tail page of Linux 7.3.4, some members left out.
STRUCT = """\
struct page {
  flags = {
    f = 0x300000000002000
  },
  {
    {
      {
        lru = {
          next = 0xffd4000004000001,
          prev = 0x0
        },
        pcp_llist = {
          next = 0xffd4000004000001
        }
      },
      mapping = 0xdead000000000400,
      {
        __folio_index = 0x0,
        share = 0x0
      },
      private = 0x0
    },
    {
      compound_info = 0xffd4000004000001
    },
    callback_head = {
      next = 0xffd4000004000001,
      func = 0xffffffff81000000 <_stext>
    }
  },
  {
    page_type = 0xffffffff,
    _mapcount = {
      counter = 0xffffffff
    }
  },
  _refcount = {
    counter = 0x0
  }
}
"""
MEMBERS = {
    "flags.f": 0x300000000002000,
    "lru.next": 0xFFD4000004000001,
    "lru.prev": 0,
    "pcp_llist.next": 0xFFD4000004000001,
    "mapping": 0xDEAD000000000400,
    "__folio_index": 0,
    "share": 0,
    "private": 0,
    "compound_info": 0xFFD4000004000001,
    "callback_head.next": 0xFFD4000004000001,
    "callback_head.func": 0xFFFFFFFF81000000,
    "page_type": 0xFFFFFFFF,
    "_mapcount.counter": 0xFFFFFFFF,
    "_refcount.counter": 0,
}
MEMORY = """\
ffd4000004400000:  0300000000002000 ff11000000e35ab8   . .......Z......
ffd4000004400010:  0000000000000001 0000000000000000   ................
"""


def test_the_members_of_a_structure() -> None:
    assert parse_struct(STRUCT) == MEMBERS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "struct: invalid kernel virtual address: 0x1234\n",
        STRUCT.replace("0xdead000000000400", "<error: Cannot access memory>"),
        STRUCT.rstrip("}\n"),
        STRUCT.replace("struct page {", "struct page {\n}"),
    ],
)
def test_what_is_no_structure(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a (structure|member)"):
        parse_struct(text)


def test_the_bytes_of_memory() -> None:
    data = parse_memory(MEMORY)
    assert data[:8] == (0x300000000002000).to_bytes(8, "little")
    assert data[8:16] == (0xFF11000000E35AB8).to_bytes(8, "little")
    assert (data[16], len(data)) == (1, 32)
    assert parse_memory("ffd4000004400000:  0300000000002000   . ......\n") == data[:8]
    with pytest.raises(ValueError, match="not memory"):
        parse_memory('rd: invalid kernel virtual address: 1234  type: "64-bit KVADDR"\n')


READING = Reading(bytes(64), {"flags.f": 5, "private": 0})


def test_readers_that_agree() -> None:
    found = agree({1: READING, 2: READING}, {1: READING, 2: READING}, "drgn")
    assert (found.pages, found.members, found.passed) == (2, 4, True)
    assert not agree({}, {}, "drgn").passed


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(READING, data=bytes(63) + b"\x01"), "pfn 0x2: the bytes are 0000"),
        (replace(READING, members={"flags.f": 7, "private": 0}), "pfn 0x2: flags.f is 0x5, crash says 0x7"),
        (replace(READING, members={"flags.f": 5}), "pfn 0x2: private is 0x0, crash says absent"),
        (replace(READING, members={**READING.members, "x": 1}), "pfn 0x2: x is absent, crash says 0x1"),
    ],
)
def test_readers_that_do_not(other: Reading, said: str) -> None:
    found = agree({1: READING, 2: READING}, {1: READING, 2: other}, "crash")
    assert not found.passed
    assert len(found.differences) == 1
    assert found.differences[0].startswith(said)


def test_a_reader_that_saw_less() -> None:
    found = agree({1: READING, 2: READING}, {1: READING}, "crash")
    assert (found.pages, found.differences) == (1, ("crash read 1 struct pages, not the same 2",))


#: Stands for the loader: prints what the script asks to be echoed, and for each command its own words.
ECHO = r"""
while [ "$1" != -i ]; do shift; done
echo "WARNING: something"
while read -r word rest; do
    case "$word" in
    gdb) printf "${rest#echo }" ;;
    die) exit 7 ;;
    quit) exit 0 ;;
    *) echo "$word: $rest"; [ "$word" = pwd ] && echo "$HOME $PWD" ;;
    esac
done < "$2"
"""


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def crash(tmp_path: Path) -> Crash:
    program(tmp_path / "crash/usr/lib64", "ld-linux-x86-64.so.2", ECHO)
    program(tmp_path / "crash/usr/bin", "crash", "exit 1")
    return Crash(Borrowed("crash", tmp_path / "crash", "9.0.2"))


DUMP = Dump(Path("vmcore"), Core((), ()), Path("vmlinux"))


def test_each_command_gets_what_it_printed(crash: Crash) -> None:
    assert crash.run(DUMP, ["sys", "struct page 0 -x"]) == ["sys: \n", "struct: page 0 -x\n"]
    home, folder = crash.run(DUMP, ["pwd"])[0].splitlines()[1].split()
    assert (home, folder) == ("/nonexistent", "/"), "the user's own .crashrc would be read"


def test_a_crash_that_ends_early(crash: Crash) -> None:
    with pytest.raises(HostFailure, match="crash 9.0.2 ended in `die now`") as failure:
        crash.run(DUMP, ["sys", "die now", "sys"])
    assert failure.value.status == 7


def test_a_crash_that_does_not_open_the_dump(crash: Crash) -> None:
    program(
        crash.program.folder / "usr/lib64",
        "ld-linux-x86-64.so.2",
        "echo 'crash: vmlinux and vmcore do not match!'; exit 1",
    )
    with pytest.raises(HostFailure, match="crash 9.0.2 does not open vmcore") as failure:
        crash.run(DUMP, ["sys"])
    assert "do not match" in failure.value.output


def test_a_crash_without_its_loader(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="has no crash with its loader"):
        Crash(Borrowed("crash", tmp_path, "9.0.2")).argv(DUMP)


def test_no_command_smuggles_in_another(crash: Crash) -> None:
    with pytest.raises(ValueError, match="several lines"):
        crash.run(DUMP, ["sys\n!rm -rf /"])
