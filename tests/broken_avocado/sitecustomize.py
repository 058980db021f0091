"""Lets a runner of cells be found but not be imported where it runs, as on a remote host with another environment."""

import os
import sys

if os.environ.get("BROKEN") == "runner" and "task-run" in sys.orig_argv:
    sys.modules["vmtests"] = None  # type: ignore[assignment]
