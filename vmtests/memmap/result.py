"""What a memmap check found: the counts that go into the run record, and the few examples that a person reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmtests.errors import KernelFailure

#: How many wrong fields are kept one by one; the rest is in the histogram.
EXAMPLES = 20
#: Into how many equal parts a range is cut to say where in it a field is wrong.
PARTS = 64


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
class WrongField:
    """Where one field was wrong: how often, from which pfn to which, and how often in each part of the range.

    Struct pages that share the memory of another are counted where that one is. What lies outside the range is in no
    part.
    """

    field: str
    count: int
    first_pfn: int
    last_pfn: int
    parts: tuple[int, ...]

    def to_json(self) -> dict[str, int | str | list[int]]:
        return {**vars(self), "parts": list(self.parts)}


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
        wrong_fields: where each field of the histogram was wrong, the most frequent first.
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
    wrong_fields: tuple[WrongField, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, with whether it passed."""
        examples, wrong = ([one.to_json() for one in found] for found in (self.examples, self.wrong_fields))
        return {
            **vars(self),
            "histogram": dict(self.histogram),
            "examples": examples,
            "wrong_fields": wrong,
            "passed": self.passed,
        }

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
    """Counts while a check of the pfns in `whole` runs."""

    limit: int = EXAMPLES
    whole: range = range(0)
    mismatches: int = 0
    histogram: Counter[str] = field(default_factory=Counter)
    _examples: list[Example] = field(default_factory=list)
    _places: dict[str, _Places] = field(default_factory=dict)

    def add(
        self,
        name: str,
        count: int,
        examples: list[Example],
        pfns: NDArray[np.int64] | None = None,
        weights: NDArray[np.int64] | None = None,
    ) -> None:
        """Count `count` wrong fields called `name`, of which `examples` are the first.

        Args:
            name: the field's.
            count: how often it is wrong.
            examples: the first of them.
            pfns: where they are; where the examples are if None.
            weights: for how many struct pages each of the pfns stands; for one if None.
        """
        self.histogram[name] += count
        self._examples += examples[: self.limit]
        if len(self._examples) > 4 * self.limit:
            self._examples = self._sorted()
        where = np.array([example.pfn for example in examples], dtype=np.int64) if pfns is None else pfns
        if len(where):
            self._places.setdefault(name, _Places()).add(where, weights, self.whole)

    def examples(self) -> tuple[Example, ...]:
        return tuple(self._sorted())

    def wrong_fields(self) -> tuple[WrongField, ...]:
        """Return where each field was wrong, the most frequent first."""
        ordered = sorted(self._places.items(), key=lambda item: (-self.histogram[item[0]], item[0]))
        return tuple(
            WrongField(name, self.histogram[name], places.first, places.last, tuple(places.parts.tolist()))
            for name, places in ordered
        )

    def _sorted(self) -> list[Example]:
        return sorted(self._examples)[: self.limit]


@dataclass
class _Places:
    first: int = 1 << 62
    last: int = -1
    parts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PARTS, dtype=np.int64))

    def add(self, pfns: NDArray[np.int64], weights: NDArray[np.int64] | None, whole: range) -> None:
        self.first, self.last = min(self.first, int(pfns.min())), max(self.last, int(pfns.max()))
        inside = (pfns >= whole.start) & (pfns < whole.stop)
        part = (pfns[inside] - whole.start) * PARTS // max(len(whole), 1)
        counts = np.bincount(part, None if weights is None else weights[inside], PARTS)
        self.parts += counts.astype(np.int64)
