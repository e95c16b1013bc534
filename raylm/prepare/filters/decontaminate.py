"""The `decontaminate` filter: drops documents that contain a question or an answer of evaluation sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag

from raylm.core.artifact import Artifact, open_artifact
from raylm.core.artifact import Documents as DocumentsArtifact
from raylm.core.config import Config, DocumentsRef, ref_or_table, resolve
from raylm.core.errors import ArtifactError, DataError
from raylm.core.storage import Folder
from raylm.data.messages import messages, readable
from raylm.data.records import GROUND_TRUTHS, Rejected, as_dialogue, as_prompt
from raylm.data.sources import AnySource
from raylm.data.sources.documents import Documents
from raylm.data.sources.units import batches_of
from raylm.prepare.filters.verdicts import Verdicts, verdicts
from raylm.prepare.lists import absolute
from raylm.prepare.words import words_of

if TYPE_CHECKING:
    import pyarrow as pa

    from raylm.prepare.filters.overlap import Index, Part

AnySet = Annotated[Annotated[DocumentsRef, Tag("ref")] | Annotated[AnySource, Tag("table")], Discriminator(ref_or_table)]
_SHOWN_CHARS = 200
# roles whose turns are the same in every dialogue of a set
_COMMON_ROLES = ("system", "developer")


class Decontaminate(Config):
    """Drops documents that share runs of words with the questions or the answers of evaluation sets.

    As GPT-3 did (runs of 13 words, appendix C of https://arxiv.org/abs/2005.14165) and as decon does for answers too
    (https://github.com/allenai/decon). Upper case, punctuation and the kind of apostrophe do not matter. The question
    of a row is its text, or what a structured row's user asks; the answer is its metadata's. What rows have in common is
    no question: system prompts are not compared, nor an instruction that has an input, nor what is in many items.
    """

    kind: Literal["decontaminate"] = "decontaminate"
    against: list[AnySet] = Field(min_length=1)
    """Evaluation sets: source tables, or the names of stages that made Documents."""
    ngram: int = Field(default=13, ge=3)
    """Words in a run. A shorter question is looked for as a whole, a shorter answer is not: it says too little."""
    min_words: int = Field(default=6, ge=1)
    """A question of fewer words is not looked for; `facts` says how many there are."""
    max_share: float = Field(default=0.0, ge=0, lt=1)
    """Largest share of a question's, or an answer's, runs that a document may hold; 0: none at all."""
    max_item_share: float = Field(default=0.05, gt=0, le=1)
    """A run of words in a larger share of the evaluation items than this, and in more than two, is a template that they
    have in common, and is not looked for; `facts` says of how many questions nothing is left (`common`)."""
    answers: list[str] = list(GROUND_TRUTHS)
    """Keys of the metadata, or of a structured row, that are answers."""

    def placed(self, open: Callable[[str], Artifact]) -> Decontaminate:
        """This card with addresses that every worker can read. Raises ArtifactError for what are no Documents."""
        return self.model_copy(update={"against": [place for one in self.against for place in _placed(one, open)]})

    def judge(self, table: pa.Table) -> Verdicts:
        """Reason: contaminated.

        Raises:
            DataError: an evaluation set has a row that cannot be read, or nothing to look for.
        """
        index = _built(self.model_dump_json()).index
        return verdicts(["contaminated" if self._is_in(index, found) else "" for found in index.matches(_texts(table))])

    def explain(self, table: pa.Table) -> list[dict[str, Any]]:
        """What each dropped document shares: `set`, `item` (its place there), `part`, `share` of its runs, `shared` text."""
        index = _built(self.model_dump_json()).index
        explanations = []
        for found in index.matches(_texts(table)):
            if not found:
                explanations.append({})
                continue
            best = index.best(found, self.ngram)
            place = {"set": best.part.where.rpartition(":")[0], "item": best.part.where, "part": best.part.name}
            explanations.append({**place, "share": round(best.share, 4), "shared": best.text[:_SHOWN_CHARS]})
        return explanations

    def facts(self) -> dict[str, int]:
        """How many questions and answers are looked for, and how many are too short for that."""
        return dict(_built(self.model_dump_json()).counts)

    def _is_in(self, index: Index, found: dict[int, set[int]]) -> bool:
        return any(index.share(number, starts) > self.max_share for number, starts in found.items())


class _Built(NamedTuple):
    index: Index
    counts: Counter[str]


@lru_cache(maxsize=4)
def _built(plain: str) -> _Built:
    """The index of a card, made once in a process; about 60 bytes for each word of the evaluation sets."""
    from raylm.prepare.filters.overlap import Index

    card = Decontaminate.model_validate_json(plain)
    parts: list[Part] = []
    counts = Counter({"questions": 0, "answers": 0, "short_questions": 0, "short_answers": 0})
    for one in card.against:
        for row in _rows(one):
            for part in _parts(row, card.answers):
                long_enough = len(part.words) >= (card.min_words if part.name == "question" else card.ngram)
                counts[f"{'' if long_enough else 'short_'}{part.name}s"] += 1
                if long_enough:
                    parts.append(part)
    if not parts:
        remedy = "lower min_words, or set text_column to the question"
        raise DataError("the evaluation sets have nothing to look for", where="decontaminate.against", next=remedy)
    index = Index(parts, card.ngram, card.max_item_share)
    if index.num_common == len(parts):
        raise DataError("all evaluation items have the same text", where="decontaminate.against", next="raise max_item_share")
    if index.num_common:
        counts["common"] = index.num_common
    return _Built(index, counts)


def _placed(one: Any, open: Callable[[str], Artifact]) -> Iterator[Any]:
    refs: Any = getattr(one, "documents", None)
    if isinstance(one, str):
        refs = one
    elif refs is None:
        glob = getattr(one, "glob", "://")
        yield one if "://" in glob or glob.startswith("~") else one.model_copy(update={"glob": absolute(glob)})
        return
    for ref in [refs] if isinstance(refs, str) else refs:
        found = open(ref)
        if not isinstance(found, DocumentsArtifact):
            raise ArtifactError(f"this is a {found.kind}, Documents are needed", where=found.uri)
        yield found.uri


def _rows(one: Any) -> Iterator[dict[str, Any]]:
    """Documents rows of one evaluation set; a row that cannot be read would be one that nothing is kept from."""
    if isinstance(one, str):
        card: Any = Documents(documents=one)
        units = card.units_of([open_artifact(Folder(one))])
    else:
        card = resolve(one)
        units = card.units()
    for unit in units:
        for table, rejected in batches_of(card, unit):
            for row in rejected:
                _refuse(row)
            yield from table.select(["source", "start", "text", "record", "meta"]).to_pylist()


def _refuse(row: Rejected) -> None:
    if row.reason != "empty":
        columns = f"; it has the columns {', '.join(row.columns)}" if row.columns else ""
        remedy = "mend it, or set text_column to the question"
        raise DataError(f"a row of an evaluation set cannot be read: {row.reason}{columns}", where=row.where, next=remedy)


def _parts(row: dict[str, Any], keys: list[str]) -> Iterator[Part]:
    from raylm.prepare.filters.overlap import Part

    where = f"{row['source']}:{row['start']}"
    held = json.loads(row["meta"] or "{}")
    question, shared, answers = row["text"], "", [held[key] for key in keys if key in held]
    if row["record"] is not None:
        record = json.loads(row["record"])
        turns, _ = as_prompt(record)
        question = "\n".join(readable(turn) for turn in turns if turn["role"] not in _COMMON_ROLES)
        if isinstance(record.get("instruction"), str) and record.get("input"):
            shared = record["instruction"]
        answers = [record[key] for key in keys if record.get(key) is not None] or _replies(record, len(turns))
    yield Part(where, "question", tuple(words_of(question)), len(words_of(shared)))
    for answer in answers:
        yield Part(where, "answer", tuple(words_of(answer if isinstance(answer, str) else json.dumps(answer))))


def _replies(record: dict[str, Any], after: int) -> list[str]:
    """What a dialogue says after its prompt; a bare prompt has nothing there."""
    try:
        return [readable(turn) for turn in as_dialogue(record)[after:] if turn["role"] not in _COMMON_ROLES]
    except DataError:
        return []


def _texts(table: pa.Table) -> list[str]:
    """What is looked through: of dialogues all but what the system says."""
    texts = table["text"].to_pylist()
    if "record" not in table.column_names:
        return texts
    rows = zip(texts, table["record"].to_pylist(), strict=True)
    return [text if record is None else _spoken(text, json.loads(record)) for text, record in rows]


def _spoken(text: str, record: dict[str, Any]) -> str:
    try:
        turns = as_prompt(record)[0] if record.get("prompt") is not None else as_dialogue(record)
    except DataError:
        return text
    if all(turn["role"] not in _COMMON_ROLES for turn in turns):
        return text
    contents = [readable(turn) for turn in turns if turn["role"] not in _COMMON_ROLES]
    # of pairs and prompts the answers, which `turns` may not hold
    for key in ("completion", "chosen", "rejected"):
        if record.get(key) is not None:
            contents += _answer(record[key], key)
    return "\n\n".join(contents)


def _answer(value: Any, key: str) -> list[str]:
    """What an answer says, thinks and calls; all of it as JSON where it is no answer."""
    try:
        return [readable(turn) for turn in messages(value, key, "assistant") if turn["role"] not in _COMMON_ROLES]
    except DataError:
        return [json.dumps(value, ensure_ascii=False)]
