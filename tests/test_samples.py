"""Samples: the loss mask and the documents of rows as a person reads them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from raylm import job, samples
from raylm.cli import main
from raylm.core.artifact import KINDS, Documents
from raylm.data.lineage import index_name
from raylm.data.shards import write_arrow, write_parquet
from raylm.tokenize.forms.dialogues import Dialogues
from raylm.tokenize.forms.labelled import Labelled
from raylm.tokenize.forms.pairs import Pairs
from raylm.tokenize.forms.prompts import Prompts
from raylm.tokenize.forms.text import Text
from raylm.tokenize.forms.unpaired import Unpaired
from tests.stages import context
from tests.test_job import finish, write
from tests.tokenize.samples import table, tokenizer, turn

ASKED, SAID = [turn("user", "Text number?")], [turn("assistant", "spam [1]")]


def tokenized(tmp_path, form, *rows):
    """The job, with its `tokens` stage finished as `form` makes it of `rows`."""
    path = write(tmp_path, lambda text: text.partition("[stages.base]")[0])
    loaded = job.load(path)
    finish(tmp_path, loaded, "docs", Documents)
    ctx = context(tmp_path / "t", "tokens", loaded.stages["tokens"])
    inputs = [job._input_entry(loaded, ref) for ref in job.references(loaded.stages["tokens"])]
    ctx._identity = job._identity(loaded.stages["tokens"], inputs)
    ctx._inputs, ctx.fingerprint = inputs, job.digest_of(ctx._identity)
    (ctx.out / "tokenizer").make()
    made = form.rows(tokenizer(tmp_path / "t" / "tokens" / "tokenizer"), table(*rows))
    write_parquet(ctx.out, index_name("train-00000.arrow"), made.index)
    write_arrow(ctx.out, "train-00000.arrow", made.table)
    facts = {"chat_template_sha256": "c0ffee"} if form.renders_chat else {}
    facts |= {"dropped": dict(made.dropped), **form.facts(made.sums, made.sums - made.sums)} if made.sums["tokens"] else {}
    ctx.commit(KINDS[form.makes()], facts=facts, rows={"train-00000.arrow": made.table.num_rows})
    return path, loaded


def said(loaded, count=1, colours=False):
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=colours, color_system="truecolor" if colours else None)
    samples.show(loaded, job.plan(loaded), count, console)
    return out.getvalue()


@pytest.mark.parametrize("packing", [None, "first_fit_decreasing"])
def test_what_is_learned_of_a_dialogue_stands_in_brackets(tmp_path, packing):
    _, loaded = tokenized(tmp_path, Dialogues(packing=packing), {"messages": ASKED + SAID + ASKED + SAID})
    shown = said(loaded)
    assert "samples: [[learned]], read, not learned" in shown
    turns = "<|user|>Text number?<|end|><|assistant|>[[spam [1]<|end|>]]"
    assert f"<|bos|>{turns}{turns}" in shown
    coloured = said(loaded, colours=True)
    assert "[[" not in coloured and "\x1b[1;32mspam [1]<|end|>\x1b[0m" in coloured
    assert "\x1b[2m<|bos|><|user|>Text number?" in coloured


def test_what_was_truncated_split_or_dropped_is_told(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    turns = [part for at in range(4) for part in (turn("user", f"Text {at}?"), *SAID)]
    form = Dialogues(length=30, overlong="truncate_left")
    _, loaded = tokenized(tmp_path / "a", form, {"messages": turns}, {"messages": ASKED})
    shown = said(loaded)
    assert "tokens: chat template c0ffee\n" in shown and "tokens: dropped: no_answer 1\n" in shown
    assert "tokens: overlong: learned tokens left out" in shown and "truncate_left rows 1" in shown
    assert ", truncated, " in shown and "Text 3?" in shown and "Text 0?" not in shown
    _, loaded = tokenized(tmp_path / "b", Dialogues(length=30, overlong="split"), {"messages": turns})
    shown = said(loaded, count=2)
    assert "tokens: overlong: split_dialogues 1" in shown and "row 1 of its " in shown and "row 2 of its " in shown


def test_pairs_prompts_and_judged_answers(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    _, loaded = tokenized(tmp_path / "a", Pairs(), {"prompt": ASKED, "chosen": SAID, "rejected": [turn("assistant", "no")]})
    shown = said(loaded)
    assert "<|assistant|>\nchosen: [[spam [1]<|end|>]]\nrejected: [[no<|end|>]]" in shown
    _, loaded = tokenized(tmp_path / "b", Unpaired(), {"prompt": ASKED, "completion": SAID, "label": True})
    assert "\ncompletion (label true): [[spam [1]<|end|>]]" in said(loaded)
    _, loaded = tokenized(tmp_path / "c", Prompts(), {"prompt": ASKED, "answer": "7"})
    assert "<|bos|><|user|>Text number?<|end|><|assistant|>\nground truth: 7" in said(loaded)


def test_labels_and_margins(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    labelled = {"messages": ASKED + SAID, "label": 1}
    _, loaded = tokenized(tmp_path / "a", Labelled(classes=("bad", "good")), labelled)
    assert "spam [1]<|end|>\nlabel: good" in said(loaded)
    _, loaded = tokenized(tmp_path / "b", Labelled(), labelled)
    assert "\nlabel: 1\n" in said(loaded)
    pair = {"prompt": ASKED, "chosen": SAID, "rejected": [turn("assistant", "no")], "by": 0.5}
    _, loaded = tokenized(tmp_path / "c", Pairs(margin="by"), pair)
    assert "\nmargin: 0.5" in said(loaded)


def test_text_rows_show_where_documents_begin(tmp_path):
    _, loaded = tokenized(tmp_path, Text(length=16), "Text number 1", "spam " * 20, "and tabs " * 9)
    shown = said(loaded, count=2)
    assert "--- at token 0, " in shown and " tokens of made:0-1" in shown and "[[Text number 1<|end|>]]" in shown
    assert shown.count("tokens, row") == 2


def test_plan_with_samples(tmp_path, capsys):
    path, _ = tokenized(tmp_path, Text(length=16), *(f"Text number {at}" for at in range(20)))
    assert main(["plan", str(path), "--samples", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\ntokens, row") == 2 and shown.splitlines()[-1].startswith("next: raylm run")


def test_what_is_not_there_is_said(tmp_path, capsys):
    path = write(tmp_path)
    assert main(["plan", str(path), "--samples", "3"]) == 0
    assert "tokens: no samples yet, run the stage first: raylm run" in capsys.readouterr().out
