"""A tree that looks like a kernel to vmtests, has a real Makefile, and builds in a fraction of a second."""

from __future__ import annotations

import subprocess
from pathlib import Path

# Kconfig here: an option is "config NAME", an option that says "depends on" is never on; the last line of each wins.
MAKEFILE = r"""
MAKEFLAGS += --no-print-directory --no-builtin-rules
objects := mm/mm_init.o lib/string.o
ifndef sub
tinyconfig olddefconfig bzImage mm/mm_init.o:
	@mkdir -p $(O)
	@$(MAKE) -C $(O) -f $(CURDIR)/Makefile sub=1 srctree=$(if $(filter $(CURDIR)/build,$(O)),..,$(CURDIR)) $@
mrproper:
	@rm -rf .config include/generated
else
tinyconfig:
	@printf '# CONFIG_MODULES is not set\nCONFIG_TINY=y\n' > .config
olddefconfig:
	@awk 'FILENAME ~ /Kconfig/ { if ($$1 == "config") last = $$2; if ($$1 == "config") known["CONFIG_" last] = 1; \
		if ($$1 == "depends") delete known["CONFIG_" last]; next } \
		{ split($$0, part, /[= ]/); name = $$1 == "#" ? part[2] : part[1] } \
		name in known { if (!(name in line)) order[++n] = name; line[name] = $$0 } \
		END { for (i = 1; i <= n; i++) print line[order[i]] }' $(srctree)/Kconfig .config > .config.new
	@mv .config.new .config
bzImage: arch/x86/boot/bzImage include/config/kernel.release System.map
# As in a kernel: a tool that everything depends on, made again when its command, which has absolute paths, changes.
tool := tools/objtool/objtool
$(tool): FORCE
	@mkdir -p $(@D)
	@echo "make $(CURDIR)/$@" > $@.new
	@cmp -s $@.new $(@D)/.objtool.cmd || { cp $@.new $(@D)/.objtool.cmd; touch $@; }
FORCE:
# As fixdep would tell: one object depends on an option, the other on none.
mm/mm_init.o: .config
$(objects): %.o: $(srctree)/%.c $(tool)
	@echo "  CC      $@"
	@mkdir -p $(@D)
	@$(CC) $(KCFLAGS) -g -c -o $@ $<
vmlinux: $(objects)
	@echo "  LD      $@"
	@cat $^ > $@
arch/x86/boot/bzImage: vmlinux
	@mkdir -p $(@D)
	@cp $< $@
include/config/kernel.release:
	@mkdir -p $(@D)
	@echo 7.3.4-fake$(LOCALVERSION) > $@
System.map:
	@touch $@
endif
"""

KCONFIG = """\
config TINY
	bool "Tiny"
config MODULES
	bool "Modules"
	help
		Say y, or
		if you must, n.
config NUMA
	bool "Memory in nodes"
config NEEDY
	bool "Needs more"
	depends on NUMA && ABSENT
"""

FRAGMENT = "# what the tests need\nCONFIG_MODULES=y\n# CONFIG_TINY is not set\n"


def make(tree: Path) -> Path:
    """Write the tree; return it."""
    for folder in ("mm", "lib", "arch/x86"):
        (tree / folder).mkdir(parents=True)
    (tree / "Makefile").write_text(MAKEFILE)
    (tree / "Kconfig").write_text(KCONFIG)
    (tree / "arch/x86/Makefile").write_text("# x86\n")
    (tree / "mm/mm_init.c").write_text("".join(f"int page{line};\n" for line in range(40)))
    (tree / "lib/string.c").write_text("int string;\n")
    (tree / ".gitignore").write_text("*.o\n.config\n")
    return tree


def git(tree: Path, *arguments: str) -> str:
    """Run git in the tree, as the tree's owner would."""
    settings = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
    return subprocess.run(
        ["git", *settings, *arguments], cwd=tree, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(tree: Path) -> str:
    """Make the tree a repository, or commit what has changed; return the commit."""
    git(tree, "init", "--quiet")
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message=all")
    return git(tree, "rev-parse", "HEAD")


def patch(tree: Path, file: str, old: str, new: str, to: Path) -> Path:
    """Write a patch that changes `old` to `new` in a file of the tree, whose content stays."""
    before = (tree / file).read_text()
    assert old in before
    work = to.parent / f"{to.name}.work"
    for side, text in (("a", before), ("b", before.replace(old, new))):
        (work / side / file).parent.mkdir(parents=True, exist_ok=True)
        (work / side / file).write_text(text)
    diff = subprocess.run(
        ["diff", "-u", f"a/{file}", f"b/{file}"], cwd=work, capture_output=True, text=True, check=False
    )
    to.write_text(f"diff --git a/{file} b/{file}\n{diff.stdout}")
    return to
