"""Takes models and text, leaves how far each 4-bit method is from the original at equal bits, and its CPU seconds: raylm's qad,
gptq, awq and int4 beside AutoRound in the same environment and llm-compressor's GPTQ from its own.

`RAYLM_COMPRESS_PARTS=small,smol` chooses the models (both where it does not say; `quick` has 1 M parameters, for a try), and
`RAYLM_COMPRESS_WAYS=qad,auto_round` the methods. What was measured is kept beside its model, so that a run that was cut goes on;
`RAYLM_COMPRESS_AGAIN=1` measures anew.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.near_copies.peers import python_of, timed
from tests.bench.rounding.models import quick, small, smol

OURS = ("qad", "gptq", "awq", "int4")
WAYS = tuple(os.environ.get("RAYLM_COMPRESS_WAYS", "int4,awq,gptq,qad,auto_round,llm_compressor").split(","))
PARTS = tuple(os.environ.get("RAYLM_COMPRESS_PARTS", "small,smol").split(","))
MODELS = {"quick": quick, "small": small, "smol": smol}
GROUPS = {"quick": 64, "small": 128, "smol": 64}
"""Weights that share a scale: what divides the widths of each."""
PEER = "0.14.0.1"


def measure(way: str, path: Path, rows: Path, group: int) -> dict[str, Any]:
    """What a way came to on a model, measured or kept."""
    kept = path.parent / f"measured-{way}.json"
    if kept.is_file() and not os.environ.get("RAYLM_COMPRESS_AGAIN"):
        return json.loads(kept.read_text())
    if way == "llm_compressor":
        found = _llm_compressor(path, rows, group)
    else:
        _, printed = timed([sys.executable, "-m", "tests.bench.rounding.one", way, path, rows, str(group)])
        found = json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith("{")))
    found["load"] = round(os.getloadavg()[0], 1)
    kept.write_text(json.dumps(found))
    return found


def _llm_compressor(path: Path, rows: Path, group: int) -> dict[str, Any]:
    """GPTQ by llm-compressor's own environment, judged here."""
    from raylm.compress.calibration import Calibration
    from raylm.compress.drift import drift
    from raylm.model.load import load_model
    from tests.bench.rounding.one import HELD, ROWS

    python = python_of("llm-compressor", f"llmcompressor=={PEER}")
    model: Any = load_model(str(path), "float32", plain=True).eval()
    calibration = Calibration.open(str(rows), str(path), model.config, ROWS, HELD)
    with tempfile.TemporaryDirectory() as at:
        given, out = Path(at) / "rows.json", Path(at) / "out"
        given.write_text(json.dumps([list(map(int, row)) for row in calibration.rows]))
        script = Path(__file__).parent / "rounding" / "llm_compressor.py"
        _, printed = timed([python, script, path, given, str(group), out], PYTHONPATH="")
        found = json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith('{"cpu_s"')))
        made: Any = load_model(str(out), "float32")
        return {**drift(model, made, calibration.batches(rows=calibration.held)), **found, "bits": 4 + 16 / group}


def verdict(part: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Our best method against AutoRound and rounding to nearest, by the goals."""
    ours, theirs, nearest = (found.get(name, {}) for name in ("qad", "auto_round", "int4"))
    told: dict[str, Any] = {name: {key: round(value, 5) for key, value in each.items()} for name, each in found.items()}
    if not (ours and theirs and nearest):
        return {"part": part, "ways": told}
    ratios = {
        "kl of AutoRound's": round(ours["kl"] / theirs["kl"], 3),
        "kl of rounding's": round(ours["kl"] / nearest["kl"], 3),
        "CPU seconds of AutoRound's": round(ours["cpu_s"] / theirs["cpu_s"], 3),
    }
    goals = dict(zip(ratios, (0.7, 0.5, 0.5), strict=True))
    return {
        "part": part,
        "ratios": ratios,
        "goals": goals,
        "ok": all(ratios[each] <= goals[each] for each in goals),
        "ways": told,
    }


def main() -> None:
    parts, skipped = [], {}
    for part in PARTS:
        made = MODELS[part]()
        if isinstance(made, str):
            skipped[part] = made
            print(f"{part}: skipped: {made}", flush=True)
            continue
        found: dict[str, dict[str, Any]] = {}
        for way in WAYS:
            try:
                found[way] = measure(way, *made, GROUPS[part])
            except RuntimeError as error:
                # a peer that cannot be run here is named; ours must run
                if way in OURS:
                    raise
                skipped[f"{part} {way}"] = str(error).strip().splitlines()[-1]
                print(f"{part}, {way}: skipped: {skipped[f'{part} {way}']}", flush=True)
                continue
            each = found[way]
            print(f"{part}, {way}: KL {each['kl']:.5f}, flips {each['flipped']:.2%}, {each['cpu_s']:.0f} CPU s", flush=True)
        parts.append(verdict(part, found))
    judged = [part for part in parts if "ratios" in part]
    first = judged[0] if judged else {"ways": {}}
    ours, theirs = (first["ways"].get(name, {}).get("kl") for name in ("qad", "auto_round"))
    print(
        json.dumps(
            {
                "name": "compress_quality",
                "peer": "AutoRound",
                "peer_version": version("auto-round"),
                "ours": ours,
                "theirs": theirs,
                "unit": "mean KL to the original per held-out token, 4 bits",
                "ratio": round(theirs / ours, 2) if ours and theirs else None,
                "goal": round(1 / 0.7, 2),
                "quality": {part["part"]: part for part in parts},
                "skipped": skipped,
                "ok": bool(judged) and all(part["ok"] for part in judged),
            }
        )
    )


if __name__ == "__main__":
    main()
