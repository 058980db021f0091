"""Every command that README.md and docs/ tell a reader to type: run where it needs no guest, else at least taken.

What needs a guest is run by vmtests/cases/test_docs.py in the full tier. A line that looks like a command and is of no
known kind, an option or a verb that does not exist, and a -k that selects no test are errors of the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fake_kernel
from tests.fake_report import full
from tests.test_cli_help import VERBS
from vmtests.cases.doc_commands import PAGES, ROOT, Command, blocks, commands, pytest_words
from vmtests.cli import _parser, main
from vmtests.errors import ExitCode

ALL = [command for page in PAGES for command in commands(page)]

#: Verbs that are run here, on records that were made for it; and the exit codes that they may end with.
RUN = {
    "report": {0},
    "compare": {0},
    "history add": {0},
    "history show": {0},
    "history check": {0, 1},
    "kernel list": {0},
    "clean": {0, 2},  # 2: the guest that a page names is not there
    "doctor": {0, 3},
}
#: Verbs that are only parsed here, and why.
PARSED = {
    "setup": "installs packages; tests/test_host_packages.py",
    "kernel build": "builds a kernel; every VM test does",
    "image build": "fetches packages; vmtests/cases/test_docs.py",
    "image show": "fetches packages; vmtests/cases/test_docs.py",
    "boot": "needs a guest; vmtests/cases/test_boot.py",
    "drgn": "needs a guest or a dump; vmtests/cases/test_keep.py",
    "memmap check": "needs a guest or a dump; vmtests/cases/test_keep.py, test_vmcore.py",
    "vmcore": "needs a guest; vmtests/cases/test_keep.py",
    "crash": "needs a dump; vmtests/cases/test_vmcore.py",
    "history accept": "needs the id of a series; tests/test_history.py",
    "bisect": "needs guests; its case in vmtests/cases",
}
#: Other programs, which are not ours to test: what they are there for.
OTHERS = {
    "apt-get": "installs what tox needs",
    "pip": "installs vmtests",
    "git": "of the reader's own tree",
    "python": "the nightly; tests/test_nightly_files.py",
    "cp": "the nightly's units; tests/test_nightly_files.py",
    "systemctl": "the nightly's units; tests/test_nightly_files.py",
    "loginctl": "lets them run when nobody is logged in",
    "drgn": "vmtests/cases/test_vmcore.py types it",
}


def verb_of(command: Command) -> str:
    """Return the verb that a vmtests command has, of the known ones."""
    words = command.words[1:]
    known = {*RUN, *PARSED}
    found = next((verb for verb in (" ".join(words[:2]), *words[:1]) if verb in known), None)
    assert found, f"{command}: say in RUN or PARSED what is to be done with it"
    return found


def is_a_mention(command: Command) -> bool:
    """Return whether it only names a verb, in the text: `vmtests clean`; or asks for help."""
    words = [word for word in command.words[1:] if word not in ("--help", "VERB")]
    return command.inline and " ".join(words) in VERBS


def test_there_are_pages() -> None:
    assert {"README.md", "docs/report.md", "docs/extending.md", "docs/troubleshooting.md"} <= {one.page for one in ALL}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_indented_is_an_unknown_command(page: Path) -> None:
    for block in blocks(page):
        for line in block.others():
            word = line.split()[0]
            assert line.startswith(" ") or not shutil.which(word), f"{block.page}: is this a command? {line}"
    for command in commands(page):
        assert command.program in {"vmtests", "pytest", "tox", *OTHERS}, f"{command}: what is to be done with it?"


@pytest.mark.parametrize("command", [one for one in ALL if one.program == "vmtests"], ids=str)
def test_vmtests_takes_it(command: Command) -> None:
    if is_a_mention(command):
        return
    verb_of(command)
    try:
        _parser().parse_args(command.words[1:])
    except SystemExit:
        pytest.fail(f"{command} cannot be typed", pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_needs_no_guest_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the records that pages speak of; a page's commands follow on one another."""
    typed = [one for one in commands(page) if one.program == "vmtests" and not is_a_mention(one)]
    if not (typed := [one for one in typed if verb_of(one) in RUN]):
        return
    for name in ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    for folder in (runs / "monday", runs / "counts", tmp_path / "RECORD", tmp_path / "out", tmp_path / "out1"):
        full(folder)
    for folder in (runs / "tuesday", tmp_path / "out2"):
        full(folder, kernels=(("base", 55.27), ("patched", 13.2)))
    full(runs / "times", clock="wall", pairs=6, kernels=(("base", 273.0), ("patched", 104.0)))
    for command in typed:
        words = [re.sub("^~", str(tmp_path / "home"), word) for word in command.words[1:]]
        assert main(words) in RUN[verb_of(command)], command
        if "-o" in words:
            assert Path(words[words.index("-o") + 1]).stat().st_size > 1000


# Collects for each list of arguments, in one process: what takes long is to import what the tests need.
COLLECT = """
import contextlib, gc, io, json, sys, pytest
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = int(pytest.main([*words, "--collect-only", "-q", "-p", "no:cacheprovider"]))
        except SystemExit as error:
            code = error.code
    print(json.dumps([code, said.getvalue()[-2000:]]), flush=True)
    gc.freeze()  # pytest ends with five collections
"""


def made_up_trees(home: Path) -> None:
    """Make the trees and the mbox of the pages' readers: ~/linux with its revisions, ~/linux-next, series.mbx."""
    tree = fake_kernel.make(home / "linux")
    (tree / "arch/x86/boot").mkdir(parents=True, exist_ok=True)
    for built in ("arch/x86/boot/bzImage", "vmlinux"):
        (tree / built).touch()
    fake_kernel.commit(tree)
    fake_kernel.git(tree, "tag", "v7.3")
    shutil.copytree(tree, home / "linux-next")
    fake_kernel.git(tree, "checkout", "--quiet", "-b", "my-branch")
    (tree / "mm/mm_init.c").write_text((tree / "mm/mm_init.c").read_text() + "/* faster */\n")
    fake_kernel.commit(tree)
    mails = fake_kernel.git(tree, "format-patch", "--stdout", "--subject-prefix=PATCH v5", "--numbered", "v7.3")
    (home / "series.mbx").write_text(mails)


def test_pytest_and_tox_take_it(tmp_path: Path) -> None:
    """Every option exists, and -k selects something; files and trees of the reader's are made up."""
    patch = next((ROOT / "kernels/patches").rglob("0001*.patch"))
    made_up_trees(tmp_path)
    given = {
        "0001-mine.patch": str(patch),
        "0002-more.patch": str(patch),
        "kasan.config": str(ROOT / "kernels/fragments/kasan.config"),
        "~/my.config": str(ROOT / "kernels/fragments/base.config"),
        "v5_20261101_me_template.mbx": str(tmp_path / "series.mbx"),
        "$HOME": str(tmp_path),
        "results.xml": str(tmp_path / "results.xml"),
        "~": str(tmp_path),
    }
    typed = [one for one in ALL if one.program in ("pytest", "tox")]
    jobs = []
    for command in typed:
        words = pytest_words(command)
        for written, real in given.items():
            words = [word.replace(written, real) for word in words]
        if command.inline and not any(not word.startswith("-") for word in words):
            words.append("vmtests/")  # only options are named, as in `pytest --keep`
        jobs.append(words)
    done = subprocess.run(
        [sys.executable, "-c", COLLECT],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    for command, (code, said) in zip(typed, outcomes, strict=True):
        assert code == ExitCode.PASSED, f"{command}\n{said}"


def test_pictures_are_there_and_small() -> None:
    for page in PAGES:
        for name in re.findall(r"!\[.+\]\((.+)\)", page.read_text(encoding="utf-8")):
            assert 0 < (page.parent / name).stat().st_size < 250_000, f"{page}: {name}"


def test_every_finding_of_the_doctor_is_told_of() -> None:
    """Each row that it can print has a paragraph in docs/troubleshooting.md, and there are no others."""
    rows = re.findall(r"(?:Row|_amount|_packages)\(\"([a-zA-Z ]+)\"", (ROOT / "vmtests/host/doctor.py").read_text())
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    told = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(told) == len(set(told)) >= 11
    assert set(told) == set(rows)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).exists(), f"{page}: {name}"


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in text, f"README.md does not name {page.name}"
