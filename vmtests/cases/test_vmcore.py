"""The dump of a guest: complete, small, and read alike by the memmap check, drgn and crash."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vmtests import command, data
from vmtests.errors import ExitCode, KernelFailure
from vmtests.memmap.known import Known
from vmtests.memmap.physical import PhysicalMemory
from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.run.run import Run
from vmtests.vmcore import Dump
from vmtests.vmcore.crash import Crash
from vmtests.vmcore.readers import agree, by_crash, by_drgn, in_bulk, sample

MIB, GIB = 1 << 20, 1 << 30

DOCUMENT = Path(__file__).parents[2] / "docs/vmcore.md"

#: Struct pages of a memmap that drgn and crash read beside the check.
SAMPLE = 256

#: What a 100 GiB guest's dump may take on two cores: its memmap is 1.6 GB, the rest RAM that was used.
SECONDS, BYTES = 10.0, 2_000_000_000

#: How often it is written until it took no longer: others may be writing to the same disk.
TRIES = 5

#: Enough for the memmap of map=mem; above 2.75 GiB, RAM lies in two places.
MEMORY_BYTES = 4 * GIB


def test_three_readers(run: Run, tmp_path: Path) -> None:
    """Single pages and folios in one dump: the check, drgn and crash see the same, and each sees a flipped bit."""
    with run.bench("base", NamespaceSpec(size_bytes=2 * GIB), 0, pmem_size=4 * GIB) as bench:
        bench.create_namespace()
        bench.spec = NamespaceSpec("devdax", "dev", 2 * MIB)
        bench.create_namespace()
        bench.rebind_over_poison(1)
        bench.dump(tmp_path / "vmcore")
    dump = Dump.open(tmp_path / "vmcore")
    see_the_right_memmaps(dump, ["fsdax-dev", "devdax-2m-dev"])
    see_the_same(run, dump)

    _, folios = dump.about.memmaps
    victim = sample(dump, folios, SAMPLE, run.options.run_seed())[-1]
    before = in_bulk(dump, folios, [victim])
    flip(dump, folios, victim)
    for name, after in (("drgn", by_drgn(dump, [victim])), ("crash", by_crash(Crash.fetch(), dump, [victim]))):
        differences = agree(before, after, name).differences
        assert len(differences) > 1, f"{name} does not see the flipped bit"
        assert all(f"pfn {victim:#x}: " in difference for difference in differences)
    _, (_, result) = dump.check()
    assert [example.pfn for example in result.examples] == [victim]
    assert result.mismatches == 1


def see_the_right_memmaps(dump: Dump, kinds: list[str]) -> None:
    """Check every struct page in the dump."""
    found = list(dump.check())
    assert [known.namespace for known, _ in found] == kinds
    for known, result in found:
        assert result.poisoned == (known.poison is not None)
        result.verify(f"{dump.file}, {known}")


def see_the_same(run: Run, dump: Dump) -> None:
    """Let drgn and crash read a sample of each memmap, the latter all in one session."""
    samples = [(known, sample(dump, known, SAMPLE, run.options.run_seed())) for known in dump.about.memmaps]
    crash = Crash.fetch()
    theirs = by_crash(crash, dump, [pfn for _, pfns in samples for pfn in pfns])
    for known, pfns in samples:
        ours = in_bulk(dump, known, pfns)
        for name, readings in (("drgn", by_drgn(dump, pfns)), ("crash", {pfn: theirs[pfn] for pfn in pfns})):
            found = agree(ours, readings, name)
            if not found.passed or found.pages < SAMPLE:
                raise KernelFailure(
                    f"{name} and the memmap check read {known} differently: {len(found.differences)} differences in "
                    f"{found.pages} of {SAMPLE} struct pages",
                    output="\n".join(found.differences[:20]),
                )
            run.progress.say(f"  {known}: {name} agrees on {found.pages} struct pages, {found.members} members")


def flip(dump: Dump, known: Known, pfn: int) -> None:
    """Flip a bit of the page's flags in the file."""
    with PhysicalMemory(dump.regions(), writable=True) as memory:
        window = dump.access.window(memory, known.truth.start_pfn, known.truth.end_pfn)
        address = dump.access.vmemmap + pfn * dump.access.layout.size
        place = int(window.slice(address, 1)[0]) + address % 4096
        memory.write(place, bytes([memory.read(place, 1)[0] ^ 1]))


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS, ids=[kind.id for kind in KINDS])
def test_dump_of_each_kind(run: Run, kind: NamespaceSpec, tmp_path: Path) -> None:
    """RAM in two places, the memmap on the device or in RAM, tails that share memory."""
    dump_and_read(run, "base", kind, tmp_path / "vmcore")


@pytest.mark.full
def test_dump_of_each_kernel(run: Run, kernel_name: str, tmp_path: Path) -> None:
    """Other configs lay out struct page and its tails differently."""
    dump_and_read(run, kernel_name, NamespaceSpec("devdax", "dev", 2 * MIB), tmp_path / "vmcore")


def dump_and_read(run: Run, kernel: str, kind: NamespaceSpec, file: Path) -> None:
    """Bind over poison, dump, and let all three read the dump."""
    with run.bench(kernel, kind, 0, pmem_size=8 * GIB, memory_bytes=MEMORY_BYTES) as bench:
        bench.create_namespace()
        bench.rebind_over_poison(1)
        bench.dump(file)
    dump = Dump.open(file)
    see_the_right_memmaps(dump, [kind.id])
    see_the_same(run, dump)


@pytest.mark.full
def test_dump_of_100_gib(run: Run, tmp_path: Path) -> None:
    """As large as what was written, and done in seconds; QEMU would read 100 GiB of holes."""
    with run.bench("base", NamespaceSpec(), 0, pmem_size=100 * GIB) as bench:
        bench.create_namespace()
        for _ in range(TRIES):
            (tmp_path / "vmcore").unlink(missing_ok=True)
            written = bench.dump(tmp_path / "vmcore")
            if written.stopped_seconds <= SECONDS:
                break
        used = sum(file.stat().st_blocks * 512 for file in (bench.guest.ram, bench.region.nvdimm.backing))
    stat = written.path.stat()
    run.progress.say(f"  {written.stopped_seconds:.1f} s, {stat.st_blocks * 512:,} of {used:,} bytes")
    assert written.memory_bytes > 101 * GIB
    assert written.data_bytes <= used
    assert stat.st_blocks * 512 <= used + MIB
    assert stat.st_blocks * 512 < BYTES
    assert written.stopped_seconds <= SECONDS
    dump = Dump.open(written.path)
    see_the_right_memmaps(dump, ["fsdax-dev"])
    see_the_same(run, dump)


@pytest.fixture(scope="module")
def panicked(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Dump:
    """The dump of a guest with a namespace whose kernel panicked under a shell's write."""
    file = tmp_path_factory.mktemp("panic") / "vmcore"
    with (
        pytest.raises(KernelFailure, match="sysrq"),
        run.bench("base", NamespaceSpec("devdax", "dev", 2 * MIB), 0, pmem_size=4 * GIB) as bench,
    ):
        bench.create_namespace()
        try:
            bench.guest.run("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger")
        finally:
            bench.dump(file, "a panic")
    return Dump.open(file)


@pytest.mark.full
def test_dump_of_a_panicked_guest(panicked: Dump) -> None:
    """It has the kernel's last words, the panic's stack, and the memmap as it was."""
    see_the_right_memmaps(panicked, ["devdax-2m-dev"])
    log, stacks = Crash.fetch().run(panicked, ["log", "bt -a"])
    assert "Kernel panic - not syncing: sysrq triggered crash" in log
    assert re.search(r'COMMAND: "sh"\n #0 .* panic at .*\n(.*\n)* .* sysrq_handle_crash at', stacks), stacks
    assert "sysrq_handle_crash" in str(panicked.program.crashed_thread().stack_trace())


@pytest.mark.full
@pytest.mark.skipif(not DOCUMENT.exists(), reason="an installed vmtests has no docs/")
def test_what_the_document_shows(panicked: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command in docs/vmcore.md does what it says on the dump: in a shell, in drgn, in crash."""
    monkeypatch.chdir(panicked.file.parent)
    text = DOCUMENT.read_text()
    shown = {
        prompt: re.findall(rf"^    {re.escape(prompt)} (.*)$", text, re.MULTILINE) for prompt in ("$", ">>>", "crash>")
    }
    # As a prompt does it: an expression is printed.
    session = f"for line in {shown['>>>']!r}: exec(compile(line, line, 'single'), globals())\n"
    stdins = {"vmtests memmap": "", "vmtests drgn": "", "drgn": session, "vmtests crash": "sys\nquit\n"}
    outputs = []
    for line in shown["$"]:
        words = shlex.split(re.sub("^vmtests ", "vmtests.cli ", line).replace("VMLINUX", str(panicked.vmlinux)))
        stdin = next(text for start, text in stdins.items() if line.startswith(start))
        outputs.append(command.run([sys.executable, "-m", *words], stdin=stdin.encode(), seconds=600).stdout)
    assert re.search(r"devdax-2m-dev dax0.0: ([\d,]+) of \1 struct pages checked .*, 0 wrong", outputs[0])
    assert re.search(r"<devdax-2m-dev dax0.0: pfn .*\n.*, 0 wrong", outputs[1])
    for word in ("sysrq_handle_crash", "Kernel panic", "MEMORY_DEVICE_GENERIC"):
        assert word in outputs[2]
    assert "RELEASE: 7" in outputs[3]

    for line, said in zip(shown["crash>"], Crash.fetch().run(panicked, shown["crash>"]), strict=True):
        assert said.strip(), line
        assert not re.search(rf"^({line.split()[0]}|crash|gdb): |No symbol", said, re.MULTILINE), said


@pytest.mark.full
def test_evidence_of_a_wrong_memmap(run: Run, tmp_path: Path) -> None:
    """A run that finds a wrong page leaves the guest's dump, and in that the same page is wrong."""
    run.kernel("base")
    patch = data.folder("kernels") / "mutants/m07-fsdax-refcount.patch"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "vmtests.cases.test_rebind",
         "-k", "patch", "--patch", patch, "--pmem-size", "4G", "--rebinds", "1", "--record", tmp_path / "out"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == ExitCode.KERNEL_FAILED, ran.stdout
    (file,) = (tmp_path / "out").glob("guest-*/vmcore")
    assert f"vmtests memmap check {file}" in ran.stdout
    wrong = [example for _, result in Dump.open(file).check() for example in result.examples]
    assert len(wrong) == 1
    assert str(wrong[0]) in ran.stdout
    look = [sys.executable, "-m", "vmtests.cli", "drgn", str(tmp_path / "out"), "-c", "print(check())"]
    said = command.run(look, seconds=120).stdout
    assert str(wrong[0]) in said
    assert said.endswith("False\n")
