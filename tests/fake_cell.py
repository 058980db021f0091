"""Stands in for the tests of a cell: takes their options, and writes the record that they would.

What a tree's kernel does is in the file `behaviour.json` of its commit: `factor` of its instructions, `wrong` (its
memmap), `build` (the compiler's error), `dmesg` (its lines). What the host does is in the environment's FAKE_HOST, by
namespace: "fails", "fails-once", "hangs-once", or what is in its cache from then on: "builds" (a kernel), "fetches" (a
remote).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fake_record import GUEST, KERNEL, NAMESPACE, binds
from tests.test_record import HOST
from vmtests import cache
from vmtests.errors import ExitCode
from vmtests.kernel.git import git
from vmtests.pmem import NamespaceSpec
from vmtests.record import MemmapEntry, RecordWriter
from vmtests.timing import dmesg

#: What "builds" and "fetches" leave, in bytes.
FILLED = 15 << 20


def main() -> int:
    """Write the record and return the exit code of the tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", action="append")
    for option in ("mode", "map", "record"):
        parser.add_argument(f"--{option}")
    asked, _ = parser.parse_known_args()
    space = replace(NAMESPACE, id=NamespaceSpec(asked.mode, asked.map).id, mode=asked.mode, map=asked.map)
    writer = RecordWriter(Path(asked.record), argv=sys.argv, seed=1)
    writer.set_host(HOST)
    writer.add(space)
    does = json.loads(os.environ["FAKE_HOST"]).get(space.id, "")
    _fill_cache(does)
    if _host_fails(does, space.id):
        _fail(writer, "HostFailure: QEMU died by itself")
        return _end(writer, ExitCode.HOST_FAILED)
    code = ExitCode.PASSED
    for given in asked.kernel:
        name, _, source = given.partition("=")
        acts = _behaviour(source)
        if "build" in acts:
            writer.unbuildable[name] = acts["build"]
            code = ExitCode.HOST_FAILED
            continue
        writer.add(replace(KERNEL, name=name, source=source or KERNEL.source), replace(GUEST, kernel=name))
        writer.add(*binds(name, [10 * acts.get("factor", 1.0)], clock="icount", namespace=space.id))
        writer.add(_check(name, space.id, wrong=acts.get("wrong", False)))
        writer.dmesg_warnings += [f"{name}: {line}" for line in dmesg.warnings(acts.get("dmesg", ""))]
        if acts.get("wrong"):
            _fail(writer, "KernelFailure: a struct page is wrong")
            code = ExitCode.KERNEL_FAILED
    return _end(writer, code)


def _behaviour(source: str) -> dict[str, Any]:
    if not source:
        return {}
    folder, commit = source.split("@")
    said: dict[str, Any] = json.loads(git("show", f"{commit}:behaviour.json", cwd=Path(folder)).stdout)
    return said


def _fill_cache(does: str) -> None:
    if does == "builds":
        cache.entry("kernels", f"{os.getpid()}", lambda folder: _fill(folder / "vmlinux"))
    elif does == "fetches":
        (cache.root() / "remotes").mkdir()
        _fill(cache.root() / "remotes/pack")


def _fill(path: Path) -> None:
    path.write_bytes(b"x" * FILLED)


def _host_fails(does: str, space: str) -> bool:
    mark = Path(os.environ["FAKE_MARKS"]) / space
    if does in ("", "builds", "fetches") or (does.endswith("once") and mark.exists()):
        return False
    temporary = mark.with_name(f".{space}")
    temporary.write_text(str(os.getpid()))
    temporary.replace(mark)
    if does == "hangs-once":
        signal.pause()
    return True


def _check(kernel: str, space: str, *, wrong: bool) -> MemmapEntry:
    field = {"field": "_refcount", "count": 1, "first_pfn": 4096, "last_pfn": 4096, "parts": [1]}
    return MemmapEntry(
        kernel=kernel,
        boot=0,
        namespace=space,
        bind_index=0,
        pages_expected=100,
        pages_checked=100,
        bytes_per_page_checked=64,
        poisoned=False,
        mismatches=int(wrong),
        seconds=0.1,
        read_limit_seconds=0.1,
        examples=(),
        wrong_fields=(field,) if wrong else (),
    )


def _fail(writer: RecordWriter, text: str) -> None:
    path = writer.folder / "failures.txt"
    path.write_text(f"test_rebind.py::test_rebind[mine]\n{text}\n\n")
    writer.add_evidence("failure", path)


def _end(writer: RecordWriter, code: ExitCode) -> int:
    writer.save(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
