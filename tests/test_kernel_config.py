from __future__ import annotations

from pathlib import Path

import pytest

from tests import fake_kernel
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel import config
from vmtests.kernel.config import Request
from vmtests.kernel.make import Make, Toolchain, first_errors
from vmtests.kernel.recipe import Recipe


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return Make(fake_kernel.make(tmp_path / "tree"), tmp_path / "build", Toolchain.of("gcc"))


def request_of(tmp_path: Path, fragment: str, *, extra: str = "", start: str | None = None) -> Request:
    for name, text in {"base.config": fragment, "extra.config": extra, "start.config": start or ""}.items():
        (tmp_path / name).write_text(text)
    return Request.of(
        Recipe(
            name="base",
            series="7.3",
            fragments=(tmp_path / "base.config",),
            extra_fragments=(tmp_path / "extra.config",),
            config=tmp_path / "start.config" if start is not None else None,
        )
    )


def test_all_that_was_asked_for_is_there(make: Make, tmp_path: Path) -> None:
    request = request_of(tmp_path, fake_kernel.FRAGMENT, extra="CONFIG_NUMA=y\n")
    path = config.write(request, make)
    assert config.values(path) == {"CONFIG_MODULES": "y", "CONFIG_NUMA": "y"}
    assert config.lost(request, path) == []


def test_a_lost_line_says_where_it_stood_and_why(make: Make, tmp_path: Path) -> None:
    request = request_of(tmp_path, "CONFIG_NUMA=y\nCONFIG_NEEDY=y\nCONFIG_UNHEARD_OF=6\n# CONFIG_TINY is not set\n")
    path = config.write(request, make)
    lost = config.lost(request, path)
    assert [line.symbol for line in lost] == ["CONFIG_NEEDY", "CONFIG_UNHEARD_OF"]
    text = config.explain(lost, path, make.tree)
    assert f"CONFIG_NEEDY=y ({tmp_path}/base.config:2): it is not set; Kconfig:10:" in text
    assert "depends on (NUMA && ABSENT), not set: ABSENT" in text
    assert "CONFIG_UNHEARD_OF=6" in text
    assert "this source has no such option" in text


def test_conditions_around_an_option_count_and_help_does_not(tmp_path: Path) -> None:
    (tmp_path / "Kconfig").write_text(
        'config HELPED\n\tbool "x"\n\thelp\n\t  if not\n\n\t  config NESTED\nif OUTER\nconfig NESTED\n\tbool\nendif\n'
    )
    line = config.Line("CONFIG_NESTED", "y", "f:1")
    (tmp_path / ".config").write_text("")
    text = config.explain([line], tmp_path / ".config", tmp_path)
    assert text.endswith("Kconfig:8: depends on (OUTER), not set: OUTER")


def test_the_last_of_two_lines_wins(tmp_path: Path) -> None:
    request = request_of(tmp_path, "CONFIG_TINY=y\n", extra="# CONFIG_TINY is not set\n")
    assert [str(line) for line in request.lines] == ["# CONFIG_TINY is not set"]


def test_a_given_config_keeps_what_the_recipe_only_switches_off(make: Make, tmp_path: Path) -> None:
    request = request_of(tmp_path, fake_kernel.FRAGMENT, start="CONFIG_TINY=y\nCONFIG_NUMA=y\n")
    path = config.write(request, make)
    assert config.values(path) == {"CONFIG_TINY": "y", "CONFIG_NUMA": "y", "CONFIG_MODULES": "y"}
    assert [str(line) for line in request.added] == ["CONFIG_MODULES=y"]


def test_what_was_added_is_what_the_given_config_has_not_so(tmp_path: Path) -> None:
    start = "CONFIG_MODULES=y\nCONFIG_NUMA=m\n# CONFIG_TINY is not set\n"
    request = request_of(tmp_path, "CONFIG_MODULES=y\nCONFIG_NUMA=y\nCONFIG_TINY=y\nCONFIG_NR=3\n", start=start)
    assert [str(line) for line in request.added] == ["CONFIG_NUMA=y", "CONFIG_TINY=y"]
    assert request_of(tmp_path, "CONFIG_MODULES=y\n").added == ()


def test_a_few_lines_are_checked_and_a_whole_config_is_not(tmp_path: Path) -> None:
    few = "CONFIG_GONE=y\n"
    assert "CONFIG_GONE" in {line.symbol for line in request_of(tmp_path, "", start=few).checked}
    whole = f"#\n# Automatically generated file; DO NOT EDIT.\n{few}"
    assert "CONFIG_GONE" not in {line.symbol for line in request_of(tmp_path, "", start=whole).checked}


def test_comments_and_order_do_not_change_the_digest(tmp_path: Path) -> None:
    one = request_of(tmp_path, "# one\nCONFIG_A=y\nCONFIG_B=6\n").digest()
    other = request_of(tmp_path, "CONFIG_B=6\n\nCONFIG_A=y\n").digest()
    assert one == other
    assert one != request_of(tmp_path, "CONFIG_B=7\nCONFIG_A=y\n").digest()


@pytest.mark.parametrize("text", ["NUMA=y", "CONFIG_NUMA = y", "CONFIG_NUMA", "CONFIG_NUMA=yes"])
def test_what_is_no_line_of_a_config(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"base.config:2: .* is no line of a config"):
        request_of(tmp_path, f"CONFIG_A=y\n{text}\n")


def test_first_errors() -> None:
    output = """\
  CC      lib/error.o
  CC      mm/mm_init.o
../mm/mm_init.c: In function 'f':
../mm/mm_init.c:7:2: error: 'x' undeclared (first use in this function)
    7 |  x = 1;
make[3]: *** [../scripts/Makefile.build:287: mm/mm_init.o] Error 1
make[2]: *** [../scripts/Makefile.build:544: mm] Error 2
  CC      lib/string.o
"""
    errors = first_errors(output)
    assert errors[0] == "../mm/mm_init.c:7:2: error: 'x' undeclared (first use in this function)"
    assert len(errors) == 3
    assert first_errors("") == ["it printed nothing"]


def test_a_missing_compiler() -> None:
    with pytest.raises(HostFailure, match="gcc-0 is not installed"):
        Toolchain.of("gcc-0")


def test_a_compiler_that_setup_does_not_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        HostFailure, match="clang is not installed, and `vmtests setup` does not: apt-get install clang"
    ):
        Toolchain.of("clang")
