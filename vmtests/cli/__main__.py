"""`python -m vmtests.cli`."""

import sys

from vmtests.cli import main

sys.exit(main())
