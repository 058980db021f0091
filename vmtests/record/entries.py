"""The entries of a run record, one frozen dataclass for each list of `run.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What all entries can do: become JSON and come back from it."""

    list_name: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values; tuples become lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the entry; fields that this version does not know stay in the record's document only."""
        known = {field.name for field in fields(cls)}
        return cls(
            **{name: tuple(item) if isinstance(item, list) else item for name, item in value.items() if name in known}
        )


@dataclass(frozen=True, kw_only=True)
class HostEntry(Entry):
    """The machine that ran the guests; the record's `host`."""

    list_name: ClassVar[str] = "host"
    accelerator: str
    accelerator_reason: str
    cpu_model: str
    missing_cpu_features: tuple[str, ...]
    qemu_version: str
    cpus: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class KernelEntry(Entry):
    """A kernel that ran; `patches` holds {name, sha256} each, `build_seconds` is None when it came from the cache."""

    list_name: ClassVar[str] = "kernels"
    name: str
    release: str
    config_sha256: str
    source: str
    compiler: str
    patches: tuple[dict[str, str], ...]
    build_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class PatchEntry(Entry):
    """A patch of a series, and whether the kernel with it and all before it builds.

    `number` counts from 1 to `total`. `kernel` is the name of that kernel. `outcome` is "builds",
    "does-not-build" or "does-not-apply"; `reason` says in a line why not.
    """

    list_name: ClassVar[str] = "series"
    kernel: str
    number: int
    total: int
    subject: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class GuestEntry(Entry):
    """One boot of a kernel. `boot` counts from 0 for each kernel."""

    list_name: ClassVar[str] = "guests"
    kernel: str
    boot: int
    restored: bool
    rig: str
    argv: tuple[str, ...]
    seconds_to_first_command: float


@dataclass(frozen=True, kw_only=True)
class NamespaceEntry(Entry):
    """A namespace as ndctl and sysfs reported it, not as it was asked for."""

    list_name: ClassVar[str] = "namespaces"
    id: str
    mode: str
    map: str
    align_bytes: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class BindEntry(Entry):
    """One call of memmap_init_zone_device().

    `index` 0 is the bind that making the namespace causes. `pages` is what the kernel says that it initialised.
    `duration_ns` counts instructions when `clock` is "icount". `tsc` is the difference of raw time stamp counters.
    The times of the sysfs writes are None where no write of ours caused the bind. `rig` is its guest's.
    """

    list_name: ClassVar[str] = "binds"
    kernel: str
    boot: int
    namespace: str
    index: int
    pages: int
    pr_debug_ms: int | None
    duration_ns: int
    tsc: int | None
    bind_write_ns: int | None
    unbind_write_ns: int | None
    clock: str
    poisoned: bool
    rig: str = "ssh"


@dataclass(frozen=True, kw_only=True)
class MemmapEntry(Entry):
    """The verdict on every struct page after one bind. `examples` holds {pfn, field, got, wanted} each.

    `pages_poisoned` counts the struct pages of pages_expected in memory that was overwritten before the bind.
    `not_checked` says what could not be looked at, because this kernel cannot be probed.
    The range is `start_pfn` to `end_pfn`, the altmap's pages first, and the bind initialises it from `first_pfn` on;
    None in records that did not keep them. `wrong_fields` holds {field, count, first_pfn, last_pfn, parts} each, where
    `parts` has how many of them lie in each of so many equal parts of the range.
    """

    list_name: ClassVar[str] = "memmaps"
    kernel: str
    boot: int
    namespace: str
    bind_index: int
    pages_expected: int
    pages_checked: int
    bytes_per_page_checked: int
    poisoned: bool
    mismatches: int
    seconds: float
    read_limit_seconds: float
    examples: tuple[dict[str, Any], ...]
    pages_poisoned: int = 0
    not_checked: tuple[str, ...] = ()
    start_pfn: int | None = None
    first_pfn: int | None = None
    end_pfn: int | None = None
    wrong_fields: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class FlipEntry(Entry):
    """Bits that the host flipped in a right memmap, all at once, and how many the check found.

    `pages` counts the struct pages that they were in, those that share memory too; `invented` what was reported of
    others, or after the bits were flipped back.
    """

    list_name: ClassVar[str] = "flips"
    kernel: str
    boot: int
    namespace: str
    flips: int
    found: int
    invented: int
    pages: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DifferenceEntry(Entry):
    """The memmaps of two kernels held against each other, pointers replaced by what they point at."""

    list_name: ClassVar[str] = "differences"
    base: str
    patched: str
    namespace: str
    pages_compared: int
    mismatches: int


@dataclass(frozen=True, kw_only=True)
class ComparisonEntry(Entry):
    """What the patch did to one metric. `ratio` is patched over base; None where there was nothing to measure it by.

    `ci_low` and `ci_high` bound the ratio at `confidence`. `noise_floor` is what two boots of one kernel differ by,
    `smallest_visible` the slowdown that this run could have seen, both as fractions. `sign_flip_p` is the exact test
    beside the interval. A pair is dropped when a boot died in it or left samples out. `emulated` marks time by the wall
    clock under TCG, which is not comparable with hardware.
    """

    list_name: ClassVar[str] = "comparisons"
    base: str
    patched: str
    namespace: str
    clock: str
    metric: str
    base_value: float
    patched_value: float
    unit: str
    ratio: float
    ci_low: float | None
    ci_high: float | None
    pairs: int
    noise_floor: float | None
    smallest_visible: float | None
    verdict: str
    confidence: float | None = None
    sign_flip_p: float | None = None
    dropped_pairs: int = 0
    emulated: bool = False


@dataclass(frozen=True, kw_only=True)
class EvidenceEntry(Entry):
    """A file beside the record; `path` is relative to it, `test` the failed test that it tells of, if it is one's."""

    list_name: ClassVar[str] = "evidence"
    kind: str
    path: str
    test: str | None = None
