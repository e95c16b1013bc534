"""The page of one run, `runs/<job>/index.html`: a static file, written anew when a stage starts, ends or fails.

`stages.json` beside it holds what no manifest says: when each stage began, how long it took, why it failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from raylm import summary
from raylm.core import page
from raylm.core.artifact import KINDS, MANIFEST, METRICS, REPORT, Artifact, Endpoint, Manifest
from raylm.core.errors import RaylmError, StorageError
from raylm.core.graph import Node, draw
from raylm.core.page import escape
from raylm.core.storage import Folder

PAGE, RECORD = "index.html", "stages.json"
WORDS = {"done": "done", "running": "running", "failed": "failed", "stopped": "stopped", "drift": "other config", "new": "to do"}
_STYLE = """<style>:root{--done:#3f8f58;--running:#c98a1b;--failed:#c4473a;--new:#98a1ae}
@media(prefers-color-scheme:dark){:root{--done:#5fb57a;--running:#dfa63f;--failed:#e06c5f;--new:#5c6675}}
svg.graph{margin:0 auto;min-width:34rem}svg.graph a{text-decoration:none}svg.graph text{font-size:11.5px}
svg.graph .name{fill:var(--ink);font-size:13.5px;font-weight:600}svg.graph rect{fill:var(--panel);stroke:var(--line)}
svg.graph a:hover rect{stroke:var(--main)}svg.graph path{fill:none;stroke:var(--new);stroke-width:1.4}
svg.graph path.long{opacity:.45;stroke-width:1}svg.graph rect.mark,svg.graph .new rect.mark{fill:var(--new);stroke:none}
.chain{overflow-x:auto;margin:1rem 0}.goes{display:block;background:var(--panel);border-radius:.4rem;padding:.6rem .8rem;
font:13px/1.5 ui-monospace,monospace;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.stages{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(26rem,100%),1fr));gap:1rem;align-items:start}
.stage{border:1px solid var(--line);border-radius:.6rem;padding:.9rem 1.1rem;min-width:0}.stage h3{margin:0;font-size:1.02rem}
.stage:target{border-color:var(--main)}.stage p{margin:.15rem 0 .5rem;font-size:.88rem}.stage td,.stage th{padding-right:.7rem}
.stage td:first-child:not(.n){min-width:8rem}.stage .scroll{max-height:none}a{color:var(--main)}
.lineage td:not(:nth-child(6)){white-space:nowrap}.lineage .scroll{max-height:none}.lineage .scroll th{position:static}
.badge{font-size:.74rem;font-weight:600;padding:.08rem .5rem;border-radius:1rem;margin-left:.5rem;color:#fff;
background:var(--new)}
"""
_COLOURS = {"done": "done", "running": "running", "stopped": "running", "failed": "failed", "drift": "failed", "new": "new"}
_STYLE += "".join(
    f"svg.graph .{state} rect.mark{{fill:var(--{name})}}.badge.{state}{{background:var(--{name})}}"
    for state, name in _COLOURS.items()
)
_STYLE += "</style>"


def page_of(job: Any) -> str:
    """Where the page of a job's run lies."""
    return (Folder(job.root) / job.name).path(PAGE)


class RunPage:
    """Of the run of one job.

    Args:
        folder: of the job; each stage has a folder of its name in it.
        steps: every stage in running order (`raylm.job.Step`).
        command: what goes on with the run.
    """

    def __init__(self, folder: Folder, steps: Sequence[Any], command: str) -> None:
        self._folder, self._steps, self._command = folder, steps, command
        self._times, self._failed = _record(folder), False
        self._began: dict[str, float] = {}
        self._states = {step.name: _state(step, self._times.get(step.name, {})) for step in steps}
        self._made = {step.name: made for step in steps if step.state == "ready" and (made := _manifest(folder / step.name))}

    def begin(self, stage: str) -> None:
        """A stage starts."""
        self._began[stage] = time.monotonic()
        self._made.pop(stage, None)
        self._set(stage, "running", started_at=datetime.now(UTC).isoformat(timespec="seconds"))

    def end(self, stage: str, made: Artifact) -> None:
        """A stage is done, or was there."""
        self._made[stage] = made
        known = self._times.get(stage, {})
        if stage in self._began:
            self._set(stage, "done", started_at=known.get("started_at", ""), seconds=self._seconds(stage))
        else:
            self._set(stage, "done", **{"seconds": made.manifest.seconds, **{k: v for k, v in known.items() if k != "state"}})

    @contextmanager
    def failing(self, stage: str) -> Iterator[None]:
        """Around a stage: how it ends without a result, by an error or because somebody stopped it."""
        state, said = "stopped", {}
        try:
            yield
            state = ""
        except RaylmError as error:
            state, said = "failed", {"error": str(error)[:2000]}
            raise
        finally:
            if state and stage in self._began:
                self._set(stage, state, started_at=self._times[stage]["started_at"], seconds=self._seconds(stage), **said)

    def write(self) -> None:
        """The page as things stand."""
        self._try(lambda: self._folder.write(PAGE, self._html()))

    def _set(self, stage: str, state: str, **values: Any) -> None:
        self._states[stage], self._times[stage] = state, {"state": state, **values}
        # in ASCII: an error may quote half a surrogate pair
        self._try(lambda: self._folder.write(RECORD, json.dumps(self._times, indent=2) + "\n"))
        self.write()

    def _try(self, write: Callable[[], None]) -> None:
        """A page that cannot be written must neither fail a stage nor stand in place of the error of one."""
        try:
            write()
        except (RaylmError, OSError, ValueError) as cause:
            if not self._failed:
                print(f"the page of this run cannot be written: {type(cause).__name__}: {cause}", file=sys.stderr)
            self._failed = True

    def _seconds(self, stage: str) -> float:
        return round(time.monotonic() - self._began[stage], 2)

    def _html(self) -> str:
        now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
        parts = [
            ("", _STYLE + page.tiles(self._tiles())),
            ("", f'<div class="chain">{draw(self._nodes(), self._edges(), "the chain of stages")}</div>'),
            ("To go on", f'<code class="goes">{escape(self._command)}</code>' if self._command else ""),
            ("Stages", f'<div class="stages">{"".join(self._stage(step) for step in self._steps)}</div>'),
            (
                "Lineage",
                page.note("Each result and all that it was made from; the picture leaves out what other lines say.")
                + self._lineage(),
            ),
        ]
        return page.page(self._folder.name, f"as of {now} UTC, in {self._folder.uri}", parts)

    def _tiles(self) -> list[tuple[str, str]]:
        done = sum(state == "done" for state in self._states.values())
        seconds = sum(times.get("seconds") or 0.0 for name, times in self._times.items() if name in self._states)
        found = [("stages done", f"{done} of {len(self._steps)}"), ("time of the stages", summary.duration(seconds))]
        found.append(("size", page.size(sum(summary.nbytes(made) for made in self._made.values()))))
        for made in self._made.values():
            if "passed" in made.facts:
                found.append((f"gate of {made.manifest.stage}", "passed" if made.facts["passed"] else "NOT PASSED"))
            if made.kind == Endpoint.kind:
                found.append(("endpoint, when it started", str(made.facts.get("url", "-"))))
        return found

    def _nodes(self) -> list[Node]:
        nodes = []
        for step in self._steps:
            parts = [step.config.stage, WORDS[self._states[step.name]]]
            if made := self._made.get(step.name):
                seconds = self._times.get(step.name, {}).get("seconds", made.manifest.seconds)
                parts = [step.config.stage, summary.duration(seconds), page.size(summary.nbytes(made))]
            nodes.append(Node(step.name, " · ".join(parts), self._states[step.name], f"#{_anchor(step.name)}"))
        return nodes

    def _edges(self) -> list[tuple[str, str]]:
        return [(ref.value, step.name) for step in self._steps for ref in step.inputs if ref.value in self._states]

    def _stage(self, step: Any) -> str:
        state, times, made = self._states[step.name], self._times.get(step.name, {}), self._made.get(step.name)
        told = [f"{step.config.stage}, makes {step.makes}"]
        if state == "running":
            told.append(f"running since {times['started_at'].replace('T', ' ').removesuffix('+00:00')} UTC")
        elif seconds := times.get("seconds") or (made.manifest.seconds if made else 0):
            told.append(summary.duration(seconds))
        if made:
            told.append(f"{len(made.manifest.files)} files, {page.size(summary.nbytes(made))}")
        parts = [
            f'<section class="stage" id="{_anchor(step.name)}">',
            f'<h3>{escape(step.name)}<span class="badge {state}">{WORDS[state]}</span></h3><p>{escape("; ".join(told))}</p>',
            page.text(str(times["error"])) if state == "failed" and times.get("error") else "",
            "".join(page.note(line) for line in step.drift) if state == "drift" else "",
            _figures(step, made) if made else "",
            self._links(step.name, made) if made else "",
            page.fold("config", page.text(json.dumps(step.config.model_dump(mode="json", exclude_defaults=True), indent=1))),
        ]
        return "".join(parts) + "</section>"

    def _links(self, stage: str, made: Artifact) -> str:
        has = {entry.path for entry in made.manifest.files}
        names = [name for name in (REPORT, METRICS) if name in has] + [MANIFEST]
        words = {REPORT: "report", METRICS: "metrics", MANIFEST: "manifest"}
        return "<p>" + " · ".join(f'<a href="{quote(stage)}/{name}">{words[name]}</a>' for name in names) + "</p>"

    def _lineage(self) -> str:
        rows = []
        for step in self._steps:
            made = self._made.get(step.name)
            if made is None:
                continue
            manifest = made.manifest
            sources: list[tuple[Any, ...]] = [
                (f"{entry.name}: {self._short(entry.uri)}", entry.kind, entry.fingerprint) for entry in manifest.inputs
            ]
            sources += [("source: " + json.dumps(s), "", "") for key in ("source", "sources") if (s := manifest.config.get(key))]
            own = (
                step.name,
                made.kind,
                made.fingerprint,
                manifest.made_at[:19].replace("T", " "),
                (manifest.git_commit or "-")[:8],
            )
            for at, source in enumerate(sources or [("", "", "")]):
                rows.append((own if at == 0 else ("",) * len(own)) + source)
        heads = ("stage", "kind", "fingerprint", "made at (UTC)", "commit", "made from", "kind", "fingerprint")
        return f'<div class="lineage">{page.table(heads, rows)}</div>'

    def _short(self, uri: str) -> str:
        """The name of a stage of this run; another place as it is."""
        folder, _, name = uri.rstrip("/").rpartition("/")
        return name if folder == self._folder.uri.rstrip("/") else uri


def _record(folder: Folder) -> dict[str, dict[str, Any]]:
    """What earlier runs left; nothing where it cannot be read."""
    try:
        found = folder.read_json(RECORD) if folder.exists(RECORD) else {}
    except (StorageError, ValueError):
        return {}
    return {name: times for name, times in found.items() if isinstance(times, dict)} if isinstance(found, dict) else {}


def _state(step: Any, times: dict[str, Any]) -> str:
    """From what lies there; a stage that was running when its process was killed goes on."""
    if step.state in ("ready", "drift"):
        return "done" if step.state == "ready" else "drift"
    known = str(times.get("state"))
    if step.state == "unfinished" or known in ("running", "stopped"):
        return "failed" if known == "failed" else "stopped"
    return "failed" if known == "failed" else "new"


def _manifest(folder: Folder) -> Artifact | None:
    """What is finished in `folder`, by its manifest alone: whether its files are whole is asked by who reads them."""
    try:
        manifest = Manifest.model_validate(folder.read_json(MANIFEST))
        return KINDS[manifest.kind](folder, manifest)
    except (ValidationError, ValueError, KeyError):
        return None


def _figures(step: Any, made: Artifact) -> str:
    """The verb's own figures; then every metric that is a table (grades of models by task)."""
    found = summary.of_artifact(step.config.figures, made)
    twice = any(figure.before for figure in found)
    rows = "".join(
        f"<tr><td>{escape(figure.name)}</td>{f'<td class=n>{escape(figure.before)}</td>' if twice else ''}"
        f'<td class="n">{escape(figure.value, 80)}</td></tr>'
        for figure in found
    )
    head = '<tr><th></th><th class="n">before</th><th class="n">after</th></tr>' if twice else ""
    shown = f"<table>{head}{rows}</table>" if found else ""
    for value in made.metrics.values():
        if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
            names = list(dict.fromkeys(name for row in value.values() for name in row))
            heads = ["", *(name.replace("_", " ") for name in names)]
            shown += page.table(heads, [[key, *(row.get(name) for name in names)] for key, row in value.items()])
    return shown


def _anchor(stage: str) -> str:
    return f"stage-{quote(stage, safe='')}"
