"""vmtests as a pytest plugin: the options, the fixtures, the summary and the exit code. No logic of its own.

Every pytest in this environment loads it, so what only a run needs is imported when a run begins.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

import pytest

from vmtests import errors
from vmtests.errors import ExitCode, UsageError, VmtestsError
from vmtests.run import plan, workers
from vmtests.run.options import Options, parse_percent, parse_size, whole_number

if TYPE_CHECKING:
    from vmtests.run.bench import Bench
    from vmtests.run.run import Run

_CASES = Path(__file__).parent / "cases"
_RUN = pytest.StashKey["Run"]()
_OPTIONS = pytest.StashKey[Options]()
_CODES = pytest.StashKey[list[ExitCode]]()
_LEFT_OUT = pytest.StashKey[int]()
_INTERRUPTED = pytest.StashKey[ExitCode]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a run."""
    _terminal()
    group = parser.getgroup("vmtests", "vmtests: kernels, namespaces and clocks")

    def add(name: str, **keywords: object) -> None:
        group.addoption(name, **keywords)

    add("--kernel", action="append", default=[], metavar="NAME[=DIR[@REV]]", help="a kernel to test; the first is base")
    add("--kernel-tree", metavar="DIR[@REV]", help="the source of base: a kernel tree of yours, never written to")
    add("--patch", action="append", default=[], type=Path, metavar="FILE", help="test base + this patch as `patch`")
    add("--config", type=Path, metavar="FILE", help="build with this .config")
    add("--config-fragment", action="append", default=[], type=Path, metavar="FILE", help="add these Kconfig lines")
    add("--cc", default="gcc", metavar="CC", help="the compiler: gcc or clang")
    add("--pmem-size", default="100G", metavar="SIZE", help="size of the NVDIMM (100G)")
    add("--mode", default="fsdax", metavar="MODE", help="mode of the namespace: fsdax or devdax")
    add("--map", default="dev", metavar="MAP", help="where its memmap lies: dev or mem")
    add("--align", default="2M", metavar="SIZE", help="its alignment: 4K, 2M or 1G")
    add("--rebinds", default="30", metavar="N", help="rebinds after the first bind of a boot (30)")
    add("--boots", default="auto", metavar="N", help="pairs of boots; auto: 1 under icount")
    add("--accel", default="auto", metavar="ACCEL", help="kvm, tcg; auto: KVM if it is proven")
    add("--clock", default="auto", metavar="CLOCK", help="wall, icount; auto: wall on KVM, icount on TCG")
    add("--cpu-model", default="Icelake-Server", metavar="MODEL", help="the guest's CPU")
    add("--record", type=Path, metavar="DIR", help="where the run record goes (runs/TIME)")
    add("--keep", action="store_true", help="let the guest of a failed test run on, and the last one")
    add("--cold", action="store_true", help="boot every guest; start none from a snapshot")
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
        config=value("--config"),
        fragments=tuple(value("--config-fragment")),
        cc=value("--cc"),
        pmem_size=parse_size(value("--pmem-size")),
        mode=value("--mode"),
        map=value("--map"),
        align=parse_size(value("--align")),
        rebinds=whole_number("--rebinds", value("--rebinds")),
        boots=value("--boots"),
        accel=value("--accel"),
        clock=value("--clock"),
        cpu_model=value("--cpu-model"),
        record=value("--record"),
        keep=value("--keep"),
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


class _Interrupts:
    """Tells Ctrl-C from SIGTERM, and both from pytest's other interruptions."""

    def __init__(self, config: pytest.Config) -> None:
        self._stash = config.stash

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        # Not pytest's own Session.Interrupted, which it calls so when modules cannot be collected.
        if type(excinfo.value) is KeyboardInterrupt:
            self._stash.setdefault(_INTERRUPTED, ExitCode.INTERRUPTED)

    def terminate(self, _signal: int, _frame: FrameType | None) -> None:
        """Unwind on SIGTERM as on Ctrl-C."""
        self._stash[_INTERRUPTED] = ExitCode.TERMINATED
        raise KeyboardInterrupt("SIGTERM")


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
    options = _options(config)
    if hasattr(config, "workerinput"):
        options = workers.become_worker(options, config.workerinput)
    elif config.getoption("dist", "no") != "no":
        _control(config, options)
    config.stash[_OPTIONS] = options

    interrupts = _Interrupts(config)
    config.pluginmanager.register(interrupts)
    signal.signal(signal.SIGTERM, interrupts.terminate)


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
    if "bench" not in metafunc.fixturenames:
        return
    from vmtests.pmem import NamespaceSpec

    spec = NamespaceSpec(options.mode, options.map, options.align, None)
    boots = 1 if options.boots == "auto" else int(options.boots)
    seed = options.run_seed()
    cells = plan.order(options.kernel_names(), boots, seed)
    ids = [f"{kernel}-{spec.id}" + (f"-boot{boot}" if boots > 1 else "") for kernel, boot in cells]
    metafunc.parametrize("bench", [(kernel, spec, boot) for kernel, boot in cells], indirect=True, ids=ids)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the quick tier has no time for: deselected, and counted in the summary."""
    if config.stash[_OPTIONS].tier == "full":
        return
    left_out = [item for item in items if _is_case(item) and item.get_closest_marker("full")]
    items[:] = [item for item in items if item not in left_out]
    config.stash[_LEFT_OUT] = len(left_out)
    if left_out:
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """The run: options, kernels, accelerator, clock and record."""
    config = request.config
    print(file=_terminal())
    config.stash[_RUN] = this = _run(config, config.stash[_OPTIONS])
    yield this
    this.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest, run: Run) -> Iterator[Bench]:
    """A booted guest of one kernel with an empty NVDIMM plugged and the probes armed, for one kind of namespace."""
    kernel, spec, boot = request.param
    with run.bench(kernel, spec, boot, timed=True) as ready:
        yield ready


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note which kind of failure each test ended with; show ours by their message, without our own stack."""
    report = yield
    if _is_case(item) and call.excinfo is not None and report.failed:
        error = call.excinfo.value
        known = isinstance(error, VmtestsError)
        item.config.stash[_CODES].append(error.exit_code if isinstance(error, VmtestsError) else ExitCode.BUG)
        if known:
            report.longrepr = f"{type(error).__name__}: {error}"
        if _RUN in item.config.stash:
            item.config.stash[_RUN].note_failure(item.nodeid, report.longreprtext)
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
    if _INTERRUPTED in config.stash:
        code = config.stash[_INTERRUPTED]
    elif exitstatus == pytest.ExitCode.INTERRUPTED:
        code = ExitCode.BUG
    elif exitstatus in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        code = ExitCode.USAGE
    elif exitstatus == pytest.ExitCode.INTERNAL_ERROR:
        code = ExitCode.BUG
    elif config.stash[_CODES] or run is not None:
        codes = [*config.stash[_CODES], *(run.verdicts() if run is not None else ())]
        if exitstatus == pytest.ExitCode.TESTS_FAILED and not config.stash[_CODES]:
            codes.append(ExitCode.BUG)
        code = errors.worst(codes)
    session.exitstatus = code
    if run is not None:
        run.save(code)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tables of the run, where the record is, and what was left out."""
    if config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"{config.stash[_LEFT_OUT]} tests are left to the full tier: --tier full runs them")
    run = config.stash.get(_RUN, None)
    if run is None or hasattr(config, "workerinput"):
        return
    from vmtests.report import summary

    terminalreporter.section("vmtests")
    colour = terminalreporter.hasmarkup
    terminalreporter.write_line(
        summary.render(run.record, width=max(100, terminalreporter._tw.fullwidth), colour=colour)
    )
    for guest in run.kept:
        terminalreporter.write_line("")
        terminalreporter.write_line(summary.kept(guest.name, guest.kernel.name, guest.why, guest.ways_in()))
