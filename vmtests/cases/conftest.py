"""What several cases need."""

from pathlib import Path

import pytest

from vmtests import command


@pytest.fixture(scope="session")
def map_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The program map_file.c for the guest, which has no libraries of its own for it."""
    program = tmp_path_factory.mktemp("programs") / "map_file"
    source = Path(__file__).with_name("map_file.c")
    command.run([command.require("gcc"), "-O1", "-Wall", "-static", "-o", program, source], seconds=60)
    return program.read_bytes()
