"""`vmtests doctor`: what this host can run, with reasons, and what to do about what it cannot."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vmtests import cache, debian
from vmtests.errors import ExitCode, HostFailure
from vmtests.host import facts, packages
from vmtests.host.facts import GIB
from vmtests.host.kvm import accelerator
from vmtests.host.qemu import CPU_MODEL, OLDEST_TRIED, PACKAGE, Qemu, find, missing_features

#: A guest has 2 GiB, in a file; the check maps 1.6 GB of the NVDIMM's; the rest is QEMU and us.
_MEMORY_NEEDED, _MEMORY_WANTED = 2 * GIB, 4 * GIB
#: Kernel source 1.8 GiB, a build 1.3 GiB, of which two; a guest 3.6 GiB.
_DISK_NEEDED, _DISK_WANTED = 10 * GIB, 20 * GIB


@dataclass(frozen=True)
class Row:
    """One thing that was looked at."""

    name: str
    # "ok", "warning" (it works, but not as well as it could) or "missing" (the main job cannot run).
    status: str
    found: str
    # What to do; empty when there is nothing to be done.
    advice: str = ""


@dataclass(frozen=True)
class Examination:
    """All that was looked at."""

    rows: tuple[Row, ...]

    @property
    def exit_code(self) -> ExitCode:
        """0 if the main job can run here, else 3."""
        bad = any(row.status == "missing" for row in self.rows)
        return ExitCode.HOST_FAILED if bad else ExitCode.PASSED

    def to_json(self) -> dict[str, Any]:
        """Return the rows as what JSON knows."""
        return {"exit_code": int(self.exit_code), "rows": [asdict(row) for row in self.rows]}


def examine() -> Examination:
    """Look at everything, whatever is missing."""
    return Examination(tuple(_rows()))


def _rows() -> Iterator[Row]:
    yield _system()
    try:
        qemu = find()
    except HostFailure as failure:
        yield Row("QEMU", "missing", failure.message, f"apt-get install {PACKAGE}, or vmtests setup")
    else:
        yield _qemu(qemu)
        yield from _accelerator(qemu)
    yield _processors()
    yield _memory()
    try:
        folder = cache.root()
    except HostFailure as failure:
        yield Row("cache", "missing", failure.message, "set XDG_CACHE_HOME")
    else:
        free = shutil.disk_usage(folder).free
        more = "free some, or set XDG_CACHE_HOME to a folder on a larger file system"
        yield _amount("disk", free, _DISK_NEEDED, _DISK_WANTED, f"free in {folder}", more)
        if facts.keeps_sparse(folder):
            yield Row("sparse files", "ok", f"{folder} keeps a file of 100 GB as small as what is written to it")
        else:
            advice = "set XDG_CACHE_HOME to a folder on ext4, xfs, btrfs or tmpfs, and let `ulimit -f` be unlimited"
            yield Row("sparse files", "missing", f"{folder} does not keep a file of 100 GB sparse", advice)
    yield _archive()
    yield _packages("to run guests", "guests")
    yield _packages("to build kernels", "kernels")


def _system() -> Row:
    try:
        facts.check_platform()
    except HostFailure as failure:
        return Row("system", "missing", failure.message)
    try:
        name = platform.freedesktop_os_release().get("ID")
    except OSError:
        name = None
    if name != "debian":
        advice = "run vmtests on Debian 12 or 13, or in a container of it: kernel source and image are Debian's"
        return Row("system", "missing", facts.system(), advice)
    return Row("system", "ok", f"{facts.system()}, Linux {platform.release()}")


def _qemu(qemu: Qemu) -> Row:
    found = f"{qemu.version} ({qemu.path})"
    if qemu.tried:
        return Row("QEMU", "ok", found)
    oldest = ".".join(map(str, OLDEST_TRIED))
    return Row("QEMU", "warning", f"{found}; the oldest that vmtests was tried with is {oldest}", "use a newer one")


def _accelerator(qemu: Qemu) -> Iterator[Row]:
    chosen = accelerator()
    if chosen.name == "kvm":
        yield Row("accelerator", "ok", f"kvm: {chosen.reason}")
    else:
        advice = "instructions are counted instead of time; for times, use a machine where KVM works"
        if not chosen.proven:
            advice = "vmtests kernel build stock, then ask again"
        yield Row("accelerator", "warning", f"tcg: {chosen.reason}", advice)
    lacking = missing_features(qemu, chosen.name)
    found = f"{CPU_MODEL}, without {', '.join(lacking)}" if lacking else f"{CPU_MODEL}, complete"
    yield Row("CPU model", "ok", found)


def _processors() -> Row:
    count = facts.cpus()
    if count < 2:
        return Row("processors", "warning", f"1 {facts.cpu()}", "use a machine with more: QEMU alone keeps one busy")
    return Row("processors", "ok", f"{count} {facts.cpu()}")


def _memory() -> Row:
    total, available = facts.memory()
    more = "end other programs, or use a machine with more"
    return _amount("memory", available, _MEMORY_NEEDED, _MEMORY_WANTED, f"available of {total / GIB:.1f} GiB", more)


def _amount(name: str, amount: int, needed: int, wanted: int, what: str, more: str) -> Row:
    found = f"{amount / GIB:.1f} GiB {what}"
    if amount >= wanted:
        return Row(name, "ok", found)
    status = "warning" if amount >= needed else "missing"
    return Row(name, status, f"{found}; {needed / GIB:.0f} GiB needed, {wanted / GIB:.0f} GiB better", more)


def _archive() -> Row:
    """Kernel source and image are Debian's; whether the mirror answers is only known when something is fetched."""
    try:
        mirror = debian.host_mirror()
    except (HostFailure, OSError) as failure:
        return Row("archive", "missing", str(failure), "add one: sources.list(5); then apt-get update")
    return Row("archive", "ok", f"{mirror.uri}, by apt's configuration")


def _packages(name: str, purpose: str) -> Row:
    needs = [need for need in packages.NEEDS if need.purpose == purpose]
    absent = packages.missing(needs)
    if absent:
        return Row(name, "missing", f"missing: {', '.join(absent)}", "vmtests setup")
    return Row(name, "ok", ", ".join(need.package for need in needs))
