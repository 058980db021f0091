"""One run: what was asked for, what it uses, and what it writes down. The plugin and the command both stand on this."""

from vmtests.run.bench import Bench
from vmtests.run.options import Options, parse_percent, parse_size, whole_number
from vmtests.run.run import Run

__all__ = ["Bench", "Options", "Run", "parse_percent", "parse_size", "whole_number"]
