"""vmtests as a pytest plugin: the options, the fixtures, the summary and the exit code. No logic of its own.

Every pytest in this environment loads it, so what only a run needs is imported when a run begins.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import pytest

from vmtests import errors
from vmtests.errors import ExitCode, UsageError, VmtestsError
from vmtests.run import interrupts, plan, workers
from vmtests.run.options import Options, parse_duration, parse_percent, parse_size, whole_number

if TYPE_CHECKING:
    from vmtests.run.bench import Bench
    from vmtests.run.run import Run
    from vmtests.run.sealed import SealedBench

_CASES = Path(__file__).parent / "cases"
_RUN = pytest.StashKey["Run"]()
_OPTIONS = pytest.StashKey[Options]()
_CODES = pytest.StashKey[list[ExitCode]]()
_LEFT_OUT = pytest.StashKey[int]()
_NOT_NEEDED = pytest.StashKey[int]()
_INTERRUPTED = pytest.StashKey[interrupts.ToldApart]()

#: The fixture of a boot of the plan, for each rig.
_RIGS = {"ssh": "bench", "sealed": "sealed"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a run."""
    _terminal()
    group = parser.getgroup("vmtests", "vmtests: kernels, namespaces and clocks")

    def add(name: str, **keywords: object) -> None:
        group.addoption(name, **keywords)

    add("--kernel", action="append", default=[], metavar="NAME[=DIR[@REV]]", help="a kernel to test; the first is base")
    add("--kernel-tree", metavar="DIR[@REV]", help="the source of base: a kernel tree of yours, never written to")
    add("--patch", action="append", default=[], type=Path, metavar="FILE", help="test base + this patch as `patch`")
    add("--series", metavar="A..B|MBOX", help="test base + each patch of a range or of an mbox, one on another")
    add("--kernel-image", type=Path, metavar="FILE", help="test a bzImage that you have built as `image`")
    add("--vmlinux", type=Path, metavar="FILE", help="its vmlinux, with DWARF or BTF")
    add("--config", type=Path, metavar="FILE", help="build with this .config")
    add("--config-fragment", action="append", default=[], type=Path, metavar="FILE", help="add these Kconfig lines")
    add("--cc", default="gcc", metavar="CC", help="the compiler: gcc or clang")
    add("--pmem-size", default="100G", metavar="SIZE", help="size of the NVDIMM (100G)")
    add("--mode", default="fsdax", metavar="MODE", help="mode of the namespace: fsdax or devdax")
    add("--map", default="dev", metavar="MAP", help="where its memmap lies: dev or mem")
    add("--align", default="2M", metavar="SIZE", help="its alignment: 4K, 2M or 1G")
    add("--rebinds", default="30", metavar="N", help="rebinds after the first bind of a boot (30)")
    add(
        "--boots",
        default="auto",
        metavar="N",
        help="pairs of boots; auto: 1 by icount, else until it is clear",
    )
    add("--budget", metavar="TIME", help="begin no pair of boots that would end later than this, such as 30m")
    add("--accel", default="auto", metavar="ACCEL", help="kvm, tcg; auto: KVM if it is proven")
    add("--clock", default="auto", metavar="CLOCK", help="wall, icount; auto: wall on KVM, icount on TCG")
    add("--rig", default="ssh", metavar="RIG", help="ssh, sealed: counts exact to the digit, from a guest left alone")
    add("--cpu-model", default="Icelake-Server", metavar="MODEL", help="the guest's CPU")
    add("--record", type=Path, metavar="DIR", help="where the run record goes (runs/TIME)")
    add("--keep", action="store_true", help="let the guest of a failed test run on, and the last one")
    add("--cold", action="store_true", help="boot every guest; start none from a snapshot")
    add("--dump", default="auto", metavar="WHEN", help="auto: of the first guest whose kernel fails a test; never")
    add("--tier", default="quick", metavar="TIER", help="quick: CI; full: every config, mutant and fault")
    add("--fresh", action="store_true", help="repeat what an unchanged run has done already")
    add("--max-regression", metavar="PERCENT", help="fail (exit 1) on a slowdown above this, such as 1%%")
    add("--seed", metavar="N", help="what every random choice comes from")


@functools.cache
def _terminal() -> TextIO:
    """Return the real stdout, kept before pytest begins to capture what goes to file descriptor 1.

    A worker of pytest-xdist has none of its own; its stderr is the controller's.
    """
    return os.fdopen(os.dup(2 if "PYTEST_XDIST_WORKER" in os.environ else 1), "w", buffering=1)


def _options(config: pytest.Config) -> Options:
    value = config.getoption
    limit = value("--max-regression")
    return Options(
        kernels=tuple(value("--kernel")),
        kernel_tree=value("--kernel-tree"),
        patches=tuple(value("--patch")),
        series=value("--series"),
        config=value("--config"),
        fragments=tuple(value("--config-fragment")),
        cc=value("--cc"),
        kernel_image=value("--kernel-image"),
        vmlinux=value("--vmlinux"),
        pmem_size=parse_size(value("--pmem-size")),
        mode=value("--mode"),
        map=value("--map"),
        align=parse_size(value("--align")),
        rebinds=whole_number("--rebinds", value("--rebinds")),
        boots=value("--boots"),
        budget=None if value("--budget") is None else parse_duration("--budget", value("--budget")),
        accel=value("--accel"),
        clock=value("--clock"),
        rig=value("--rig"),
        cpu_model=value("--cpu-model"),
        record=value("--record"),
        keep=value("--keep"),
        dump=value("--dump"),
        cold=value("--cold"),
        tier=value("--tier"),
        fresh=value("--fresh"),
        max_regression=None if limit is None else parse_percent("--max-regression", limit),
        seed=None if value("--seed") is None else whole_number("--seed", value("--seed")),
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Iterator[None]:
    """Turn pytest's own usage errors into our exit code 2; once all conftests have added their options."""
    yield
    try:
        _, unknown = parser.parse_known_and_unknown_args(args, early_config.known_args_namespace)
    except pytest.UsageError as error:
        _usage(str(error))
    options = [argument for argument in unknown if argument.startswith("-")]
    if options:
        _usage(f"unrecognized arguments: {' '.join(options)}; see `pytest --help`")


def _usage(message: str) -> NoReturn:
    print(f"ERROR: {message}", file=sys.stderr)
    raise SystemExit(int(ExitCode.USAGE))


class _Figures:
    """Gives JUnit a property for each figure: those of a test's binds and checks, and those of the verdicts."""

    def __init__(self, run: Run, note: Callable[[str, object], None] | None) -> None:
        from vmtests.report.properties import Properties

        self._run, self._note = run, note
        self._properties = Properties(run.record)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.when == "teardown" and _is_case(item):
            item.user_properties.extend(self._properties.added())

    @pytest.hookimpl(tryfirst=True)  # before JUnit's file is written
    def pytest_sessionfinish(self) -> None:
        if self._note is not None:
            _ = self._run.verdicts
            for name, value in self._properties.verdicts():
                self._note(name, value)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | pytest.ExitCode, int | pytest.ExitCode]:
    """Check what was typed before anything starts; a usage error ends with our exit code, whoever finds it."""
    try:
        _check_place(config.rootpath)
        options = _options(config)
        options.check_kernels()
        workers.check(options, config.getoption("numprocesses", None))
        return (yield)
    except (UsageError, pytest.UsageError) as error:
        _usage(str(error))


def _check_place(root: Path) -> None:
    """Refuse to mix an installed vmtests with the tests of a checkout: each would import half of the other."""
    checkout = root / "vmtests" / "plugin.py"
    if checkout.exists() and not checkout.samefile(__file__):
        raise UsageError(
            f"vmtests is installed in {Path(__file__).parent}, but these are the tests of {checkout.parent}: "
            "`pip install -e .` here, or run the installed ones elsewhere by `pytest --pyargs vmtests.cases`"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the options, and let SIGTERM unwind like Ctrl-C."""
    config.addinivalue_line("markers", "full: runs in the full tier only")
    config.stash[_CODES] = []
    config.stash[_NOT_NEEDED] = 0
    options = _options(config)
    if hasattr(config, "workerinput"):
        options = workers.become_worker(options, config.workerinput)
    elif config.getoption("dist", "no") != "no":
        _control(config, options)
    config.stash[_OPTIONS] = options

    config.stash[_INTERRUPTED] = interrupts.ToldApart()
    config.pluginmanager.register(config.stash[_INTERRUPTED])


def _control(config: pytest.Config, options: Options) -> None:
    """Let the workers of pytest-xdist run the tests, and gather what they record."""
    from vmtests.run.run import folder_of

    record = folder_of(options)

    def take(part: workers.Part) -> None:
        config.stash[_CODES] += part.codes
        config.stash[_LEFT_OUT] = part.left_out
        if part.document is None:
            return
        if _RUN not in config.stash:
            config.stash[_RUN] = _run(config, replace(options, record=record))
        config.stash[_RUN].take(part.document, part.clock, part.kept)

    config.pluginmanager.register(workers.Controller(record, options.run_seed(), take))


def _run(config: pytest.Config, options: Options) -> Run:
    from vmtests.report.progress import Progress
    from vmtests.run.run import Run

    return Run(options, [sys.argv[0], *config.invocation_params.args], Progress(_terminal()))


def _is_case(item: pytest.Item) -> bool:
    return item.path.is_relative_to(_CASES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give `bench` one instance a kernel, namespace kind and boot; name kernels to the cases that ask for a name."""
    if not _is_case(metafunc.definition):
        return
    options = metafunc.config.stash[_OPTIONS]
    for fixture, names in (("kernel_name", options.checked_kernels()), ("patched_name", options.kernel_names()[1:])):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, names, scope="module")
    booted = next((name for name in _RIGS.values() if name in metafunc.fixturenames), None)
    if booted is None:
        return
    from vmtests.pmem import NamespaceSpec
    from vmtests.run import pairs

    spec = NamespaceSpec(options.mode, options.map, options.align, None)
    count = pairs.planned_for_workers if hasattr(metafunc.config, "workerinput") else pairs.planned
    cells = plan.order(options.kernel_names(), count(options), options.run_seed())
    ids = [f"{kernel}-{spec.id}" + (f"-boot{boot}" if boot else "") for kernel, boot in cells]
    metafunc.parametrize(booted, [(kernel, spec, boot) for kernel, boot in cells], indirect=True, ids=ids)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for the other rig, or what the quick tier has no time for: deselected, and counted."""
    options = config.stash[_OPTIONS]
    cases = [item for item in items if _is_case(item)]
    other = [item for item in cases if _boot(item) is not None and _RIGS[options.rig] not in _parameters(item)]
    left_out = [item for item in cases if options.tier != "full" and item.get_closest_marker("full")]
    config.stash[_LEFT_OUT] = len(left_out)
    if gone := {*other, *left_out}:
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=list(gone))


def _parameters(item: pytest.Item) -> Mapping[str, object]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def _boot(item: pytest.Item) -> int | None:
    """Return the number of the boot that an item is, None for one that is none of the plan."""
    found = next((value for name, value in _parameters(item).items() if name in _RIGS.values()), None)
    return found[2] if isinstance(found, tuple) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Pass over a boot whose pair is not needed any more: deselected, and counted in the summary with the reason."""
    run, boot = item.config.stash.get(_RUN, None), _boot(item)
    is_worker = hasattr(item.config, "workerinput")  # which knows nothing of the other workers' boots
    if run is None or boot is None or is_worker or run.needs(boot):
        return None
    item.config.stash[_NOT_NEEDED] += 1
    item.ihook.pytest_deselected(items=[item])
    # The test before has kept what this one would have shared with it, such as their module.
    item.session._setupstate.teardown_exact(nextitem)
    return True


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """The run: options, kernels, accelerator, clock and record."""
    config = request.config
    print(file=_terminal())
    config.stash[_RUN] = this = _run(config, config.stash[_OPTIONS])
    # A worker of several has only a part to judge by.
    has_junit = config.pluginmanager.hasplugin("junitxml") and not hasattr(config, "workerinput")
    note = request.getfixturevalue("record_testsuite_property") if has_junit else None
    config.pluginmanager.register(_Figures(this, note))
    with interrupts.only_the_first():
        yield this
    this.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest, run: Run) -> Iterator[Bench]:
    """A booted guest of one kernel with an empty NVDIMM plugged and the probes armed, for one kind of namespace."""
    kernel, spec, boot = request.param
    run.prepare()
    run.needs(boot)
    with run.bench(kernel, spec, boot, timed=True) as ready:
        yield ready


@pytest.fixture
def sealed(request: pytest.FixtureRequest, run: Run) -> SealedBench:
    """One boot of one kernel on the sealed rig, still to be done."""
    kernel, spec, boot = request.param
    run.prepare()
    run.needs(boot)
    from vmtests.run.sealed import SealedBench

    return SealedBench(run, kernel, spec, boot, timed=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note which kind of failure each test ended with; show ours by their message, without our own stack."""
    report = yield
    if _is_case(item) and call.excinfo is not None and report.failed:
        error = errors.known(call.excinfo.value)
        if isinstance(error, VmtestsError):
            item.config.stash[_CODES].append(error.exit_code)
            report.longrepr = f"{type(error).__name__}: {error}"
        else:
            item.config.stash[_CODES].append(ExitCode.BUG)
        if _RUN in item.config.stash:
            run = item.config.stash[_RUN]
            if said := run.dumps.failed(error, item.nodeid):
                report.sections.append(("dump", "\n".join(said)))
            run.evidence.failed(item.nodeid, report.longreprtext, report.sections)
    elif report.when == "call" and not report.failed and _RUN in item.config.stash:
        item.config.stash[_RUN].dumps.passed()
    if report.when == "teardown" and _RUN in item.config.stash:
        item.config.stash[_RUN].evidence.over()
    return report


@pytest.hookimpl(trylast=True)  # after the guests are gone
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn pytest's exit code into ours, and save the record."""
    config = session.config
    run = config.stash.get(_RUN, None)
    if hasattr(config, "workeroutput"):
        codes = config.stash[_CODES]
        workers.report(config.workeroutput, codes, config.stash.get(_LEFT_OUT, 0), run)
        return
    code: int = exitstatus
    if (interrupted := config.stash[_INTERRUPTED].code) is not None:
        code = interrupted
    elif exitstatus == pytest.ExitCode.INTERRUPTED:
        code = ExitCode.BUG
    elif exitstatus in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        code = ExitCode.USAGE
    elif exitstatus == pytest.ExitCode.INTERNAL_ERROR:
        code = ExitCode.BUG
    elif config.stash[_CODES] or run is not None:
        codes = [*config.stash[_CODES], *(run.verdicts if run is not None else ())]
        if exitstatus == pytest.ExitCode.TESTS_FAILED and not config.stash[_CODES]:
            codes.append(ExitCode.BUG)
        code = errors.worst(codes)
    session.exitstatus = code if run is None else run.save(code)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """Print the tables of the run and what was left out; behind all that pytest says, where the evidence is."""
    _summarize(terminalreporter, config)
    yield
    run = config.stash.get(_RUN, None)
    if run is not None and not hasattr(config, "workerinput"):
        from vmtests.report import summary

        terminalreporter.write_line("")
        terminalreporter.write_line(summary.places(run.record))


def _summarize(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"{config.stash[_LEFT_OUT]} tests are left to the full tier: --tier full runs them")
    run = config.stash.get(_RUN, None)
    if run is None or hasattr(config, "workerinput"):
        return
    if config.stash[_NOT_NEEDED]:
        terminalreporter.write_line(f"{config.stash[_NOT_NEEDED]} boots were not needed: {run.pairs.ended}")
    for gated in run.gated:
        terminalreporter.write_line(gated.text)
    if run.unsaved:
        terminalreporter.write_line(run.unsaved)
    from vmtests.report import summary

    terminalreporter.section("vmtests")
    colour = terminalreporter.hasmarkup
    terminalreporter.write_line(
        summary.render(run.record, width=max(120, terminalreporter._tw.fullwidth), colour=colour)
    )
    for guest in run.keeping.guests:
        terminalreporter.write_line("")
        terminalreporter.write_line(summary.kept(guest.name, guest.kernel.name, guest.why, guest.ways_in()))
