#!/usr/bin/env python3
"""Run the nightly on avocado: `python nightly/job.py [FILE] --results DIR`, FILE being nightly.toml by default."""

import sys
from pathlib import Path

from vmtests.nightly.__main__ import main

if __name__ == "__main__":
    sys.exit(main(default=Path(__file__).resolve().with_name("nightly.toml")))
