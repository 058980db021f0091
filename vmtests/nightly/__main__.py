"""The nightly's command: `python -m vmtests.nightly FILE --results DIR`, which is what nightly/job.py runs."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from vmtests.errors import ExitCode, VmtestsError
from vmtests.nightly.job import run_night
from vmtests.run.interrupts import unwind_on_sigterm

_EPILOG = """\
What it prints is the mail: one line on a quiet night. What goes on meanwhile goes to stderr. A night that was killed is
gone on with by the next call, until its deadline. See docs/nightly.md.
"""


def main(argv: Sequence[str] | None = None, *, default: Path | None = None) -> int:
    """Run a night and return its exit code; `default` is the matrix where none is named."""
    parser = argparse.ArgumentParser(description="Run the nightly.", epilog=_EPILOG)
    parser.add_argument("matrix", nargs="?" if default else None, type=Path, default=default, metavar="FILE")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="where nights and history are kept")
    arguments = parser.parse_args(argv)
    unwind_on_sigterm()
    try:
        return run_night(arguments.matrix, arguments.results.resolve())
    except VmtestsError as error:
        print(f"nightly: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception:  # else Python's exit code would say that a kernel has failed
        traceback.print_exc()
        return ExitCode.BUG


if __name__ == "__main__":
    sys.exit(main())
