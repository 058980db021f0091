"""What several cases need."""

from pathlib import Path

import pytest

from vmtests import command
from vmtests.cases import history_repo
from vmtests.cases.history_repo import Change, History

#: Where each is done: for every page, and once for a range, which no count of instructions for a page shows.
_EACH, _ONCE = "page->zone_device_data = NULL;", "pageblock_migratetype_init_range(start_pfn, nr_pages,"

CHANGES = (
    Change("mm: say what is jumped over", old="the end of that region and", new="the end of the altmap and"),
    Change(
        "mm: write the flags of each ZONE_DEVICE page twice",
        old=_EACH,
        new=f"{_EACH}\n\tWRITE_ONCE(page->flags.f, READ_ONCE(page->flags.f));",
    ),
    Change("mm: half of a change", old=_ONCE, new=_ONCE.replace("(", "_of(", 1)),
    Change("mm: the other half", old=_ONCE.replace("(", "_of(", 1), new=_ONCE),
    Change(
        "mm: take a reference to a page",
        old=_ONCE,
        new=f"set_page_count(pfn_to_page(start_pfn + 12345), 1);\n\t{_ONCE}",
    ),
    Change("mm: say it better", old="the end of the altmap and", new="the end of the pages of the altmap and"),
)


@pytest.fixture(scope="session")
def map_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The program map_file.c for the guest, which has no libraries of its own for it."""
    program = tmp_path_factory.mktemp("programs") / "map_file"
    source = Path(__file__).with_name("map_file.c")
    command.run([command.require("gcc"), "-O1", "-Wall", "-static", "-o", program, source], seconds=60)
    return program.read_bytes()


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A history of the kernel base: the second commit counts more, the third does not build, the fifth is wrong."""
    return history_repo.make(tmp_path_factory.mktemp("history") / "linux", CHANGES)
