"""What the compiler made of the fast path: its stores past the cache, their drains, and when it is taken.

No reader of the memmap sees a drain that is missing, TCG least of all. So the machine code is read, by objdump, with
the kernel's static branches (__jump_table, arch/x86/include/asm/jump_label.h in 7.3.4) followed both ways.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vmtests.command import require, run
from vmtests.errors import HostFailure

#: Where the search for stores past the cache begins, and through how many calls it goes.
ROOT = "memmap_init_zone_device"
DEPTH = 3

#: Nobody looks for a copy of struct pages in there.
_ELSEWHERE = re.compile(r"printk|pr_debug|__fentry__|__cond_resched|schedule|^_*warn")

_PAST_THE_CACHE = re.compile(r"v?mov(nti|ntdq|ntps|ntpd)\b")
_DRAINS = ("sfence", "mfence")

_LINE = re.compile(r"^\s*([0-9a-f]+):\t(?:(?:lock|rep\w*|notrack|bnd|data16|cs|ds)\s+)*(\S+)\s*(.*?)\s*$")
_TARGET = re.compile(r"^([0-9a-f]+) <([^+>]+)(?:\+0x[0-9a-f]+)?>")
_DUMP = re.compile(r"^ ([0-9a-f]+) ((?:[0-9a-f]+ )+)", re.MULTILINE)

#: struct tracepoint begins with its name, then the key (include/linux/tracepoint-defs.h).
_TRACEPOINT_BYTES = 32


@dataclass(frozen=True)
class Instruction:
    """One instruction; `target` is the address that a jump or call names, `symbol` the function there.

    `follows` is the address behind it, 0 at the end of what was read.
    """

    address: int
    follows: int
    name: str
    operands: str
    target: int | None
    symbol: str | None

    @property
    def past_the_cache(self) -> bool:
        """Whether it is a store that bypasses the cache."""
        return _PAST_THE_CACHE.match(self.name) is not None

    @property
    def stores(self) -> bool:
        """Whether it is an ordinary store to memory that is not the stack's."""
        last = self.operands.rpartition(" ")[2]
        return self.name.startswith("mov") and last.endswith(")") and "%rsp" not in last.rpartition("(")[2]


@dataclass(frozen=True)
class Branch:
    """A static branch: the place that the kernel patches, where it then jumps to, and the address of its key."""

    target: int
    key: int


@dataclass(frozen=True)
class MachineCode:
    """The code of one kernel, read function by function.

    Args:
        vmlinux: with symbols.
    """

    vmlinux: Path
    _functions: dict[str, dict[int, Instruction]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def symbols(self) -> Mapping[str, tuple[int, int]]:
        """Address and size of each symbol."""
        listed = run([require("nm", package="binutils"), "--print-size", self.vmlinux], seconds=60).stdout
        found = {}
        for line in listed.splitlines():
            words = line.split()
            if len(words) in (3, 4):
                found[words[-1]] = (int(words[0], 16), int(words[1], 16) if len(words) == 4 else 0)
        return found

    @cached_property
    def branches(self) -> Mapping[int, Branch]:
        """The static branches by their address."""
        (first, _), (end, _) = (self._symbol(f"__{side}___jump_table") for side in ("start", "stop"))
        dumped = self._objdump("--full-contents", first, end)
        data = b"".join(bytes.fromhex(words.replace(" ", "")) for _, words in _DUMP.findall(dumped))
        found = {}
        for index, (code, target, key) in enumerate(struct.iter_unpack("<iiq", data[: (end - first) & ~15])):
            at = first + 16 * index
            # Each is relative to its own place; the key's low bits say more of the branch.
            found[at + code] = Branch(at + 4 + target, (at + 8 + key) & ~3)
        return found

    def function(self, name: str) -> Mapping[int, Instruction]:
        """Return the instructions of a function by address; HostFailure if there is no such function."""
        if name not in self._functions:
            start, size = self._symbol(name)
            text = self._objdump("--disassemble", start, start + size, "--no-show-raw-insn")
            self._functions[name] = {one.address: one for one in _instructions(text)}
        return self._functions[name]

    def reached(self) -> list[str]:
        """Return the functions that ROOT gets to through DEPTH calls, itself first."""
        names = {ROOT: 0}
        for name in (queue := [ROOT]):
            for one in self.function(name).values():
                callee = one.symbol
                if one.name not in ("call", "jmp") or callee is None or callee in names or _ELSEWHERE.search(callee):
                    continue
                if names[name] < DEPTH and self.symbols.get(callee, (0, 0))[1]:
                    names[callee] = names[name] + 1
                    queue.append(callee)
        return queue

    def undrained(self) -> list[str]:
        """Return where stores past the cache are still on their way although others follow, or the function ends.

        Each function must have drained its own when it stores ordinarily, calls another one, or returns.
        """
        return [text for name in self.reached() for text in self._undrained(name)]

    def _undrained(self, name: str) -> Iterator[str]:
        code = self.function(name)
        if not any(one.past_the_cache for one in code.values()):
            return
        begin = next(iter(code))
        seen: set[tuple[int, bool]] = set()
        todo = [(begin, False)]
        said = set()
        while todo:
            state = todo.pop()
            if state in seen:
                continue
            seen.add(state)
            address, dirty = state
            one = code[address]
            leaves = one.name.startswith("ret") or (one.name == "jmp" and one.target not in code)
            if dirty and (leaves or one.name == "call" or (one.stores and not one.past_the_cache)):
                if address not in said:
                    said.add(address)
                    yield f"{name}+{address - begin:#x}: {one.name} {one.operands} comes before the drain"
                continue
            if one.name in _DRAINS:
                dirty = False
            todo += [(after, dirty or one.past_the_cache) for after in self._after(code, one)]

    def copies(self, tracepoint: str, *, enabled: bool) -> bool:
        """Tell whether ROOT can get to a store past the cache while a tracepoint is enabled, or while it is not."""
        start, _ = self._symbol(f"__tracepoint_{tracepoint}")
        key = range(start, start + _TRACEPOINT_BYTES)
        known = set(self.reached())
        entered, todo = {ROOT}, [ROOT]
        while todo:
            code = self.function(todo.pop())
            seen: set[int] = set()
            addresses = [next(iter(code))]
            while addresses:
                address = addresses.pop()
                if address in seen:
                    continue
                seen.add(address)
                one = code[address]
                if one.past_the_cache:
                    return True
                if one.symbol in known and one.symbol not in entered and one.name in ("call", "jmp"):
                    entered.add(one.symbol)
                    todo.append(one.symbol)
                branch = self.branches.get(address)
                if branch is None or branch.key not in key:
                    addresses += self._after(code, one)
                elif enabled:
                    addresses += [at for at in [_patched(one, branch)] if at in code]
                else:  # as it was compiled
                    addresses += self._plain(code, one)
        return False

    def _after(self, code: Mapping[int, Instruction], one: Instruction) -> list[int]:
        """Return what can come next in this function, a static branch both ways."""
        branch = self.branches.get(one.address)
        after = self._plain(code, one)
        return after if branch is None else [*after, *(at for at in [_patched(one, branch)] if at in code)]

    def _plain(self, code: Mapping[int, Instruction], one: Instruction) -> list[int]:
        """Return what can come next in this function with the static branches as they were compiled."""
        if one.name.startswith("ret") or one.name in ("ud2", "hlt", "int3"):
            return []
        if one.name == "jmp":
            if one.target is None:
                raise HostFailure(f"{self.vmlinux}: a jump by register at {one.address:#x} cannot be followed")
            return [one.target] if one.target in code else []
        jumps = [one.target] if one.name.startswith("j") and one.target is not None else []
        return [at for at in (one.follows, *jumps) if at in code]

    def _symbol(self, name: str) -> tuple[int, int]:
        if name not in self.symbols:
            raise HostFailure(f"{self.vmlinux} has no symbol {name}")
        return self.symbols[name]

    def _objdump(self, what: str, start: int, end: int, *options: str) -> str:
        words = [what, *options, f"--start-address={start:#x}", f"--stop-address={end:#x}"]
        return run([require("objdump", package="binutils"), *words, self.vmlinux], seconds=120).stdout


def stores_past_the_cache(object_file: Path) -> int:
    """Return how many stores past the cache the code of an object file or a kernel has."""
    objdump = require("objdump", package="binutils")
    text = run([objdump, "--disassemble", "--no-show-raw-insn", object_file], seconds=600).stdout
    return sum(one.past_the_cache for one in _instructions(text))


def _patched(one: Instruction, branch: Branch) -> int:
    """Return where a static branch leads once the kernel has patched it: a no-op jumps then, a jump does no more."""
    return one.follows if one.name == "jmp" else branch.target


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [found for line in text.splitlines() if (found := _LINE.match(line))]
    for found, behind in itertools.zip_longest(lines, lines[1:]):
        if found is not None:
            operands = found[3].partition("#")[0].strip()
            target = _TARGET.match(operands)
            yield Instruction(
                address=int(found[1], 16),
                follows=int(behind[1], 16) if behind else 0,
                name=found[2],
                operands=operands,
                target=int(target[1], 16) if target else None,
                symbol=target[2] if target else None,
            )
