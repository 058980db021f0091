"""What is shown of a report: places with their lines, no registers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vmtests.guest import trace

SOURCE = """\
int *volatile where;
static inline __attribute__((always_inline)) int inner(int x)
{
	return *where + x;
}
__attribute__((noinline)) int outer(int x)
{
	int y = inner(x);
	return y * 3;
}
int _start(void)
{
	int y = outer(1);
	return y + 1;
}
"""

REPORT = """\
[    6.677927] BUG: kernel NULL pointer dereference, address: 0000000000000060
[    6.687897] RIP: 0010:outer+0x{rip:x}/0x40
[    6.688198] Code: f8 71 49 00 4d <8b> 04 25
[    6.691851] RSP: 0018:ff11000000d43bb8 EFLAGS: 00000206
[    6.692081] RAX: 00000000000fbe00 RBX: 00000000fffb7c45 RCX: 0000000000000000
[    6.693376] R10: ff1100007ffd61f8 R11: ff11000000e922b8 R12: 0000000000000000
[    6.697048] FS:  00007f299558b4c0(0000) GS:ff110000fab5e000(0000) knlGS:0000000000000000
[    6.697440] CR2: 0000000000000060 CR3: 00000000036ec000 CR4: 00000000003516b0
[    6.697733] Call Trace:
[    6.716576]  ? outer+0x1/0x40
[    6.717052]  _start+0x{caller:x}/0x40
[    6.717645]  elsewhere+0x3c3/0x550
[    6.723583] RIP: 0033:0x7f2995c44350
[    6.732797] ---[ end trace 0000000000000000 ]---
[    6.733814] RIP: 0010:outer+0x{rip:x}/0x40
[    6.734120] Kernel panic - not syncing: Fatal exception
"""


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that is linked where a kernel is."""
    folder = tmp_path_factory.mktemp("trace")
    (folder / "mm").mkdir()
    (folder / "mm/x.c").write_text(SOURCE)
    flags = ["-g", "-O1", "-mcmodel=kernel", "-fno-pie", "-no-pie", "-nostdlib", "-static", "-fcf-protection=none"]
    flags += [f"-fdebug-prefix-map={folder}=/linux", "-Wl,-Ttext=0xffffffff81000000"]
    subprocess.run(
        [
            "gcc",
            *flags,
            f"-fdebug-prefix-map={folder}=/linux",
            "-Wl,-Ttext=0xffffffff81000000",
            "mm/x.c",
            "-o",
            "vmlinux",
        ],
        cwd=folder,
        check=True,
    )
    return folder / "vmlinux"


def offset(vmlinux: Path, function: str, mnemonic: str) -> tuple[int, int]:
    """Return where in the function the first such instruction is, and the one behind it."""
    listing = subprocess.run(
        ["objdump", "-d", f"--disassemble={function}", "--no-show-raw-insn", vmlinux],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    code = [line.split(":\t") for line in listing.splitlines() if ":\t" in line]
    at = [int(address, 16) for address, _ in code]
    found = next(index for index, (_, text) in enumerate(code) if text.startswith(mnemonic))
    return at[found] - at[0], at[found + 1] - at[0]


def test_places_have_their_lines_and_registers_go(vmlinux: Path) -> None:
    rip, _ = offset(vmlinux, "outer", "add")
    _, caller = offset(vmlinux, "_start", "call")
    assert trace.readable(REPORT.format(rip=rip, caller=caller), vmlinux).splitlines() == [
        "[    6.677927] BUG: kernel NULL pointer dereference, address: 0000000000000060",
        f"[    6.687897] RIP: 0010:outer+0x{rip:x}/0x40  inner mm/x.c:4, in mm/x.c:8",
        "[    6.697733] Call Trace:",
        "[    6.716576]  ? outer+0x1/0x40",
        f"[    6.717052]  _start+0x{caller:x}/0x40  mm/x.c:13",
        "[    6.717645]  elsewhere+0x3c3/0x550",
        "[    6.734120] Kernel panic - not syncing: Fatal exception",
    ]


def test_without_debug_info(tmp_path: Path) -> None:
    assert trace.readable("[    1.000000]  outer+0x1/0x40", None) == "[    1.000000]  outer+0x1/0x40"
    (tmp_path / "vmlinux").write_bytes(b"not an ELF file")
    assert trace.readable("[    1.000000]  outer+0x1/0x40", tmp_path / "vmlinux") == "[    1.000000]  outer+0x1/0x40"
    assert trace.readable("[    1.000000]  outer+0x1/0x40", tmp_path / "none") == "[    1.000000]  outer+0x1/0x40"


def test_a_size_that_does_not_fit_is_another_function(vmlinux: Path) -> None:
    assert trace.readable("[    1.000000]  outer+0x1/0x400", vmlinux) == "[    1.000000]  outer+0x1/0x400"
