from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vmtests import command
from vmtests.errors import HostFailure
from vmtests.kernel.machinecode import MachineCode, stores_past_the_cache

#: A copying function as gcc makes it, with one static branch, at `guard`.
PROGRAM = """
    .text
    .globl memmap_init_zone_device
    .type memmap_init_zone_device, @function
memmap_init_zone_device:
    call copy
    call other
    ret
    .size memmap_init_zone_device, . - memmap_init_zone_device
    .type copy, @function
copy:
{before}
1:  movnti %rax, (%rcx)
{inside}
    dec %rdx
    jne 1b
{drain}
2:  ret
    .size copy, . - copy
    .type other, @function
other:
    ret
    .size other, . - other
    .type stranger, @function
stranger:
    movnti %rax, (%rcx)
    ret
    .size stranger, . - stranger
    .data
    .balign 16
    .globl __tracepoint_page_ref_set, __start___jump_table, __stop___jump_table
__tracepoint_page_ref_set: .quad 0, 0
__start___jump_table:
    .long guard - .
    .long {target} - .
    .quad __tracepoint_page_ref_set + 8 - .
__stop___jump_table:
    .quad 0
"""

#: As the compiler leaves a branch that is seldom taken: a no-op of two bytes.
GUARD = "guard: .byte 0x66, 0x90"

Build = Callable[..., MachineCode]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def build(before: str = GUARD, inside: str = "", drain: str = "sfence", target: str = "2b") -> MachineCode:
        source, program = tmp_path / "code.s", tmp_path / "vmlinux"
        source.write_text(PROGRAM.format(before=before, inside=inside, drain=drain, target=target))
        options = ("-nostdlib", "-static", "-Wl,--entry=memmap_init_zone_device")
        command.run([command.require("gcc"), *options, "-o", program, source], seconds=60)
        return MachineCode(program)

    return build


def test_drained(build: Build) -> None:
    code = build()
    assert code.reached() == ["memmap_init_zone_device", "copy", "other"]
    assert code.undrained() == []
    assert code.copies("page_ref_set", enabled=False)
    assert not code.copies("page_ref_set", enabled=True)
    assert stores_past_the_cache(code.vmlinux) == 2


@pytest.mark.parametrize(
    ("inside", "drain", "message"),
    [
        ("", "nop", r"copy+0xc: ret  comes before the drain"),
        ("", "call other\nsfence", "call"),
        ("", "jmp other", "jmp"),
        ("mov %rax, 8(%rcx)", "sfence", "mov %rax,0x8(%rcx)"),
        ("je 2f", "sfence", "ret"),
        # The static branch leaves the loop, once behind the drain and once before it.
        (GUARD, "sfence", "ret"),
    ],
)
def test_undrained(build: Build, inside: str, drain: str, message: str) -> None:
    [found] = build(before="" if inside == GUARD else GUARD, inside=inside, drain=drain).undrained()
    assert message in found


def test_a_static_branch_that_leads_to_the_drain(build: Build) -> None:
    assert build(before="", inside=GUARD, drain="3: sfence", target="3b").undrained() == []


def test_spills_to_the_stack_are_no_stores(build: Build) -> None:
    assert build(inside="mov %rax, 8(%rsp)").undrained() == []


def test_a_guard_compiled_as_a_jump(build: Build) -> None:
    code = build(before="guard: jmp 2f", target="2b")
    assert not code.copies("page_ref_set", enabled=False)
    assert code.copies("page_ref_set", enabled=True)


def test_an_inverted_guard(build: Build) -> None:
    code = build(before=GUARD + "\n jmp 2f", target="1b")
    assert not code.copies("page_ref_set", enabled=False)
    assert code.copies("page_ref_set", enabled=True)


def test_no_such_function(tmp_path: Path) -> None:
    source = tmp_path / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    command.run([command.require("gcc"), "-o", tmp_path / "vmlinux", source], seconds=60)
    with pytest.raises(HostFailure, match=r"vmlinux has no symbol memmap_init_zone_device"):
        MachineCode(tmp_path / "vmlinux").undrained()
