"""Building kernels in the cache: once for each content, and only what a patch changes.

An entry `kernels/KEY/` has bzImage, vmlinux, config, System.map, build.log and kernel.json. That of a kernel without
patches has its objects too, unless few were compiled for it: a variant, which has the same source, config and compiler,
starts from a copy of them. So does a kernel with another config: kbuild knows for each object which options it depends
on (scripts/basic/fixdep.c); and one of another commit, whose files that differ are made newer than the objects.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from vmtests import cache
from vmtests.command import run
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel import config as kconfig
from vmtests.kernel import own, patches, source, stock
from vmtests.kernel.config import Request
from vmtests.kernel.kernel import Kernel
from vmtests.kernel.make import BuildFailure, Make, Toolchain
from vmtests.kernel.patches import Patch
from vmtests.kernel.recipe import Recipe
from vmtests.kernel.source import DEBIAN, STOCK, Source

# Part of every key: raised when the way to build changes what comes out.
_FORMAT = 1

# A build's tree, objects and results, and the source, with room to spare.
_ROOM = 5 << 30

# A kernel that took fewer new objects does not keep them: whoever comes next starts where it did.
_WORTH_KEEPING = 100

# What linking makes anew in any case, as patterns in the build folder.
_LINKED = (
    "vmlinux", "vmlinux.*", ".tmp_vmlinux*", "arch/x86/boot/compressed/vmlinux*", "arch/x86/boot/*.bin",
    "arch/x86/boot/bzImage",
)  # fmt: skip


def build(recipe: Recipe, *, progress: Callable[[str], None] | None = None) -> Kernel:
    """Build the kernel, or find it in the cache; what others have built is taken as it is.

    Args:
        recipe: what it is made of.
        progress: told what is being done, a short line at a time.

    Raises:
        UsageError: a tree or a revision that is not there, files that do not belong together.
        HostFailure: no source, a patch that does not apply, a config line that Kconfig drops, a compiler's error.
    """
    tell = progress or (lambda _: None)
    if recipe.files is not None:
        return own.take(recipe.name, *recipe.files, recipe.config, tell)
    if recipe.source == STOCK:
        if recipe.patches:
            raise UsageError(f"{recipe.name} is Debian's own build: no patch goes into it")
        return stock.fetch(recipe.name, recipe.series, tell)
    plan = _plan(recipe, progress)
    started = time.monotonic()
    key = plan.key()
    cached = cache.find("kernels", key) is not None
    entry = plan.entry()
    said = json.loads((entry / "kernel.json").read_text())
    return Kernel(
        name=recipe.name,
        release=said["release"],
        image=entry / "bzImage",
        vmlinux=entry / "vmlinux",
        config=entry / "config",
        config_sha256=said["config_sha256"],
        source=plan.source.title,
        compiler=plan.toolchain.compiler,
        patches=recipe.patches,
        build_seconds=None if cached else round(time.monotonic() - started, 1),
        key=key,
        diff=plan.source.diff.path if plan.source.diff else None,
        added_options=tuple(map(str, plan.request.added)),
    )


def compile_object(recipe: Recipe, target: str, *, progress: Callable[[str], None] | None = None) -> Path:
    """Compile one file of a kernel, which takes seconds, or find the object in the cache, and return it.

    Args:
        recipe: of the kernel.
        target: such as "mm/mm_init.o".
        progress: told what is being done, a short line at a time.

    Raises:
        UsageError, HostFailure: as `build` does.
    """
    plan = _plan(recipe, progress)
    key = hashlib.sha256(f"{plan.key()}\0{target}".encode()).hexdigest()[:32]
    return cache.entry("objects", key, lambda to: plan.fill_object(to, target)) / Path(target).name


def _plan(recipe: Recipe, progress: Callable[[str], None] | None) -> _Plan:
    tell = progress or (lambda _: None)
    if re.search(r"[\s:]", str(cache.root())):
        raise HostFailure(
            f"no kernel builds in {cache.root()}, for make: set XDG_CACHE_HOME to a folder without ' ' and ':'"
        )
    found = source.find(recipe.source, recipe.series, tell)
    return _Plan(
        recipe=recipe,
        source=found,
        toolchain=Toolchain.of(recipe.cc),
        request=Request.of(recipe),
        patches=(*([found.diff] if found.diff else []), *recipe.patches),
        tell=tell,
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A kernel to build, all of whose ingredients are known."""

    recipe: Recipe
    source: Source
    toolchain: Toolchain
    request: Request
    # In the order to apply them, uncommitted edits first.
    patches: tuple[Patch, ...]
    tell: Callable[[str], None] = field(compare=False)
    # Options that patches bring are lost in the base that those patches are put on.
    is_base: bool = False

    def key(self) -> str:
        """Return the name of the entry."""
        shas = " ".join(patch.sha256 for patch in self.patches)
        parts = [str(_FORMAT), self.source.identity, self.config().read_text(), shas, str(self.toolchain)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def entry(self) -> Path:
        """Return the folder of the built kernel."""
        return cache.entry(
            "kernels", self.key(), self._fill, waiting=lambda: self.tell("another run is building it: waiting")
        )

    def config(self) -> Path:
        """Return the final .config, with all that was asked for."""
        new_options = any(Path(file).name.startswith("Kconfig") for patch in self.patches for file in patch.files())
        shas = " ".join(patch.sha256 for patch in self.patches) if new_options else ""
        parts = [str(_FORMAT), self.source.identity, self.request.digest(), shas, str(self.toolchain)]

        def fill(to: Path) -> None:
            tree = self._patched(to / "linux") if new_options else self.source.tree(self.tell)
            made = kconfig.write(self.request, Make(tree, to / "build", self.toolchain))
            made.rename(to / "config")
            for rest in ("build", "linux"):
                shutil.rmtree(to / rest, ignore_errors=True)

        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
        path = cache.entry("configs", key, fill) / "config"
        lost = [] if self.is_base else kconfig.lost(self.request, path)
        if lost:
            raise BuildFailure(
                f"kernel {self.recipe.name}: {self.source.title} drops {len(lost)} of the {len(self.request.checked)}"
                f" config lines that are asked for:\n{kconfig.explain(lost, path, self.source.tree(self.tell))}",
                evidence=[path],
            )
        return path

    def fill_object(self, to: Path, target: str) -> None:
        """Compile one file into the folder of a new entry, with what is built already of the nearest kernel."""
        make, _ = self._begin(to / "linux")
        (make.build / ".config").write_bytes(self.config().read_bytes())
        make(target, what=f"compiling {target} of kernel {self.recipe.name} failed", seconds=1800)
        (make.build / target).rename(to / Path(target).name)
        shutil.rmtree(make.tree)

    def _fill(self, to: Path) -> None:
        """Build into the folder of a new entry."""
        cache.sweep()
        free = shutil.disk_usage(to).free
        if free < _ROOM:
            raise HostFailure(
                f"building a kernel needs {_ROOM >> 30} GiB and {cache.root()} has {free / (1 << 30):.1f} GiB free:"
                " make room, or set XDG_CACHE_HOME to a folder with more"
            )
        if self.patches:
            self._base(to)
        make, adopted = self._begin(to / "linux")
        tree, build = make.tree, make.build
        content = self.config().read_bytes()
        if not adopted or (build / ".config").read_bytes() != content:
            (build / ".config").write_bytes(content)
        compiled = self._compile(make, to / "build.log")
        release = (build / "include/config/kernel.release").read_text().strip()
        shutil.copy(build / ".config", to / "config")
        for name in ("arch/x86/boot/bzImage", "vmlinux", "System.map"):
            (build / name).rename(to / Path(name).name)
        if not self.patches and (not adopted or compiled >= _WORTH_KEEPING):
            for pattern in _LINKED:
                for path in build.glob(pattern):
                    path.unlink()
            build.rename(to / "objects")
        shutil.rmtree(tree)
        said = {
            "release": release,
            "config_sha256": hashlib.sha256((to / "config").read_bytes()).hexdigest(),
            "source": self.source.title,
            "identity": self.source.identity,
            "compiler": self.toolchain.compiler,
            "linker": self.toolchain.linker,
            "patches": [patch.to_json() for patch in self.patches],
        }
        (to / "kernel.json").write_text(json.dumps(said, indent=1) + "\n")

    def _base(self, to: Path) -> None:
        """Build the same kernel without patches first, if it does build: it is wanted by itself most of the time."""
        base = replace(self, patches=(), is_base=True)
        if cache.find("kernels", base.key()) is None:
            # Minutes are better spent once it is known that the patches apply. The tree is not kept: what make compiles
            # again are the files that are newer than the base's objects.
            shutil.rmtree(self._patched(to / "trial"))
        try:
            base.entry()
        except HostFailure as error:
            if error.status is None:
                raise
            self.tell("what it is based on does not build: building it whole")

    def _begin(self, to: Path) -> tuple[Make, bool]:
        """Make the tree to build and its build folder; return whether that has objects already."""
        start = self._nearest()
        tree = self._patched(to)
        make = Make(tree, tree / "build", self.toolchain)
        if start is None:
            make.build.mkdir()
            return make, False
        objects, changed = start
        make.adopt(objects)
        for name in changed:
            _renew(tree / name)
        return make, True

    def _nearest(self) -> tuple[Path, list[str]] | None:
        """Return the objects of a built kernel that leave least to be compiled, and what their source has not so."""
        wanted = set(self.config().read_text().splitlines())
        ours = (self.toolchain.compiler, self.toolchain.linker)
        found: list[tuple[int, Path, list[str]]] = []
        for entry in (cache.root() / "kernels").glob("[!.]*"):
            if not (entry / "objects").is_dir():
                continue
            said = json.loads((entry / "kernel.json").read_text())
            if (said["compiler"], said["linker"]) != ours:
                continue
            # An entry without identity was made when there was nothing to be told by it but the same source.
            identity = said.get("identity", self.source.identity if said["source"] == self.source.title else "")
            if (changed := self.source.changed(identity)) is not None:
                apart = wanted ^ set((entry / "config").read_text().splitlines())
                found.append((len(changed) + len(apart), entry, changed))
        if not found:
            return None
        _, entry, changed = min(found)
        return None if cache.hold(entry) is None else (entry / "objects", changed)

    def _patched(self, to: Path) -> Path:
        """Make the tree to build: hard links to the pristine one, and new files where a patch changes them."""
        pristine = self.source.tree(self.tell)
        if self.recipe.source == DEBIAN:
            for file, word in self.recipe.absent:
                if (pristine / file).is_file() and word in (pristine / file).read_text(errors="replace"):
                    raise HostFailure(
                        f"kernel {self.recipe.name}: {file} of {self.source.title} says {word!r}, so it has the change"
                        " already that this kernel is to be measured without: name another series in the recipe"
                    )
        self.tell("preparing the tree")
        run(["cp", "--archive", "--link", pristine, to], seconds=600)
        for patch in self.patches:
            patches.apply(patch, to, source=self.source.title)
        return to

    def _compile(self, make: Make, log: Path) -> int:
        """Build, and return how many objects had to be compiled."""
        name = f"{self.recipe.name} without its patches" if self.is_base else self.recipe.name
        compiled = 0

        def count(line: str) -> None:
            nonlocal compiled
            if line.startswith(("  CC ", "  AS ")):
                compiled += 1
                self.tell(f"{'first its base: ' if self.is_base else ''}{compiled} objects compiled")
            elif line.startswith("  LD ") and line.endswith("vmlinux.o"):
                self.tell("linking")

        try:
            make("bzImage", what=f"building kernel {name} failed", seconds=7200, log=log, line=count)
        except HostFailure as error:
            # The entry goes, its log stays.
            kept = cache.root() / "logs" / f"kernel-{self.recipe.name}-{os.getpid()}.log"
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(log, kept)
            error.evidence = (kept,)
            raise
        return compiled


def _renew(path: Path) -> None:
    """Make a file newer than all objects, by a copy of its own: it is a hard link to that of the pristine tree."""
    if path.is_symlink() or not path.is_file():
        return
    temporary = path.with_name(f".{path.name}.new")
    shutil.copy(path, temporary)
    temporary.replace(path)
