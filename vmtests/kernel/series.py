"""A series of patches: the commits of a range, or the mails of an mbox as `b4 am` writes it."""

from __future__ import annotations

import email
import email.policy
import functools
import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import EmailMessage, Message
from pathlib import Path

from vmtests import cache
from vmtests.errors import UsageError
from vmtests.kernel.commits import commit_of
from vmtests.kernel.git import git
from vmtests.kernel.patches import Patch
from vmtests.kernel.source import split

# What stands in the brackets of a subject, such as "PATCH v5 03/12".
_BRACKETS = re.compile(r"^\s*\[(?P<tag>[^\]]*\bPATCH\b[^\]]*)\]\s*(?P<subject>.*)", re.IGNORECASE | re.DOTALL)
_PLACE = re.compile(r"\b(?P<number>\d+)/(?P<total>\d+)\b")
_VERSION = re.compile(r"\bv(\d+)\b", re.IGNORECASE)

# Where a diff begins.
_DIFF = re.compile(rb"^(diff --git |--- \S+\s*\n\+\+\+ )", re.MULTILINE)


@dataclass(frozen=True)
class Series:
    """Patches in their order.

    Attributes:
        base: DIR@COMMIT that they begin on; None for mails, which do not say.
        patches: as files in the cache.
        subjects: one for each.
    """

    base: str | None
    patches: tuple[Patch, ...]
    subjects: tuple[str, ...]

    def kernels(self) -> tuple[str, ...]:
        """Return the names of the kernels, one a patch: each has its patch and all before it."""
        return tuple(f"series-{number}" for number in range(1, len(self.patches) + 1))


@functools.cache
def read(given: str, tree: str | None) -> Series:
    """Return the series that the user names; the same one until this process ends, whatever the branches do.

    Args:
        given: a range A..B, or the path of an mbox.
        tree: the folder of the repository that a range is of.

    Raises:
        UsageError: it is neither; a revision or a mail is missing, or there is one too many.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return _mbox(path)
    begin, dots, end = given.partition("..")
    if not dots or end.startswith("."):
        raise UsageError(f"--series {given}: there is no such file, and it is no range of commits A..B")
    if tree is None:
        raise UsageError(f"--series {given}: commits of which repository? Give --kernel-tree DIR")
    folder, revision = split(tree)
    if revision is not None:
        raise UsageError(
            f"--series {given} begins on {begin or 'HEAD'}: give --kernel-tree {folder}, without @{revision}"
        )
    return _range(folder, begin or "HEAD", end or "HEAD")


def _range(folder: Path, begin: str, end: str) -> Series:
    first, last = (commit_of(folder, revision) for revision in (begin, end))
    for revision, commit in ((begin, first), (end, last)):
        if commit is None:
            raise UsageError(f"{folder} has no revision {revision!r}: see `git -C {folder} log`")
    assert first is not None
    assert last is not None
    listed = git("rev-list", "--reverse", "--topo-order", "--parents", f"{first}..{last}", cwd=folder).stdout
    commits = [line.split() for line in listed.splitlines()]
    if not commits:
        raise UsageError(f"--series {begin}..{end}: there is no commit between them in {folder}")
    merges = [commit[:12] for commit, *parents in commits if len(parents) != 1]
    if merges:
        raise UsageError(f"--series {begin}..{end}: {merges[0]} is a merge, and a series is one commit on another")
    if commits[0][1] != first:
        raise UsageError(
            f"--series {begin}..{end}: {begin} is not what they begin on, but {commits[0][1][:12]} is: "
            f"rebase them, or give {commits[0][1][:12]}..{end}"
        )
    found = []
    for commit, parent in commits:
        subject = git("show", "--no-patch", "--format=%s", commit, cwd=folder).stdout.strip()
        diff = _diff(folder, parent, commit)
        if not diff:
            raise UsageError(f"--series {begin}..{end}: commit {commit[:12]} ({subject}) changes nothing: leave it out")
        found.append((subject, diff))
    return _kept(f"{folder}@{first}", found)


def _diff(folder: Path, before: str, after: str) -> bytes:
    """Return what one commit changes of another, in bytes as they are: not all source is UTF-8."""
    with tempfile.NamedTemporaryFile(prefix="vmtests-") as file:
        git(
            "diff-tree", "-p", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff",
            "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", f"--output={file.name}", before, after, cwd=folder,
        )  # fmt: skip
        return file.read()


@dataclass(frozen=True)
class _Mail:
    """A mail that may be a patch."""

    version: int
    number: int
    total: int
    subject: str
    content: bytes

    @property
    def place(self) -> str:
        return f"{self.number}/{self.total}"


def _mbox(path: Path) -> Series:
    mails = [mail for mail in map(_mail, _messages(path)) if mail is not None]
    patches = [mail for mail in mails if mail.number]
    if not patches:
        raise UsageError(f"{path} holds no patch: no mail's subject is like '[PATCH 1/3] mm: ...'")
    for what, values in (
        ("version", sorted({f"v{mail.version}" for mail in mails})),
        ("length", sorted({f"{mail.total} patches" for mail in mails})),
    ):
        if len(values) > 1:
            raise UsageError(f"{path} holds a series in more than one {what} ({', '.join(values)}): keep one")
    total = patches[0].total
    by_number: dict[int, _Mail] = {}
    for mail in patches:
        if (other := by_number.setdefault(mail.number, mail)) is not mail:
            raise UsageError(f"{path} has patch {mail.place} twice: {other.subject!r} and {mail.subject!r}")
        if mail.number > total:
            raise UsageError(f"{path} has a patch {mail.place}: {mail.subject!r}")
        if not _DIFF.search(mail.content):
            raise UsageError(f"{path}: patch {mail.place}, {mail.subject!r}, has no diff")
    missing = [f"{number}/{total}" for number in range(1, total + 1) if number not in by_number]
    if missing:
        raise UsageError(f"{path} lacks patch{'es' if len(missing) > 1 else ''} {', '.join(missing)} of the series")
    return _kept(None, [(by_number[number].subject, by_number[number].content) for number in range(1, total + 1)])


def _messages(path: Path) -> Iterator[EmailMessage]:
    """Yield the mails of an mbox, which git splits as `git am` does.

    The standard library's mailbox.mbox would begin a mail at each line "From ...", which b4 does not escape.
    """
    with tempfile.TemporaryDirectory(prefix="vmtests-") as folder:
        done = git("mailsplit", f"-o{folder}", "--", path.resolve(), cwd=Path(folder), check=False)
        if done.returncode != 0:
            raise UsageError(f"{path} is no mbox as `b4 am` writes it", output=done.stdout)
        for mail in sorted(Path(folder).iterdir()):
            yield email.message_from_bytes(mail.read_bytes(), policy=email.policy.default)


def _mail(message: EmailMessage) -> _Mail | None:
    """Return what a mail says, None for one that is no patch, such as an answer to one."""
    found = _BRACKETS.match(str(message["Subject"] or ""))
    if found is None:
        return None
    place, version = _PLACE.search(found["tag"]), _VERSION.search(found["tag"])
    subject = " ".join(found["subject"].split())
    parts = (part for part in message.walk() if part.get_content_maintype() == "text")
    content = b"\n".join(_decoded(part) for part in parts if part.get_content_subtype() != "html")
    return _Mail(
        version=int(version[1]) if version else 1,
        number=int(place["number"]) if place else 1,
        total=int(place["total"]) if place else 1,
        subject=subject,
        content=content.replace(b"\r\n", b"\n"),
    )


def _decoded(part: Message) -> bytes:
    """Return the text of a mail's part in UTF-8, as `git am` does; as it is where its charset is not told right."""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes), "it is no container"
    try:
        return content.decode(part.get_content_charset("utf-8")).encode()
    except (LookupError, UnicodeDecodeError):
        return content


def _kept(base: str | None, found: Sequence[tuple[str, bytes]]) -> Series:
    """Keep the patches as files in the cache."""
    texts = [f"Subject: {subject}\n\n".encode() + content for subject, content in found]
    names = [
        f"{number:04}-{re.sub(r'[^A-Za-z0-9.]+', '-', subject).strip('-.')[:52]}.patch"
        for number, (subject, _) in enumerate(found, 1)
    ]

    def fill(to: Path) -> None:
        for name, text in zip(names, texts, strict=True):
            (to / name).write_bytes(text)

    folder = cache.entry("series", hashlib.sha256(b"\0".join(texts)).hexdigest()[:32], fill)
    patches = tuple(Patch.read(folder / name) for name in names)
    return Series(base, patches, tuple(subject for subject, _ in found))
