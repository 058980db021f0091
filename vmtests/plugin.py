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
from vmtests.run import command_line, interrupts, plan, workers
from vmtests.run.options import Options

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
    command_line.add_to(parser.getgroup("vmtests", "vmtests: kernels, namespaces and clocks"))


@functools.cache
def _terminal() -> TextIO:
    """Return the real stdout, kept before pytest begins to capture what goes to file descriptor 1.

    A worker of pytest-xdist has none of its own; its stderr is the controller's.
    """
    return os.fdopen(os.dup(2 if "PYTEST_XDIST_WORKER" in os.environ else 1), "w", buffering=1)


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
        options = command_line.read(config.getoption)
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
    options = command_line.read(config.getoption)
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
