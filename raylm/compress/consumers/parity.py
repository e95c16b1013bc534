"""Proof of an export: every consumer that is installed reads the written files, and must say what transformers says.

prompts --> transformers, float32 --> ids, greedy tokens, log-probabilities <-- compared -- consumers, each in its own process
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

from raylm.compress.consumers import AnyConsumer
from raylm.compress.consumers.comparison import Verdict, compare
from raylm.compress.consumers.consumer import Consumer, Prompt, Ran
from raylm.compress.consumers.process import run_apart
from raylm.compress.consumers.prompts import made_prompts
from raylm.compress.consumers.transformers import Transformers
from raylm.core.errors import ArtifactError

FILE = "parity.json"
MAX_TOKENS = 16
NUM_PROMPTS = 64
# a dtype that moves predictions by no more leaves some of so many answers as they are; by less nothing is known of a program that
# tells no log-probabilities
SMALL_KL, FEW = 0.2, 8
# mean KL per token between two programs that compute with the same rounded weights: what rounding activations to 8 bits makes
SAME_WEIGHTS_KL = 0.03


class Asked(NamedTuple):
    """What is asked of a format."""

    kind: str
    """Of the format: `Consumer.reads` names it."""
    exact: bool
    """Greedy tokens must be those of transformers, near-ties apart."""
    noise: float = 1e-3
    """Nats by which the format's arithmetic may move a log-probability: of tokens that are closer either may be the likelier."""
    most_kl: float = 1.0
    """Mean KL per token that cannot be rounding any more: something else is wrong with the files."""
    max_tokens: int = MAX_TOKENS


class Parity(NamedTuple):
    """The verdicts on one export."""

    verdicts: list[Verdict]
    asked: Asked
    private: bool = False
    """The prompts are somebody's rows: parity.json, which goes where the export goes, quotes none of them."""

    def wrong(self) -> list[str]:
        """What no export may leave: other prompt ids, other greedy tokens where they must be equal, a program that dies of it."""
        found = []
        for each in self.verdicts:
            name = f"{each.consumer} {each.version}"
            if each.failed:
                found.append(f"{name} {each.failed}")
            elif each.prompts and each.untold == each.prompts:
                found.append(f"{name} tells none of its answers")
            elif each.first_ids:
                others = each.prompts - each.ids_equal - each.untold
                found.append(f"{name} cuts {others} of {each.prompts} prompts otherwise; {each.first_ids}")
            elif each.differ and self.asked.exact:
                found.append(f"{name} answers {each.differ} of {each.prompts} prompts otherwise; {each.first_token}")
            elif each.kl is None and self.asked.most_kl <= SMALL_KL and each.differ >= FEW and each.differ == each.ids_equal:
                found.append(f"{name} answers none of {each.differ} prompts as transformers does; {each.first_token}")
            elif each.rounded_kl is not None and not each.rounded_kl <= SAME_WEIGHTS_KL:
                found.append(
                    f"{name} is {each.rounded_kl:.3g} nats per token from transformers with the same rounded weights, arithmetic "
                    f"makes no more than {SAME_WEIGHTS_KL:g}; {each.first_token}"
                )
            elif each.kl is None and each.rounded_differ >= FEW and each.rounded_differ == each.ids_equal:
                found.append(f"{name} answers no prompt as transformers does with the same rounded weights; {each.first_token}")
            # one that is no number is not within the bound
            elif each.kl is not None and not each.kl <= self.asked.most_kl:
                found.append(
                    f"{name} is {each.kl:.3g} nats per token from transformers, rounding makes no more than "
                    f"{self.asked.most_kl:g}; {each.first_token}"
                )
        return found

    def check(self, where: str) -> None:
        """Raises ArtifactError where something is wrong: the files are not published."""
        if found := self.wrong():
            raise ArtifactError(
                "what was written is another model in the programs that read it: " + "; ".join(found),
                where=where,
                next="nothing was published; report it with these lines, or export to another format",
            )

    def facts(self) -> dict[str, str]:
        """{consumer: its verdict in words}, for a manifest."""
        return {each.consumer: each.words() for each in self.verdicts}

    def metrics(self) -> dict[str, float]:
        """Figures of the worst consumer."""
        ran = [each for each in self.verdicts if each.prompts and not each.failed]
        told = [each.kl for each in ran if each.kl is not None]
        flips = max((each.differ + each.near_ties for each in ran), default=0)
        return {"num_consumers": len(ran), **({"parity_kl": max(told)} if told else {}), "parity_flips": flips}

    def to_json(self) -> dict[str, Any]:
        """As parity.json holds it."""
        asked = {"reference": "transformers, float32", **self.asked._asdict()}
        quotes = {"first_ids": "", "first_token": ""} if self.private else {}
        return {"asked": asked, "consumers": [{**each._asdict(), **quotes} for each in self.verdicts]}

    def dumps(self) -> str:
        """The text of parity.json."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"

    def lines(self) -> list[str]:
        """A table, for a terminal."""
        wide = max((len(each.consumer) for each in self.verdicts), default=0)
        return [f"  {each.consumer:<{wide}}  {each.version:<12} {each.words()}" for each in self.verdicts]


def consumers_of(kind: str) -> list[Consumer]:
    """Those that read exports of this kind, installed or not."""
    cards = [card() for card in get_args(get_args(AnyConsumer)[0])]
    return [card for card in cards if kind in card.reads]


def prove(
    asked: Asked,
    folder: Path,
    source: str,
    prompts: list[Prompt] | None = None,
    *,
    num_prompts: int = NUM_PROMPTS,
    consumers: list[Consumer] | None = None,
    reference: list[Ran] | None = None,
    rounded: Path | None = None,
    say: Callable[[str], None] = print,
) -> Parity:
    """Run every consumer on the written files in the local `folder`, and compare with transformers on the checkpoint `source`.

    Args:
        source: the plain checkpoint that was exported: a folder (or what `raylm.model.load` takes).
        prompts: what is asked; else `num_prompts` are made of the chat template and plain text.
        consumers: all that read this kind where it is None.
        reference: what transformers says of these prompts, where it is known already.
        rounded: the checkpoint with its weights rounded as the files have them: what differs from that is no rounding.

    Raises:
        ArtifactError: transformers cannot answer. What the others say is a verdict; see `Parity.check`.
    """
    from raylm.model.load import folder_of, load_tokenizer

    local = folder_of(source)
    if local is None:
        raise ArtifactError("the checkpoint that was exported is not here", where=source)
    tokenizer = load_tokenizer(str(local))
    chosen = consumers_of(asked.kind) if consumers is None else consumers
    missing = {each.kind: each.installed() or each.refuses(folder) for each in chosen}
    private = prompts is not None
    prompts = made_prompts(tokenizer, num_prompts) if prompts is None else prompts
    verdicts: list[Verdict] = []
    same_weights: list[Ran] | None = None
    for each in chosen:
        verdict = Verdict(each.kind, "" if missing[each.kind] else each.version())
        if missing[each.kind] or not prompts:
            verdicts.append(verdict._replace(unproved=missing[each.kind] or "no prompts were asked for"))
            continue
        reference = reference or run_apart(Transformers(), local, prompts, asked.max_tokens)
        try:
            answers = run_apart(each, folder, prompts, asked.max_tokens)
        except ArtifactError as wrong:
            verdicts.append(verdict._replace(failed=wrong.what, prompts=len(prompts)))
            continue
        verdict = compare(verdict, prompts, reference, answers, asked.noise, tokenizer)
        if rounded is not None:
            same_weights = same_weights or run_apart(Transformers(), rounded, prompts, asked.max_tokens)
            near = compare(Verdict(each.kind, ""), prompts, same_weights, answers, asked.noise, tokenizer)
            verdict = verdict._replace(rounded_kl=near.kl, rounded_differ=near.differ)
        verdicts.append(verdict)
    parity = Parity(verdicts, asked, private)
    for line in parity.lines():
        say(line)
    return parity
