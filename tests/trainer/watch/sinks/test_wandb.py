"""The `wandb` sink: an offline run holds the metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

WRITES = """
import sys
from pathlib import Path
from raylm.trainer.watch.sinks.wandb import Wandb
from tests.trainer.watch.rows import falling, run
writer = Wandb(offline=True).open(run(Path(sys.argv[1])))
for row in falling(4):
    writer.write(row["step"], {"loss": row["loss"]})
writer.close()
"""
READS = """
import json, sys
from wandb.proto import wandb_internal_pb2
# LevelDB's log: after a header of 7 bytes records as checksum (4), length (2), type (1), in blocks of 32 KiB
data, at, found = open(sys.argv[1], "rb").read(), 7, []
while at + 7 <= len(data):
    length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
    if kind == 1:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[at + 7 : at + 7 + length])
        if record.WhichOneof("record_type") == "history":
            found.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item})
    at += 7 + length
print(json.dumps(found))
"""


def _python(code: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_an_offline_run_holds_every_row(tmp_path):
    """In processes of their own: wandb leaves a service and threads behind."""
    _python(WRITES, str(tmp_path))
    (file,) = Path(tmp_path).rglob("*.wandb")
    rows = json.loads(_python(READS, str(file)).splitlines()[-1])
    assert [(row["_step"], round(row["loss"], 2)) for row in rows] == [(0, 4.0), (1, 3.99), (2, 3.98), (3, 3.94)]
