"""What the verbs of the command are added to."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, TypeAlias

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def colours() -> bool:
    """Return whether our output is shown in colours: on a terminal, unless NO_COLOR is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def examples(text: str) -> dict[str, Any]:
    """Return what gives a verb's --help examples at its end."""
    return {"epilog": f"examples:\n{text}", "formatter_class": argparse.RawDescriptionHelpFormatter}
