"""`python -m raylm`: the same as the command `raylm`."""

import sys

from raylm.cli import main

sys.exit(main())
