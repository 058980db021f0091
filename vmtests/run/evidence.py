"""What guests leave in the run's record: a folder for each, within a budget of disk, and of which failed test it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import drgn
from drgn.helpers.linux.printk import get_dmesg

from vmtests.errors import VmtestsError
from vmtests.guest import Guest
from vmtests.guest.log import LIMIT
from vmtests.memmap.access import attached
from vmtests.record import RecordWriter
from vmtests.run.dumps import NAME as DUMP

#: What the logs of all guests of a run may have together, but that each has the least in any case. Dumps come on top:
#: see dumps.MOST_BYTES.
RUN_BYTES = 1 << 30
LEAST_BYTES = 1 << 20

#: Logs of a guest that may grow to their limit: the console's, the monitor's, the commands'.
_LOGS = 3

#: What is kept of a test's own output, each of stdout, stderr and log: its end.
OWN_CHARACTERS = 1 << 16

#: How long a monitor or a shell may take to answer a guest's last questions.
_SECONDS = 5.0


class Evidence:
    """The folders of a run's guests.

    A test may share its guest with others: those of a test that fails are all that ran while it did.

    Args:
        record: of the run.
    """

    def __init__(self, record: RecordWriter) -> None:
        self._record = record
        self._number = 0
        self._running: list[Path] = []
        self._ended: list[Path] = []
        self._test: dict[Path, str] = {}
        #: The tests that have failed so far.
        self.failures: list[str] = []

    @contextmanager
    def folder(self, kernel: str) -> Iterator[Path]:
        """Yield a folder for what a guest of this kernel leaves; in the end the record gets all that is in it."""
        folder = self._make(kernel)
        self._running.append(folder)
        try:
            yield folder
        finally:
            self._running.remove(folder)
            self._ended.append(folder)

    def log_bytes(self) -> int:
        """Return what each log of the next guest may have: no guest takes more than half of what is left."""
        files = (file for file in self._record.folder.rglob("*") if file.name != DUMP and file.is_file())
        used = sum(file.stat().st_size for file in files)
        return max(LEAST_BYTES, min(LIMIT, (RUN_BYTES - used) // (2 * _LOGS)))

    def failed(self, test: str, text: str, sections: Iterable[tuple[str, str]] = ()) -> None:
        """Keep beside the record why a test failed, what it printed, and which guests it had.

        Args:
            test: its name.
            text: the failure.
            sections: what pytest has captured or we have added, by title.
        """
        self.failures.append(test)
        folders = [*self._ended, *self._running]
        for folder in folders:
            self._test.setdefault(folder, test)
        parts = [test, text, *(f"--- {title} ---\n{said[-OWN_CHARACTERS:]}" for title, said in sections)]
        parts += [f"guest: {folder}" for folder in folders]
        path = self._record.folder / "failures.txt"
        with suppress(OSError), path.open("a", encoding="utf-8") as file:  # the disk may be what failed
            file.write("\n".join(part.rstrip("\n") for part in parts) + "\n\n")
        self._record.add_evidence("failure", path)

    def over(self) -> None:
        """Note what the guests that have ended left: they are not the next test's."""
        for folder in self._ended:
            for path in sorted(folder.iterdir()):
                if path.name != DUMP:  # noted once it is sure to stay
                    self._record.add_evidence(path.stem, path, test=self._test.get(folder))
        self._ended.clear()

    @contextmanager
    def kernel_log(self, guest: Guest) -> Iterator[None]:
        """Keep the kernel's log of the guest when the block, or a test while it lasts, has failed."""
        before = len(self.failures)
        try:
            yield
        except Exception:
            _keep_log(guest)
            raise
        # A fixture's context does not see the test's failure, which has been noted by then.
        if len(self.failures) > before:
            _keep_log(guest)

    def _make(self, kernel: str) -> Path:
        """Make the folder of a guest's evidence; other workers of this run make theirs beside it."""
        while True:
            self._number += 1
            folder = self._record.folder / f"guest-{self._number:03d}-{kernel}"
            with suppress(FileExistsError):
                folder.mkdir()
                return folder


def _keep_log(guest: Guest) -> None:
    """Write dmesg.log; a guest that cannot be asked any more has left its console."""
    with suppress(VmtestsError, drgn.FaultError, LookupError, ValueError, OSError):
        (guest.evidence / "dmesg.log").write_bytes(_kernel_log(guest)[-LIMIT:])


def _kernel_log(guest: Guest) -> bytes:
    """Return the kernel's log: out of its memory, so that it need not live, or from the shell without debug info."""
    if guest.kernel.vmlinux is None:
        return guest.run(["dmesg"], seconds=_SECONDS).stdout.encode()
    # Says at once that QEMU is stopped, which drgn's monitor takes a deadline to find out.
    guest.monitor.execute("query-status", seconds=_SECONDS)
    with attached(guest) as program:
        return get_dmesg(program)
