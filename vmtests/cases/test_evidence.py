"""What a run leaves of a kernel that dies under a test: all that is needed to see why, and where it is, said last."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vmtests.errors import ExitCode
from vmtests.record import EvidenceEntry, read
from vmtests.run.run import Run
from vmtests.vmcore import Dump

#: A kernel that writes to address 0 when it has initialised the struct pages.
PATCH = (
    "--- a/mm/mm_init.c\n"
    "+++ b/mm/mm_init.c\n"
    "@@ -1114,2 +1114,3 @@ void __ref memmap_init_zone_device(struct zone *zone,\n"
    " \n"
    "+\tWRITE_ONCE(*(unsigned long *)(nr_pages - nr_pages), 1);\n"
    " \tpageblock_migratetype_init_range(start_pfn, nr_pages, MIGRATE_MOVABLE, false);\n"
)
OOPS = "BUG: kernel NULL pointer dereference"
PLACE = r"mm/mm_init\.c:1115$"

#: The files of a guest whose kernel has died, by their kind in the record.
KINDS = {
    "argv": "argv.sh",
    "commands": "commands.log",
    "console": "console.log",
    "dmesg": "dmesg.log",
    "qemu": "qemu.stderr",
    "qmp": "qmp.log",
    "vmcore": "vmcore",
}


@pytest.mark.full
def test_evidence_of_an_oops(run: Run, tmp_path: Path) -> None:
    """The failure has the test, the command, and the line of the patch; the record has the rest, each file listed."""
    run.kernel("base")
    out, patch = tmp_path / "out", tmp_path / "null-pointer.patch"
    patch.write_text(PATCH)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "vmtests.cases.test_rebind",
         "-k", "patch", "--patch", patch, "--pmem-size", "4G", "--rebinds", "1", "--record", out],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.KERNEL_FAILED, done.stdout + done.stderr

    see_the_failure(done.stdout)
    assert done.stdout == "".join(part for part in done.stdout if part.isprintable() or part == "\n")
    (folder,) = out.glob("guest-*-patch")
    test = "::test_rebind[patch-fsdax-dev]"
    see_that_it_ends_with_the_paths(done.stdout, out, folder, test)

    record = read(out)
    assert record.document["verdict"] == "kernel-failed"
    evidence = record.entries(EvidenceEntry)
    listed = {entry.kind: out / entry.path for entry in evidence if (entry.test or "").endswith(test)}
    assert listed == {kind: folder / name for kind, name in KINDS.items()}
    assert "failures.txt" in [entry.path for entry in evidence]
    see_the_files(listed)


def see_the_failure(said: str) -> None:
    """What the terminal shows."""
    assert re.search(r"^_+ test_rebind\[patch-fsdax-dev\] _+$", said, re.MULTILINE)
    assert re.search(
        r"^KernelFailure: running `.*` in the guest: BUG: kernel NULL pointer dereference", said, re.MULTILINE
    )
    assert re.search(rf"RIP: 0010:memmap_init_zone_device\+0x\w+/0x\w+ .*\b{PLACE}", said, re.MULTILINE)
    assert re.search(r"memremap_pages\+0x\w+/0x\w+ .*\bmm/memremap\.c:\d+", said)


def see_that_it_ends_with_the_paths(said: str, out: Path, folder: Path, test: str) -> None:
    """Behind them comes only pytest's count."""
    *_, first, second, third, counts = said.rstrip("\n").splitlines()
    assert first == f"  {out}/failures.txt"
    assert second.startswith(f"  {folder} ({', '.join(KINDS.values())}) of ")
    assert second.endswith(test)
    assert third == f"record: {out}/run.json"
    assert "1 failed" in counts


def see_the_files(listed: dict[str, Path]) -> None:
    """Each one tells its part."""
    assert OOPS in listed["console"].read_text(errors="replace")
    assert OOPS in listed["dmesg"].read_text(errors="replace")
    # More than the console shows: what pr_debug() says, since the kernel's first line.
    assert "Linux version" in listed["dmesg"].read_text(errors="replace")
    assert "device_add" in listed["qmp"].read_text()
    assert "$ " in listed["commands"].read_text()
    assert "requested feature" in listed["qemu"].read_text() or not listed["qemu"].read_text()
    script = listed["argv"].read_text()
    words = shlex.split(script.partition("exec ")[2].replace("\\\n", ""))
    assert words[0].startswith("qemu-system-")
    for option in ("-kernel", "-initrd"):
        assert Path(words[words.index(option) + 1]).is_file()
    dump = Dump.open(listed["vmcore"])
    assert OOPS in dump.about.reason
    assert "memmap_init_zone_device" in str(dump.program.crashed_thread().stack_trace())
    failures = (listed["console"].parents[1] / "failures.txt").read_text()
    assert OOPS in failures
    assert f"drgn -c {listed['vmcore']}" in failures
    assert f"guest: {listed['console'].parent}" in failures
