"""The memmap of a ZONE_DEVICE range: what it must hold, and what it holds.

`truth` (what the kernel was called with), `layout` and `debuginfo` (how it lays out a struct page) go into `expected`,
which reads nothing. `access`, `pagetable`, `physical` and `sections` read the guest; `compare` and `check` judge,
and `flip` proves that they see every bit.
"""

from vmtests.memmap.debuginfo import pgmap_offsets
from vmtests.memmap.flip import Proof
from vmtests.memmap.oracle import Oracle
from vmtests.memmap.program import open_vmlinux
from vmtests.memmap.result import Example, MemmapResult
from vmtests.memmap.truth import RangeTruth

__all__ = ["Example", "MemmapResult", "Oracle", "Proof", "RangeTruth", "open_vmlinux", "pgmap_offsets"]
