"""Takes `python -m raylm ...`, leaves what `raylm ...` leaves."""

import sys

from raylm.cli import main

sys.exit(main())
