"""The page of a tuned mixture: what was predicted against what was measured, the shares, every proxy."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from raylm.core import page
from raylm.core.storage import Folder

if TYPE_CHECKING:
    from raylm.mixture.found import Asked, Found

PAGE, PICTURE = "report.html", "mixture.png"


def write(folder: Folder, stage: str, asked: Asked, found: Found) -> None:
    """report.html and mixture.png."""
    png = picture(asked, found)
    folder.write(PICTURE, png)
    share = zip(asked.sources, asked.natural.tolist(), found.shares, asked.caps.tolist(), strict=True)
    epochs = found.facts(asked)["epochs"]
    shares = [
        (name, round(natural, 4), chosen, round(cap, 4), times)
        for (name, natural, chosen, cap), times in zip(share, epochs, strict=True)
    ]
    sources, targets = asked.sources, [target.name for target in asked.targets]
    rows = [
        (one.name, *one.shares, *(round(one.losses[name], 5) for name in targets), round(measured, 5), round(predicted, 5))
        for one, measured, predicted in (
            *zip(found.proxies, found.measured, found.predicted, strict=True),
            *zip(found.unseen, found.unseen_measured, found.unseen_predicted, strict=True),
        )
    ]
    head = ("proxy", *sources, *(f"loss on {name}" for name in targets), "weighted", "predicted without it")
    change = "" if found.chosen_loss is None else f"{found.chosen_loss / found.natural_loss - 1:+.2%}"
    parts = [
        (
            "",
            page.tiles(
                [
                    ("rank correlation, left out", f"{found.ranks:.3f}"),
                    ("error, left out", f"{found.error:.4f} nats"),
                    ("natural, measured", f"{found.natural_loss:.4f}"),
                    ("chosen, measured", "-" if found.chosen_loss is None else f"{found.chosen_loss:.4f} ({change})"),
                ]
            )
            + "".join(
                page.note(line) for line in (*found.lines, *([f"no mixture is chosen: {found.refused}"] * bool(found.refused)))
            ),
        ),
        ("Predicted and measured", page.picture(png, "losses of proxies, predicted without them and measured")),
        ("Shares", page.table(("source", "natural", "chosen", "most by epochs", "epochs in the run"), shares)),
        ("Proxies", page.table(head, rows)),
    ]
    note = f"what {len(found.proxies)} proxies say of the sources of {stage}"
    folder.write(PAGE, page.page(f"raylm tune-mixture: {stage}", note, parts))


def picture(asked: Asked, found: Found) -> bytes:
    """Predicted against measured on the left, shares on the right, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(found.measured, found.predicted, label="proxies, left out", s=28)
    if found.unseen:
        left.scatter(found.unseen_measured, found.unseen_predicted, label="never fitted", marker="s", s=28)
    if found.chosen_loss is not None:
        left.scatter([found.chosen_loss], [found.chosen_predicted], label="chosen", marker="*", s=140)
    left.scatter([found.measured[0]], [found.predicted[0]], label="natural", marker="D", s=50)
    ends = [min(found.measured + found.predicted), max(found.measured + found.predicted)]
    left.plot(ends, ends, color="0.7", linewidth=0.8, zorder=0)
    left.set_xlabel("measured, nats")
    left.set_ylabel("predicted, nats")
    left.set_title(f"rank correlation {found.ranks:.3f}")
    left.legend(fontsize=8)
    places = range(len(asked.sources))
    right.bar([at - 0.2 for at in places], asked.natural.tolist(), 0.4, label="natural")
    right.bar([at + 0.2 for at in places], found.shares, 0.4, label="best predicted" if found.refused else "chosen")
    right.set_xticks(list(places), asked.sources, rotation=20, ha="right")
    right.set_ylabel("share of rows")
    right.legend(fontsize=8)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110)
    return held.getvalue()
