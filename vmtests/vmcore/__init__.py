"""The dump of a guest: written sparse, read back by the memmap check, opened by drgn and crash."""

from vmtests.vmcore.about import About
from vmtests.vmcore.dump import Dump
from vmtests.vmcore.writer import Vmcore, how_to_open, write

__all__ = ["About", "Dump", "Vmcore", "how_to_open", "write"]
