"""The dump of the guest of a failed test: evidence that can be looked into when the guest is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Guest
from vmtests.memmap.known import Known
from vmtests.record import RecordWriter
from vmtests.report import words
from vmtests.vmcore import About, Vmcore, how_to_open, write

#: No dump is larger, nor takes more than half of what the disk has left.
MOST_BYTES = 3 << 30

#: In the folder of the guest's evidence.
NAME = "vmcore"


@dataclass(frozen=True)
class _Watched:
    guest: Guest
    known: Callable[[], Sequence[Known]]


class Dumps:
    """Writes at most one dump a run: of the first guest whose kernel failed a test.

    A test may expect a failure. So a dump that was written while the test ran only stays if the test did fail.

    Args:
        record: the dump goes into its folder, beside the guest's other evidence.
        enabled: whether any is written.
    """

    def __init__(self, record: RecordWriter, *, enabled: bool) -> None:
        self._record = record
        self._enabled = enabled
        self._watched: list[_Watched] = []
        self._written: tuple[Vmcore, About] | None = None
        self._refused = ""
        self._kept = False

    @contextmanager
    def watch(self, guest: Guest, known: Callable[[], Sequence[Known]] = tuple) -> Iterator[None]:
        """Dump the guest if the block fails; `known` tells what is known of its memmaps then."""
        watched = _Watched(guest, known)
        self._watched.append(watched)
        try:
            yield
        except Exception as error:
            self._take(error)
            raise
        finally:
            self._watched.remove(watched)

    def failed(self, error: BaseException, test: str | None = None) -> list[str]:
        """Keep the dump of the test that failed, and return what to say of it.

        A test whose guest is a fixture's has it still: then the dump is written now.
        """
        if self._kept:
            return []
        self._take(error)
        if self._written is None:
            said, self._refused = self._refused, ""
            return [said] if said else []
        self._kept = True
        dump, about = self._written
        self._record.add_evidence("vmcore", dump.path, test=test)
        size = words.size_about(dump.data_bytes)
        return [f"the guest as it was: {dump.path} ({size}); to open it:", *how_to_open(dump.path, about.vmlinux)]

    def passed(self) -> None:
        """Remove the dump of a test that failed as it should."""
        self._refused = ""
        if self._written is not None and not self._kept:
            self._written[0].path.unlink(missing_ok=True)
            self._written = None

    def _take(self, error: BaseException) -> None:
        if not self._enabled or self._written is not None or not self._watched:
            return
        guest, known = self._watched[-1].guest, self._watched[-1].known
        died = guest.death.cause is not None and guest.death.cause.by_kernel
        if not (died or isinstance(error, KernelFailure)):
            return
        file = guest.evidence / NAME
        about = About.of(guest.kernel, known(), str(error).partition("\n")[0])
        try:
            most = min(MOST_BYTES, shutil.disk_usage(guest.evidence).free // 2)
            self._written = write(file, guest.monitor, about, most_bytes=most), about
        except (HostFailure, KernelFailure) as reason:
            self._refused = f"no dump of the guest: {reason.message}"
