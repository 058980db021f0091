"""One run: what was asked for, what it uses, and what it writes down. The plugin and the command both stand on this."""

from vmtests.run.bench import Bench
from vmtests.run.options import Options, parse_size
from vmtests.run.run import Run

__all__ = ["Bench", "Options", "Run", "parse_size"]
