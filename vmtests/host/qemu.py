"""The host's QEMU: where it is, which version, and which features of a CPU model it cannot give."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vmtests.command import require, run
from vmtests.errors import HostFailure

BINARY = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"

#: x-ignore-shared with memory-backend-file, and nvdimm hot-plug on q35, as we use them.
OLDEST = (7, 0)
#: The oldest that vmtests was tried with.
OLDEST_TRIED = (7, 2)

#: The CPU that the guests are modelled on.
CPU_MODEL = "Icelake-Server"

#: "CPUID.07H:EBX.hle" until QEMU 9.0, "CPUID[eax=07h,ecx=00h].EBX.hle" since, "MSR(10AH).taa-no"; unknown bits have no
#: name (target/i386/cpu.c, feature_word_description()).
_MISSING = re.compile(
    r"doesn't support requested feature: "
    r"(CPUID\.\w+:E[A-D]X|CPUID\[[^]]*\]\.E[A-D]X|MSR\(\w+\))(?:\.(\S+))? \[bit (\d+)\]"
)


@dataclass(frozen=True)
class Qemu:
    """An installed QEMU."""

    path: Path
    # Such as "7.2.22".
    version: str

    @property
    def tried(self) -> bool:
        """Whether vmtests was ever tried with a QEMU as old as this."""
        return _number(self.version) >= OLDEST_TRIED


def find() -> Qemu:
    """Return the QEMU in the PATH.

    Raises:
        HostFailure: there is none, it does not run, or it is too old.
    """
    path = require(BINARY, package=PACKAGE)
    said = run([path, "--version"], seconds=30).stdout
    found = re.search(r"QEMU emulator version (\d+\.\d+(?:\.\d+)*)", said)
    if found is None:
        raise HostFailure(f"{path} does not say which version it is", command=[path, "--version"], output=said)
    version = found[1]
    if _number(version) < OLDEST:
        raise HostFailure(
            f"QEMU {version} ({path}) is too old: vmtests needs {_text(OLDEST)} or newer (the oldest one tried is"
            f" {_text(OLDEST_TRIED)}); Debian 12 and 13 have one, in the package {PACKAGE}"
        )
    return Qemu(Path(path), version)


def parse_missing_features(stderr: str) -> tuple[str, ...]:
    """Return the CPU features that QEMU warned it has to leave out, each once, in the order of the warnings.

    A bit that QEMU has no name for is called by its place, such as "CPUID.01H:ECX[5]".
    """
    names = (name or f"{register}[{bit}]" for register, name, bit in _MISSING.findall(stderr))
    return tuple(dict.fromkeys(names))


def missing_features(qemu: Qemu, accelerator: str, cpu_model: str = CPU_MODEL) -> tuple[str, ...]:
    """Return the features of a CPU model that the accelerator lacks, by asking QEMU without running anything."""
    argv = [
        str(qemu.path),
        "-accel", accelerator,
        "-machine", "q35",
        "-cpu", cpu_model,
        "-nodefaults",
        "-display", "none",
        "-S",
        "-monitor", "stdio",
    ]  # fmt: skip
    return parse_missing_features(run(argv, seconds=30, stdin=b"quit\n").stdout)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
