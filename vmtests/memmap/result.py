"""What a memmap check found: the counts that go into the run record, and the few examples that a person reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vmtests.errors import KernelFailure

#: How many wrong fields are kept one by one; the rest is in the histogram.
EXAMPLES = 20


@dataclass(frozen=True, order=True)
class Example:
    """One wrong field of one struct page (or one wrong pageblock); numbers as hexadecimal strings."""

    pfn: int
    field: str
    got: str
    wanted: str

    def to_json(self) -> dict[str, int | str]:
        return {"pfn": self.pfn, "field": self.field, "got": self.got, "wanted": self.wanted}

    def __str__(self) -> str:
        return f"pfn {self.pfn:#x}: {self.field} is {self.got}, must be {self.wanted}"


@dataclass(frozen=True)
class MemmapResult:
    """The verdict on every struct page of one range after one bind.

    Args:
        pages_expected: struct pages that memmap_init_zone_device() had to initialise, by the probe.
        pages_checked: those whose every byte was compared, counted by the reader.
        reserve_expected, reserve_checked: the same for the altmap's own pages.
        bytes_per_page_checked: sizeof(struct page): padding is compared too.
        pageblocks_checked: pageblocks whose bits were compared.
        neighbours_checked: struct pages outside the range that were compared with what they held before.
        poisoned: the memory was overwritten before the bind.
        pages_poisoned: struct pages of pages_expected in memory that was overwritten.
        mismatches: wrong struct pages, pageblocks, and struct pages in a wrong frame; each once, however many of its
            fields are wrong.
        histogram: how often each field was wrong.
        examples: the first of them by pfn.
        seconds: the whole check.
        read_limit_seconds: merely reading and summing the same bytes in the same process.
    """

    pages_expected: int
    pages_checked: int
    reserve_expected: int
    reserve_checked: int
    bytes_per_page_checked: int
    pageblocks_checked: int
    neighbours_checked: int
    poisoned: bool
    pages_poisoned: int
    mismatches: int
    histogram: Mapping[str, int]
    examples: tuple[Example, ...]
    seconds: float
    read_limit_seconds: float

    @property
    def complete(self) -> bool:
        """Every struct page was seen."""
        return self.pages_checked == self.pages_expected and self.reserve_checked == self.reserve_expected

    @property
    def passed(self) -> bool:
        return self.complete and not self.mismatches

    def verify(self, what: str) -> None:
        """Raise a KernelFailure about the memmap of `what` unless every struct page was seen and right."""
        if self.passed:
            return
        said = []
        if not self.complete:
            said.append(
                f"only {self.pages_checked} of {self.pages_expected} struct pages and {self.reserve_checked} of "
                f"{self.reserve_expected} reserve pages could be seen"
            )
        if self.mismatches:
            said.append(f"{self.mismatches} wrong struct pages or pageblocks; wrong fields: {self.fields()}")
        shown = [str(example) for example in self.examples]
        more = sum(self.histogram.values()) - len(shown)
        if more > 0:
            shown.append(f"and {more} more")
        raise KernelFailure(f"the memmap is wrong ({what}): {'; '.join(said)}", output="\n".join(shown))

    def fields(self) -> str:
        """Return the histogram as a line: the most frequent fields first."""
        ordered = sorted(self.histogram.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{name} {count}" for name, count in ordered)


@dataclass
class Tally:
    """Counts while a check runs."""

    limit: int = EXAMPLES
    mismatches: int = 0
    histogram: Counter[str] = field(default_factory=Counter)
    _examples: list[Example] = field(default_factory=list)

    def add(self, name: str, count: int, examples: list[Example]) -> None:
        """Count `count` wrong fields called `name`, of which `examples` are the first."""
        self.histogram[name] += count
        self._examples += examples[: self.limit]
        if len(self._examples) > 4 * self.limit:
            self._examples = self._sorted()

    def examples(self) -> tuple[Example, ...]:
        return tuple(self._sorted())

    def _sorted(self) -> list[Example]:
        return sorted(self._examples)[: self.limit]
