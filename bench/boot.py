"""How long until the first command's output: a guest of vmtests, restored and booted, beside virtme-ng's.

All three run the same kernel under the same accelerator, in turns, so that whatever else the machine does meets them
alike. The kernel is base with what virtme-ng needs to share the host's files (boot.config); the first run builds it.

    python bench/boot.py --restored 20 --cold 3 --vng ~/vng/bin/vng

virtme-ng is no dependency of this project: `python -m venv ~/vng && ~/vng/bin/pip install virtme-ng`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from vmtests import host, image, kernel
from vmtests.command import run
from vmtests.guest import Machine, boot
from vmtests.image import Image
from vmtests.kernel import Kernel

FRAGMENT = Path(__file__).with_name("boot.config")

#: A guest of virtme-ng that takes longer does not boot.
VNG_SECONDS = 180


def ours(built: Kernel, initramfs: Image, machine: Machine, *, restore: bool) -> float:
    """Return the seconds to the first command's output of one of our guests."""
    with (
        tempfile.TemporaryDirectory() as evidence,
        boot(built, initramfs, machine, evidence=Path(evidence), restore=restore, tell=print) as guest,
    ):
        if guest.restored != restore:
            raise SystemExit("this host restores no guests")
        return guest.seconds_to_first_command


def virtme(vng: str, built: Kernel, machine: Machine) -> float:
    """Return the seconds to the first command's output of a guest of virtme-ng."""
    command = [
        *(vng, "--run", str(built.image), "--cpus", str(machine.cpus), "--memory", f"{machine.memory_bytes >> 20}M"),
        *(("--disable-kvm",) if machine.accelerator == "tcg" else ()),
        # Where there is no udev the output comes over the console only, which it keeps to itself otherwise.
        *("--verbose", "--exec", "uname -r"),
    ]
    # It starts others of its programs by name.
    env = {"PATH": os.pathsep.join([str(Path(vng).parent), os.environ["PATH"]])}
    took: list[float] = []
    began = time.monotonic()

    def see(line: str) -> None:
        if line.strip() == built.release:
            took.append(time.monotonic() - began)

    done = run(command, seconds=VNG_SECONDS, env=env, line=see, check=False)
    if not took:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}")
    return took[0]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restored", type=int, default=20, metavar="N", help="restored guests (20)")
    parser.add_argument("--cold", type=int, default=3, metavar="N", help="booted guests (3)")
    parser.add_argument("--vng", metavar="PATH", help="virtme-ng's program; without it, only our own are measured")
    parser.add_argument("--vng-runs", type=int, default=2, metavar="N", help="guests of virtme-ng (2)")
    parser.add_argument("--json", action="store_true", help="for a program")
    arguments = parser.parse_args()

    fragments = [FRAGMENT] if arguments.vng else []
    built = kernel.build(kernel.resolve("base", fragments=fragments), progress=print)
    initramfs = image.build()
    accelerator = host.accelerator(built.image, initramfs.path).name
    machine = Machine(accelerator, cpus=1 if accelerator == "tcg" else 2)
    ours(built, initramfs, machine, restore=True)  # takes the snapshot

    works: dict[str, tuple[int, Callable[[], float]]] = {
        "restored": (arguments.restored, lambda: ours(built, initramfs, machine, restore=True)),
        "cold": (arguments.cold, lambda: ours(built, initramfs, machine, restore=False)),
    }
    if arguments.vng:
        works["virtme-ng"] = (arguments.vng_runs, lambda: virtme(arguments.vng, built, machine))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(max(count for count, _ in works.values())):
        for name, (count, work) in works.items():
            if turn < count:
                seconds[name].append(work())
    load = os.getloadavg()[0]
    if arguments.json:
        print(json.dumps({"accelerator": accelerator, "load": load, "seconds": seconds}))
        return 0
    print(f"{accelerator}, kernel {built.release}, load {load:.1f}; seconds to the first command's output:")
    for name, values in seconds.items():
        if values:
            spread = f"{min(values):.2f} to {max(values):.2f}"
            print(f"  {name:10} median {statistics.median(values):6.2f} of {len(values):2}  ({spread})")
    if seconds.get("virtme-ng"):
        peer = statistics.median(seconds["virtme-ng"])
        ratios = [f"{name} {peer / statistics.median(seconds[name]):.1f}" for name in ("restored", "cold")]
        print(f"  virtme-ng's median over ours: {', '.join(ratios)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
