import sys

from crossmamba.cli import main

sys.exit(main())
