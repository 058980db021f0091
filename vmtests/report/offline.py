"""What `vmtests compare` and `vmtests history` print."""

from __future__ import annotations

from collections.abc import Iterable

from vmtests.record import ComparisonEntry
from vmtests.report import statement, words
from vmtests.timing.compare import Comparison, Reproduction
from vmtests.timing.history import Added, Checked, Shown


def comparison(found: Comparison) -> str:
    """Return two records' comparison as text, the warnings first."""
    lines = [f"warning: {text}" for text in found.warnings]
    lines += [_entry(one) for one in found.entries]
    lines += [_reproduction(one) for one in found.reproductions]
    first = found.entries[0]
    return "\n".join([*lines, f"clock: {words.clock(first.clock, emulated=first.emulated)}"])


def comparison_markdown(found: Comparison) -> str:
    """Return the same as markdown: the warnings, a table, the clock."""
    rows = [
        (
            f"{one.namespace} {one.metric}, {_kernels(one)}",
            " -> ".join(words.value(value, one.unit) for value in (one.base_value, one.patched_value)),
            f"{words.change(one.ratio)}{_interval(one.ci_low, one.ci_high)}",
            f"{words.verdict(one)}, {words.sees(one)}",
        )
        for one in found.entries
    ]
    rows += [
        (
            f"{one.first.namespace} {one.first.metric}, {one.first.patched} against {one.first.base}",
            f"{words.change(one.first.ratio)}, then {words.change(one.second.ratio)}",
            f"{words.change(one.ratio)}{_interval(one.ci_low, one.ci_high)}",
            _answer(one),
        )
        for one in found.reproductions
    ]
    shown = statement.Table(("", "first, second", "change", "verdict"), tuple(rows))
    parts = [statement.escaped(f"Warning: {text}.") for text in found.warnings]
    first = found.entries[0]
    clock = f"Clock: {words.clock(first.clock, emulated=first.emulated)}."
    return "\n\n".join([*parts, statement.markdown_table(shown), statement.escaped(clock)])


def _answer(one: Reproduction) -> str:
    return {"same": "reproduced", "no-verdict": "no verdict"}.get(one.verdict, "not reproduced")


def _entry(one: ComparisonEntry) -> str:
    values = " -> ".join(words.value(value, one.unit) for value in (one.base_value, one.patched_value))
    text = f"{one.namespace} {one.metric}, {_kernels(one)}: {values}, {words.change(one.ratio)}"
    text += f"{_interval(one.ci_low, one.ci_high)}: {words.verdict(one)}"
    return f"{text}, smallest visible: {words.smallest_visible(one)}"


def _reproduction(one: Reproduction) -> str:
    first, second = one.first, one.second
    return (
        f"{first.namespace} {first.metric}, {first.patched} against {first.base}: {words.change(first.ratio)}, then "
        f"{words.change(second.ratio)}{_interval(one.ci_low, one.ci_high)}: {_answer(one)}"
    )


def _kernels(one: ComparisonEntry) -> str:
    return one.base if one.base == one.patched else f"{one.base} and {one.patched}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{words.change(low)}, {words.change(high)}]"


def added(found: Added) -> str:
    """Return what was added to a history."""
    return _lines([f"run {found.run}: {len(found.series)} series", *found.notes])


def history(found: Shown) -> str:
    """Return the series of a history, a line each."""
    return _lines([*map(str, found.series), *_damaged(found.damaged)])


def alerts(found: Checked) -> str:
    """Return the alerts of a history."""
    return _lines([*map(str, found.alerts), *_damaged(found.damaged)] or ["no change"])


def _damaged(lines: Iterable[str]) -> list[str]:
    return [f"warning: {line}" for line in lines]


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
