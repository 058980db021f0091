"""Running a kernel's own make, the same way whatever the caller's environment is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vmtests.command import require, run
from vmtests.errors import HostFailure

# The compiler reads this file, in the build folder: a flag that names the folder must not stand in the command lines,
# which kbuild compares to tell what has to be compiled again.
_FLAGS = "vmtests.flags"

# Tells where the tree of the build folder was.
_TREE = "vmtests.tree"

# What names the cause, rather than one of make's many lines about it.
_ERROR = re.compile(
    r"error:|undefined reference|multiple definition|not found|No such file|No space left|Killed|recursive dep",
    re.IGNORECASE,
)


# Of these, which are no fault of the source.
_HOST = re.compile(r"No space left|Killed|Cannot allocate memory")


class BuildFailure(HostFailure):
    """The source does not build, or not with the config that is asked for."""


@dataclass(frozen=True)
class Toolchain:
    """What compiles and links: part of what a kernel is."""

    # As typed, such as "gcc-14" or "ccache gcc".
    cc: str
    # The first line of its --version.
    compiler: str
    linker: str

    @classmethod
    def of(cls, cc: str) -> Toolchain:
        """Ask the compiler `cc` and the linker for their versions; HostFailure if they are missing."""
        words = shlex.split(cc) or ["gcc"]
        for word in words:
            if "clang" in word and shutil.which(word) is None:
                raise HostFailure(f"{word} is not installed, and `vmtests setup` does not: apt-get install clang")
            require(word)
        compiler = run([*words, "--version"], seconds=60).stdout.splitlines()[0]
        linker = run([require("ld", package="binutils"), "--version"], seconds=60).stdout.splitlines()[0]
        return cls(shlex.join(words), compiler, linker)


@dataclass(frozen=True)
class Make:
    """One tree, one build folder, one toolchain."""

    tree: Path
    # In the tree itself kbuild uses relative paths, so that the folder can be moved.
    build: Path
    toolchain: Toolchain

    def adopt(self, objects: Path) -> None:
        """Begin the build folder as a copy of another one, of a tree with the same files, wherever that was."""
        run(["cp", "--archive", "--reflink=auto", objects, self.build], seconds=600)
        # tools/build/Makefile.build has absolute paths in its command lines. If they changed, objtool would be built
        # again, and all objects with it: they depend on it.
        before, now = (self.build / _TREE).read_text(), str(self.tree.resolve())
        for path in (self.build / "tools").rglob(".*.cmd"):
            path.write_text(path.read_text().replace(before, now))

    def __call__(
        self,
        *targets: str,
        what: str,
        seconds: float = 600,
        log: Path | None = None,
        line: Callable[[str], None] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Make the targets; BuildFailure with the first error and the log's path, its message beginning with `what`."""
        self.build.mkdir(exist_ok=True)
        (self.build / _FLAGS).write_text(f'"-fdebug-prefix-map={self.tree.resolve()}=/linux"\n')
        (self.build / _TREE).write_text(str(self.tree.resolve()))
        variables = {
            "O": str(self.build),
            "ARCH": "x86_64",
            "CROSS_COMPILE": "",
            "LLVM": "",
            "CC": self.toolchain.cc,
            "HOSTCC": self.toolchain.cc,
            "KCFLAGS": f"@{_FLAGS}",
            "KAFLAGS": f"@{_FLAGS}",
            "KCONFIG_CONFIG": ".config",
            # Set, if empty: without it a "+" comes into the release when a repository is near.
            "LOCALVERSION": "",
            "KBUILD_BUILD_USER": "vmtests",
            "KBUILD_BUILD_HOST": "vmtests",
            "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
            "KBUILD_BUILD_VERSION": "1",
        }
        jobs = len(os.sched_getaffinity(0))
        result = run(
            [require("make"), "-C", self.tree, f"-j{jobs}", *(f"{k}={v}" for k, v in variables.items()), *targets],
            env={"MAKEFLAGS": "", "MAKELEVEL": "", "KBUILD_OUTPUT": ""},
            seconds=seconds,
            log=log,
            line=line,
            check=False,
            what=what,
        )
        if result.returncode != 0:
            errors = first_errors(result.stdout)
            kind = HostFailure if any(map(_HOST.search, errors)) else BuildFailure
            raise kind(
                f"{what}: {errors[0]}",
                command=result.args,
                status=result.returncode,
                output="\n".join(errors),
                evidence=[log] if log else [],
            )
        return result


def first_errors(output: str) -> list[str]:
    """Return the first error of a build and what follows it up to make's own line about it."""
    lines = [line for line in output.splitlines() if line.strip() and not re.match(r"  [A-Z]+ ", line)]
    for pattern in (_ERROR, re.compile(r"\*\*\*")):
        for number, line in enumerate(lines):
            if pattern.search(line):
                rest = lines[number : number + 15]
                end = next((i for i, line in enumerate(rest) if re.match(r"make(\[\d+\])?: \*\*\*", line)), len(rest))
                return rest[: end + 1]
    return lines[-10:] or ["it printed nothing"]
