from __future__ import annotations

import email.policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests import fake_kernel
from vmtests.errors import HostFailure, KernelFailure, UsageError
from vmtests.kernel import ApplyFailure, BuildFailure, patches, series
from vmtests.record import PatchEntry, RecordWriter
from vmtests.report import summary
from vmtests.run import patches as verdicts
from vmtests.run.options import Options

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = fake_kernel.make(tmp_path / "tree")
    fake_kernel.commit(tree)
    return tree


def diff(tree: Path, old: str, new: str, file: str = "mm/mm_init.c") -> str:
    """Return the diff of a change, and make the change in the tree."""
    path = fake_kernel.patch(tree, file, old, new, tree.parent / "one.diff")
    (tree / file).write_text((tree / file).read_text().replace(old, new))
    return path.read_text()


def mail(subject: str, body: str, *, encoding: str = "7bit", charset: str = "utf-8") -> EmailMessage:
    message = EmailMessage(policy=email.policy.SMTP.clone(linesep="\n", max_line_length=60))
    message["From"] = "A Developer <dev@localhost>"
    message["Subject"] = subject
    message.set_content(body, cte=encoding, charset=charset)
    return message


def mbox(path: Path, *mails: EmailMessage) -> Path:
    """Write mails as b4 does: no line of a body that begins with "From " is escaped."""
    path.write_bytes(b"".join(b"From git@z Thu Jan  1 00:00:00 1970\n" + one.as_bytes() + b"\n" for one in mails))
    return path


def three(tree: Path) -> list[str]:
    """Return three diffs, each on top of those before."""
    return [diff(tree, f"int page{number};", f"long page{number}; /* caf\xe9 */") for number in (7, 20, 33)]


def applied(tree: Path, found: series.Series) -> str:
    fake_kernel.git(tree, "reset", "--quiet", "--hard")
    for patch in found.patches:
        patches.apply(patch, tree, source="the tree")
    return (tree / "mm/mm_init.c").read_text()


def test_mails_in_any_order_and_encoding(tree: Path, tmp_path: Path) -> None:
    one, two, last = three(tree)
    wanted = (tree / "mm/mm_init.c").read_text()
    path = mbox(
        tmp_path / "v5.mbx",
        mail("[PATCH v5 3/3] mm: the third", f"From here on all is well.\n\n---\n{last}", encoding="base64"),
        mail("Re: [PATCH v5 1/3] mm: the first", "> looks good\n"),
        mail(
            "[PATCH v5 1/3] mm: the first, whose subject is so long that a mail folds it somewhere",
            one,
            encoding="8bit",
        ),
        mail("[PATCH v5 0/3] mm: faster", "A cover letter.\n"),
        mail("[RFC PATCH v5 2/3] mm: the café", two, encoding="quoted-printable"),
    )
    found = series.read(str(path), None)
    assert found.base is None
    assert found.subjects == (
        "mm: the first, whose subject is so long that a mail folds it somewhere", "mm: the café", "mm: the third",
    )  # fmt: skip
    assert found.kernels() == ("series-1", "series-2", "series-3")
    assert [patch.name for patch in found.patches][2] == "0003-mm-the-third.patch"
    assert applied(tree, found) == wanted


def test_another_charset_becomes_the_source_s(tree: Path, tmp_path: Path) -> None:
    body = diff(tree, "int page7;", "int page7; /* caf\xe9 */")
    path = mbox(tmp_path / "one", mail("[PATCH] mm: one", body, encoding="quoted-printable", charset="iso-8859-1"))
    assert "café" in applied(tree, series.read(str(path), None))


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        (["[PATCH 1/3] a", "[PATCH 3/3] c"], r"lacks patch 2/3 of the series"),
        (["[PATCH 2/4] a"], r"lacks patches 1/4, 3/4, 4/4 of the series"),
        (["[PATCH 1/2] a", "[PATCH 2/2] b", "[PATCH 2/2] c"], r"has patch 2/2 twice: 'b' and 'c'"),
        (["[PATCH 1/2] a", "[PATCH v2 2/2] b"], r"in more than one version \(v1, v2\)"),
        (["[PATCH 1/2] a", "[PATCH 2/3] b"], r"in more than one length \(2 patches, 3 patches\)"),
        (["[PATCH 3/2] a"], r"has a patch 3/2: 'a'"),
        (["[PATCH 0/2] a", "Re: [PATCH 1/2] a"], r"holds no patch"),
    ],
)
def test_mails_that_are_no_series(tree: Path, tmp_path: Path, subjects: list[str], message: str) -> None:
    body = diff(tree, "int page7;", "long page7;")
    path = mbox(tmp_path / "mbox", *(mail(subject, body) for subject in subjects))
    with pytest.raises(UsageError, match=message):
        series.read(str(path), None)


def test_a_mail_without_a_diff_and_no_mails(tmp_path: Path) -> None:
    path = mbox(tmp_path / "mbox", mail("[PATCH] mm: words", "Only words.\n"))
    with pytest.raises(UsageError, match="patch 1/1, 'mm: words', has no diff"):
        series.read(str(path), None)
    (tmp_path / "text").write_text("no mail at all\n")
    with pytest.raises(UsageError, match="no mbox|holds no patch"):
        series.read(str(tmp_path / "text"), None)


def commits(tree: Path) -> list[str]:
    """Commit three changes; return all four commits."""
    found = [fake_kernel.git(tree, "rev-parse", "HEAD")]
    for number in (7, 20, 33):
        diff(tree, f"int page{number};", f"long page{number};")
        fake_kernel.git(tree, "commit", "--quiet", "--all", f"--message=mm: widen {number}")
        found.append(fake_kernel.git(tree, "rev-parse", "HEAD"))
    return found


def test_a_range(tree: Path) -> None:
    first, *_ = commits(tree)
    (tree / "lib/string.c").write_bytes(b"int string; /* caf\xe9 */\n")
    last = fake_kernel.commit(tree)
    wanted = [(tree / file).read_bytes() for file in ("mm/mm_init.c", "lib/string.c")]
    found = series.read(f"{first}..", str(tree))
    assert found.subjects == ("mm: widen 7", "mm: widen 20", "mm: widen 33", "all")
    assert found.base == f"{tree}@{first}"
    assert series.read(f"HEAD~4..{last[:12]}", str(tree)) == found
    fake_kernel.git(tree, "checkout", "--quiet", first)
    for patch in found.patches:
        patches.apply(patch, tree, source="the tree")
    assert [(tree / file).read_bytes() for file in ("mm/mm_init.c", "lib/string.c")] == wanted


def test_ranges_that_are_no_series(tree: Path) -> None:
    commits(tree)
    fake_kernel.git(tree, "branch", "done")
    fake_kernel.git(tree, "checkout", "--quiet", "-b", "side", "HEAD~3")
    fake_kernel.git(tree, "commit", "--quiet", "--allow-empty", "--message=nothing")
    fake_kernel.git(tree, "branch", "empty")
    fake_kernel.git(tree, "merge", "--quiet", "--no-edit", "done")
    for given, where, message in (
        ("done~3..nowhere", tree, "has no revision 'nowhere'"),
        ("done..done~1", tree, "there is no commit between them"),
        ("done~2..side", tree, "is a merge"),
        ("empty~1..empty", tree, r"\(nothing\) changes nothing"),
        ("empty..done", tree, "is not what they begin on"),
        ("done~3...done", tree, "no range of commits A..B"),
        ("nowhere.mbox", tree, "there is no such file"),
        ("done~3..done", None, "commits of which repository"),
        ("done~3..done", f"{tree}@done", "without @done"),
    ):
        with pytest.raises(UsageError, match=message):
            series.read(given, None if where is None else str(where))


def test_the_kernels_of_a_series(tree: Path) -> None:
    first, *_ = commits(tree)
    options = Options(series=f"{first}..", kernel_tree=str(tree))
    assert options.kernel_names() == ("base", "series-1", "series-2", "series-3")
    assert options.checked_kernels() == options.kernel_names()
    assert options.recipe("base").source == f"{tree}@{first}"
    assert options.recipe("series-2").source == f"{tree}@{first}"
    assert [patch.name for patch in options.recipe("series-2").patches] == [
        "0001-mm-widen-7.patch", "0002-mm-widen-20.patch",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="leave out --kernel and --patch"):
        Options(series="a..b", kernels=("base",))


def test_verdicts_on_patches(tree: Path, tmp_path: Path) -> None:
    first, *_ = commits(tree)
    found = series.read(f"{first}..", str(tree))
    record = RecordWriter(tmp_path / "record", argv=["pytest"], seed=1)
    verdicts.builds(record, found, "base")
    verdicts.builds(record, found, "series-1")
    wrong = BuildFailure("building kernel series-2 failed: mm.c:1: error: no\nmore", status=2, output="no")
    failure = verdicts.fails(record, found, "series-2", wrong)
    assert isinstance(failure, KernelFailure)
    assert str(failure).startswith("patch 2/3 (mm: widen 20) does not build: building kernel series-2 failed")
    assert "exit status: 2" in str(failure)
    with pytest.raises(ApplyFailure) as error:
        patches.apply(found.patches[1], tree, source="the tree")
    failure = verdicts.fails(record, found, "series-3", error.value)
    assert isinstance(failure, HostFailure)
    assert str(failure).startswith("patch 2/3 (mm: widen 20) does not apply: ")
    full = HostFailure("the disk is full")
    assert verdicts.fails(record, found, "series-3", full) is full
    assert [(entry.kernel, entry.number, entry.outcome) for entry in record.entries(PatchEntry)] == [
        ("series-1", 1, "builds"),
        ("series-2", 2, "does-not-build"),
        ("series-3", 3, "does-not-apply"),
    ]
    record.save(1)
    text = summary.render(record, width=120, colour=False)
    assert "2/3    series-2  no " in text
    assert "mm: widen 33" in text
    assert "2/3: building kernel series-2 failed: mm.c:1: error: no" in text
    assert "3/3: patch 2/3 (mm: widen 20), before it, does not apply" in text
