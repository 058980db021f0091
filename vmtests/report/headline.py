"""What a report says in one or two sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmtests.record import ComparisonEntry, DifferenceEntry, MemmapEntry, Record
from vmtests.report import words
from vmtests.report.cells import cells


def headline(records: Sequence[Record]) -> str:
    """Return the sentences: what the patch did, and whether every struct page is right."""
    return " ".join([*_timing(records), _memmap(records)])


def title(records: Sequence[Record]) -> str:
    """Return what was compared, in a line."""
    judged = [one for record in records for cell in cells(record) for one in cell.comparisons]
    names = list(dict.fromkeys(one.patched for one in judged))
    if not names:
        ran = list(dict.fromkeys(check.kernel for record in records for check in record.entries(MemmapEntry)))
        ran += [name for record in records for cell in cells(record) for name in cell.kernels if name not in ran]
        return f"memmap_init_zone_device(): {_some(ran)}" if ran else "memmap_init_zone_device()"
    return f"memmap_init_zone_device(): {_some(names)} against {judged[0].base}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _timing(records: Sequence[Record]) -> Iterator[str]:
    for clock in ("icount", "wall"):
        for record in records:
            judged = [one for cell in cells(record) if cell.clock == clock for one in cell.found("rebind")]
            if judged and clock == "icount" and record.rig_trouble:
                yield "The rig is broken: no count of this run means anything."
            elif len(judged) == 1:
                yield sentence(judged[0])
            elif judged:
                what = "instruction counts" if clock == "icount" else "times"
                said = [words.verdict(one) for one in judged]
                yield (
                    f"{len(judged)} comparisons of {what}: "
                    + ", ".join(f"{said.count(word)} {word}" for word in dict.fromkeys(said))
                    + "."
                )
            if judged:
                break


def sentence(one: ComparisonEntry) -> str:
    """Return the verdict of one comparison of rebinds as a sentence; a count is not called time."""
    size = f"{abs(one.ratio - 1) * 100:.2f} %"
    pairs = words.count(one.pairs, "pair of boots")
    if one.clock == "icount":
        return {
            "faster": f"A rebind with {one.patched} executes {size} fewer instructions per page than with {one.base}.",
            "slower": f"A rebind with {one.patched} executes {size} more instructions per page than with {one.base}.",
            "same": f"A rebind executes the same number of instructions with {one.patched} as with {one.base}.",
        }.get(one.verdict, f"No verdict on instructions: boots of one kernel differ too much in {pairs}.")
    return {
        "faster": f"A rebind with {one.patched} takes {size} less time than with {one.base}.",
        "slower": f"A rebind with {one.patched} takes {size} more time than with {one.base}.",
        "same": f"A rebind with {one.patched} takes as long as with {one.base}.",
    }.get(one.verdict, f"No verdict on time: {pairs} cannot tell whether {one.patched} differs from {one.base}.")


def _memmap(records: Sequence[Record]) -> str:
    checks = [check for record in records for check in record.entries(MemmapEntry)]
    apart = sum(two.mismatches for record in records for two in record.entries(DifferenceEntry))
    wrong = sum(check.mismatches for check in checks)
    if not checks:
        return "No struct page was looked at."
    if wrong:
        kernels = _some(list(dict.fromkeys(check.kernel for check in checks if check.mismatches)))
        return f"The memmap is wrong: {wrong:,} mismatch{'' if wrong == 1 else 'es'}, with {kernels}."
    if any(check.pages_checked != check.pages_expected for check in checks):
        return "Not every struct page could be seen."
    if apart:
        return f"Every struct page is right by itself, but {words.count(apart, 'page')} differ between the kernels."
    return "Every struct page is right."
