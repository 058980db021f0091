"""The three kinds of failure, and the exit code that each one ends a run with.

A `KernelFailure` is the tested kernel's fault, a `HostFailure` the fault of the machine that runs the test (or of what
the user gave us), and every other exception is a bug of vmtests itself.
"""

from __future__ import annotations

import enum
import errno
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path


class ExitCode(enum.IntEnum):
    """Exit codes of pytest, of `vmtests` and of `tox -e ENV`."""

    PASSED = 0
    KERNEL_FAILED = 1
    USAGE = 2
    HOST_FAILED = 3
    BUG = 4
    NO_VERDICT = 5
    INTERRUPTED = 130
    TERMINATED = 143


#: Which code wins when a run has failed in several ways.
PRECEDENCE = (
    ExitCode.BUG,
    ExitCode.HOST_FAILED,
    ExitCode.USAGE,
    ExitCode.KERNEL_FAILED,
    ExitCode.NO_VERDICT,
    ExitCode.PASSED,
)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the code that a run with all of these outcomes ends with."""
    seen = set(codes)
    return next((code for code in PRECEDENCE if code in seen), ExitCode.PASSED)


def printable(text: str) -> str:
    """Return `text` with whatever could steer a terminal (escape sequences, bidi marks) in a visible form."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )


class VmtestsError(Exception):
    """A failure whose cause is known, with the evidence for it.

    Much of it may come from a guest that is hostile: what is said of it can be shown on a terminal.

    Args:
        message: what failed: the thing, the value, the rule and what to do next.
        command: what ran, when a command did.
        status: its exit status; negative for a signal, None when it never ended.
        output: the end of what it printed, or the end of the guest's console.
        evidence: files that tell more.
    """

    exit_code = ExitCode.BUG
    kind = "bug"

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str] | None = None,
        status: int | None = None,
        output: str = "",
        evidence: Sequence[Path] = (),
    ) -> None:
        message = printable(message)
        super().__init__(message)
        self.message = message
        self.command = tuple(command) if command is not None else None
        self.status = status
        self.output = printable(output)
        self.evidence = tuple(evidence)

    def __str__(self) -> str:
        lines = [self.message]
        if self.command is not None:
            lines.append(f"  command: {printable(shlex.join(self.command))}")
        if self.status is not None:
            lines.append(f"  exit status: {self.status}")
        if self.output.strip():
            lines.append("  it ended with:")
            lines += [f"  | {line}" for line in self.output.strip().splitlines()[-30:]]
        lines += [f"  see: {path}" for path in self.evidence]
        return "\n".join(lines)


class KernelFailure(VmtestsError):
    """The tested kernel is wrong: an oops, a panic, a hang, a wrong memmap, a gated regression."""

    exit_code = ExitCode.KERNEL_FAILED
    kind = "kernel-failed"


class HostFailure(VmtestsError):
    """This host, or what it was given, cannot run the test: no QEMU, no disk, a bad recipe, QEMU died by itself."""

    exit_code = ExitCode.HOST_FAILED
    kind = "host-failed"


class UsageError(VmtestsError):
    """What the user typed cannot be meant: an unknown kernel, a size that is not aligned."""

    exit_code = ExitCode.USAGE
    kind = "host-failed"


#: How a system call says that a disk, or a quota on it, has no room left.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def known(error: BaseException) -> BaseException:
    """Return the failure that an error comes to: a full disk is no bug, whoever finds it."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f" at {error.filename}" if error.filename else ""
        return HostFailure(
            f"the disk is full{where}: free some room, or name folders on another one ({error.strerror})"
        )
    return error
