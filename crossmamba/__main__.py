"""`python -m crossmamba` is the command `crossmamba`."""

import sys

from crossmamba.cli import main

sys.exit(main())
