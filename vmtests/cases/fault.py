"""A fault that a test brings about: whose failure must come of it, in which words, and how soon."""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmtests.errors import VmtestsError
from vmtests.host import facts
from vmtests.run.run import Run

#: From the kernel's last words, or QEMU's end, to the failed test.
SOON = 3.0


def crowd() -> float:
    """Return how much longer all takes where there is more to do than there are processors."""
    return max(1.0, os.getloadavg()[0] / facts.cpus())


class Fault:
    """Knows when the fault came about, by time.monotonic()."""

    def __init__(self) -> None:
        self.came: float | None = None

    def comes(self) -> None:
        """Take the fault to come about now."""
        self.came = time.monotonic()

    @contextmanager
    def announced(self, record: Path, words: str) -> Iterator[None]:
        """Take it to come about when a guest that starts meanwhile has these words on its console."""
        before, over = set(record.glob("guest-*")), threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                logs = [folder / "console.log" for folder in record.glob("guest-*") if folder not in before]
                if any(log.exists() and re.search(words, log.read_text(errors="replace")) for log in logs):
                    self.comes()
                    return

        thread = threading.Thread(target=watch, name="fault", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def verify(self, run: Run, what: str, failure: VmtestsError, *, within: float = SOON) -> None:
        """See that the failure, which has just been raised, came soon, and keep a row of the table of faults."""
        over = time.monotonic()
        assert self.came is not None, f"the fault did not come about: {failure}"
        seconds = over - self.came
        keep(run, what, failure.kind, seconds, failure.message)
        within *= crowd()
        assert seconds <= within, f"{what}: the test failed {seconds:.1f} s after it, not within {within:.1f} s"


@contextmanager
def fails(
    run: Run, what: str, kind: type[VmtestsError], says: str, *, within: float = SOON, announced: str = ""
) -> Iterator[Fault]:
    """See the body fail in the right way, and keep a row of the table of faults.

    Args:
        run: whose record takes the row.
        what: the fault, as the table calls it.
        kind: whose failure it is.
        says: a regular expression that is found in the failure.
        within: how many seconds after the fault it must have come out of the body, guest and all, if the machine has
            nothing else to do.
        announced: what the console says as the fault comes about; without it the body calls Fault.comes().
    """
    fault = Fault()
    with pytest.raises(kind, match=f"(?s){says}") as caught:
        if announced:
            with fault.announced(run.record.folder, announced):
                yield fault
        else:
            yield fault
    fault.verify(run, what, caught.value, within=within)


def keep(run: Run, what: str, verdict: str, seconds: float | None, said: str) -> None:
    """Say a row of the table of faults, and keep it beside the record."""
    took = "-" if seconds is None else f"{seconds:.1f} s"
    said = re.sub(r"^running `.*?` in the guest: ", "", said.splitlines()[0])
    row = f"{what:<58} {verdict:<13} {took:>7}  {said[:100]}"
    run.progress.say(f"  {row}")
    run.record.add_line("faults", row)
