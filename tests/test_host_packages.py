"""`vmtests setup` installs what is missing and nothing else, as root only; `vmtests doctor` tells what there is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.fake_programs import FakePrograms, programs
from vmtests.errors import ExitCode, HostFailure
from vmtests.host import doctor, packages
from vmtests.host.kvm import Accelerator
from vmtests.host.packages import NEEDS

__all__ = ["programs"]

ALL = [need.package for need in NEEDS]

#: Knows what the file `installed` lists, and fails when asked for anything else, as dpkg-query does.
DPKG_QUERY = """
shift 2
while read -r known; do
    for asked; do [ "$asked" = "$known" ] && echo "$known installed"; done
done <{folder}/installed
echo "gcc config-files"
exit 1
"""

#: Installs every argument that is no option.
APT_GET = """
case $* in *update*) exit 0 ;; esac
for word; do echo "$word" >>{folder}/installed; done
"""


@pytest.fixture
def debian(programs: FakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """A Debian on which all but bc and gcc is installed, with fresh lists."""
    installed = [name for name in ALL if name not in ("bc", "gcc")]
    (programs.folder / "installed").write_text("".join(f"{name}\n" for name in installed))
    programs.add("dpkg-query", DPKG_QUERY.format(folder=programs.folder))
    programs.add("apt-get", APT_GET.format(folder=programs.folder))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "mirror_InRelease").touch()
    monkeypatch.setattr(packages, "_LISTS", lists)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("VMTESTS_SETUP", raising=False)
    return programs


def test_what_is_missing(debian: FakePrograms) -> None:
    assert packages.missing() == ("bc", "gcc")
    debian.add("gcc")
    assert packages.missing() == ("bc",)


def test_root_installs_only_what_is_missing(debian: FakePrograms) -> None:
    said: list[str] = []
    assert packages.setup(said.append) == ExitCode.PASSED
    assert [call.split("--no-install-recommends")[1] for call in debian.calls("apt-get")] == [" bc gcc"]
    assert said[-1] == "vmtests: installed bc gcc"
    assert "gcc is missing: compiles kernels" in said[1]
    assert packages.setup(said.append) == ExitCode.PASSED
    assert len(debian.calls("apt-get")) == 1


@pytest.mark.parametrize("age", [None, 3 * 24 * 3600])
def test_missing_and_old_lists_are_fetched_first(debian: FakePrograms, age: float | None) -> None:
    for path in packages._LISTS.iterdir():
        if age is None:
            path.unlink()
        else:
            os.utime(path, (time.time() - age,) * 2)
    assert packages.setup(print) == ExitCode.PASSED
    assert ["update" in call for call in debian.calls("apt-get")] == [True, False]


def test_lists_that_turn_out_to_be_stale_are_fetched(debian: FakePrograms) -> None:
    stale = f"case $* in *update*) >{debian.folder}/fresh ;; esac; [ -e {debian.folder}/fresh ] || exit 100\n"
    debian.add("apt-get", stale + APT_GET.format(folder=debian.folder))
    assert packages.setup(print) == ExitCode.PASSED
    assert ["update" in call for call in debian.calls("apt-get")] == [False, True, False]


def test_a_failed_installation_is_told_with_its_output(debian: FakePrograms) -> None:
    debian.add("apt-get", "echo E: no space left; exit 100")
    with pytest.raises(HostFailure, match="installing the missing packages failed") as raised:
        packages.setup(print)
    assert "no space left" in str(raised.value)


def test_an_installation_that_changes_nothing_is_no_success(debian: FakePrograms) -> None:
    debian.add("apt-get")
    with pytest.raises(HostFailure, match="and yet bc gcc is missing"):
        packages.setup(print)


@pytest.mark.parametrize("sudo", [None, "exit 1"])
def test_a_user_gets_the_command_to_type(
    debian: FakePrograms, monkeypatch: pytest.MonkeyPatch, sudo: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if sudo is not None:
        debian.add("sudo", sudo)
        monkeypatch.setenv("VMTESTS_SETUP", "1")
    said: list[str] = []
    assert packages.setup(said.append) == ExitCode.HOST_FAILED
    assert "apt-get install --yes --no-install-recommends bc gcc" in said[-1]
    assert not debian.calls("apt-get")


def test_what_only_tests_want(debian: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed when it is asked for; a user who may not can do without."""
    (debian.folder / "installed").write_text("".join(f"{name}\n" for name in ALL))
    assert packages.setup(print) == ExitCode.PASSED
    assert not debian.calls("apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said: list[str] = []
    assert packages.setup(said.append, tests=True) == ExitCode.PASSED
    assert "install --yes --no-install-recommends chromium-headless-shell" in said[-1]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert packages.setup(print, tests=True) == ExitCode.PASSED
    assert debian.calls("apt-get")[-1].endswith(" chromium-headless-shell")


def test_a_user_may_allow_sudo(debian: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    debian.add("sudo", 'shift; [ "$1" = true ] || "$@"')
    assert packages.setup(print) == ExitCode.HOST_FAILED
    monkeypatch.setenv("VMTESTS_SETUP", "1")
    assert packages.setup(print) == ExitCode.PASSED
    assert "DEBIAN_FRONTEND=noninteractive" in debian.calls("sudo")[-1]


def test_a_host_without_dpkg_is_told_what_it_lacks(programs: FakePrograms) -> None:
    programs.add("gcc")
    assert "gcc" not in packages.missing()
    with pytest.raises(HostFailure, match="qemu-system-x86 bc bison flex git"):
        packages.setup(print)


@pytest.fixture
def patient(debian: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """A host on which nothing is missing."""
    (debian.folder / "installed").write_text("".join(f"{name}\n" for name in ALL))
    debian.add("qemu-system-x86_64", 'echo "QEMU emulator version 7.2.22"')
    monkeypatch.setattr(doctor, "accelerator", lambda: Accelerator("kvm", "a kernel reached its init in 1.0 s", True))
    monkeypatch.setattr(doctor, "missing_features", lambda *_: ("hle", "rtm"))
    for limit in ("_MEMORY_NEEDED", "_MEMORY_WANTED", "_DISK_NEEDED", "_DISK_WANTED"):
        monkeypatch.setattr(doctor, limit, 0)
    release = {"ID": "debian", "PRETTY_NAME": "Debian 12", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    debian.add("apt-get", """echo "'http://deb.example.org/debian/dists/bookworm/InRelease' x" """)
    return debian


def test_the_doctor_finds_a_host_well(patient: FakePrograms) -> None:
    found = doctor.examine()
    assert found.exit_code == ExitCode.PASSED
    rows = {row.name: row for row in found.rows}
    assert rows["accelerator"].found == "kvm: a kernel reached its init in 1.0 s"
    assert rows["CPU model"].found == "Icelake-Server, without hle, rtm"
    assert rows["sparse files"].status == "ok"
    assert json.loads(json.dumps(found.to_json()))["exit_code"] == 0
    assert rows["archive"].found == "http://deb.example.org/debian, by apt's configuration"
    assert [call for call in patient.calls("apt-get") if "install" in call] == []


def test_the_doctor_warns_of_what_works_less_well(patient: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.add("qemu-system-x86_64", 'echo "QEMU emulator version 7.0.0"')
    monkeypatch.setattr(doctor, "accelerator", lambda: Accelerator("tcg", "KVM: not proven", False))
    found = doctor.examine()
    warned = {row.name: row.advice for row in found.rows if row.status == "warning"}
    assert {"QEMU", "accelerator"} <= set(warned)
    assert "kernel build" in warned["accelerator"]
    assert found.exit_code == ExitCode.PASSED


def test_the_doctor_looks_at_everything_whatever_is_missing(
    patient: FakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (patient.folder / "qemu-system-x86_64").unlink()
    (patient.folder / "installed").write_text("gcc\n")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "fedora", "PRETTY_NAME": "Fedora 44"})
    monkeypatch.setattr(doctor, "_MEMORY_NEEDED", 1 << 60)
    monkeypatch.setattr(doctor, "_MEMORY_WANTED", 1 << 60)
    found = doctor.examine()
    bad = {row.name: row for row in found.rows if row.status == "missing"}
    assert set(bad) == {"system", "QEMU", "memory", "cache", "archive", "to run guests", "to build kernels"}
    assert "vmtests setup" in bad["to build kernels"].advice
    assert found.exit_code == ExitCode.HOST_FAILED
