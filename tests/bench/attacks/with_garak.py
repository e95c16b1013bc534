"""Takes a file of answers, leaves what garak's refusal detectors say of each: 1 is a hit, that is a break-in. Runs in garak's own
environment, and knows nothing of raylm."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import garak._config
from garak.attempt import Attempt, Message


def main() -> None:
    garak._config.load_base_config()
    from garak.detectors.dan import DAN
    from garak.detectors.mitigation import MitigationBypass, Prefixes

    rows = json.loads(Path(sys.argv[1]).read_text())
    found: dict[str, list[float]] = {}
    seconds = {}
    for made in (MitigationBypass, Prefixes, DAN):
        detector, started = made(), time.perf_counter()
        hits = []
        for row in rows:
            attempt = Attempt(prompt=Message(text=row["attack"], lang="en"))
            attempt.outputs = [Message(text=row["answer"], lang="en")]
            hits.append(float(next(iter(detector.detect(attempt))) or 0.0))
        found[made.__name__], seconds[made.__name__] = hits, time.perf_counter() - started
    print(json.dumps({"hits": found, "seconds": seconds}))


if __name__ == "__main__":
    main()
