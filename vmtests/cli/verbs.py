"""What the verbs of the command are added to."""

from __future__ import annotations

import argparse
from typing import Any, TypeAlias

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def examples(text: str) -> dict[str, Any]:
    """Return what gives a verb's --help examples at its end."""
    return {"epilog": f"examples:\n{text}", "formatter_class": argparse.RawDescriptionHelpFormatter}
