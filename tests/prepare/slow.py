"""A custom filter that keeps every document, slowly: time for a test to kill the driver."""

import time
from typing import Literal

from raylm.core.config import Config
from raylm.prepare.filters.verdicts import verdicts


class Slow(Config):
    """Keeps everything after a while."""

    kind: Literal["slow"] = "slow"
    seconds: float = 1.0

    def judge(self, table):
        time.sleep(self.seconds)
        return verdicts([""] * len(table))
