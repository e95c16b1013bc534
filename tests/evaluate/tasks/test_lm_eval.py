"""lm-eval's tasks asked by raylm: the numbers of lm-eval's own run of the same model, instance by instance."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from raylm.core.errors import ConfigError, DataError
from raylm.evaluate.backends.backend import Answer
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.lm_eval import LmEval
from tests.model.tiny import tiny_checkpoint

QUESTIONS = [
    {
        "question": f"Is thing {at} a class or a module?",
        "choices": ["a class", "a module", "the function itself"],
        "answer": at % 3,
    }
    for at in range(24)
]
HEAD = "dataset_path: json\nvalidation_split: validation\ndataset_kwargs: {{data_files: {{validation: {data}}}}}\n"
CHOICE = """task: tiny_choice
output_type: multiple_choice
doc_to_text: "{{question}} Answer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
num_fewshot: 2
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: brier_score}]
"""
ROLLING = """task: tiny_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
GENERATE = """task: tiny_generate
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["e"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
- {name: whole, filter: [{function: take_first}]}
- {name: first, filter: [{function: regex, regex_pattern: "(.)"}, {function: take_first}]}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    at = tmp_path_factory.mktemp("model") / "tiny"
    tiny_checkpoint(at, vocab=300, layers=1)
    return str(at)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    at = tmp_path_factory.mktemp("tasks")
    (at / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))

    def write(name, text):
        path = at / f"{name}.yaml"
        path.write_text(HEAD.format(data=at / "rows.jsonl") + text)
        return str(path)

    return write


class Greedy:
    """An answerer of transformers: one prompt at a time, without padding."""

    room: int | None = None
    reads_tokens = True

    def __init__(self, path, tokenizer):
        self._model: Any = AutoModelForCausalLM.from_pretrained(path).eval()
        self._tokenizer = tokenizer

    def complete(self, prompts, sampling, seeds):
        for at, prompt in enumerate(prompts):
            asked = torch.tensor([prompt])
            made = self._model.generate(asked, max_new_tokens=sampling.max_tokens, do_sample=False, pad_token_id=0)[0]
            tokens = made[len(prompt) :].tolist()
            yield at, [Answer(self._tokenizer.decode(tokens, skip_special_tokens=True), tokens, "length", 0.1, len(tokens))]


def theirs(model, path, **options) -> Any:
    """lm-eval's own run with its `hf` model."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    backend: Any = HFLM
    hf = backend(pretrained=model, device="cpu", dtype="float32", batch_size=1)
    manager = TaskManager(include_defaults=False)
    return evaluator.simple_evaluate(hf, tasks=[path], task_manager=manager, bootstrap_iters=0, **options)


def test_choices_and_texts_have_lm_evals_own_numbers(model, task):
    path = task("choice", CHOICE)
    card = LmEval(task=path, metrics=["acc", "acc_norm", "brier_score"], limit=20)
    lm = LM(model)
    found = card.grade(lm)
    own = theirs(model, path, limit=20)
    result = own["results"]["tiny_choice"]
    mine = card.summary(found)
    assert mine["choice_acc"] == result["acc,none"] and mine["choice_acc_norm"] == result["acc_norm,none"]
    assert mine["choice_brier_score"] == pytest.approx(result["brier_score,none"], rel=1e-5)
    assert card.better == {"choice_acc": "high", "choice_acc_norm": "high", "choice_brier_score": "low"}
    assert [one.values["choice_acc"] for one in found] == [sample["acc"] for sample in own["samples"]["tiny_choice"]]
    assert len({one.id for one in found}) == 20 and Counter(one.facts["answer"] for one in found) == {"0": 7, "1": 7, "2": 6}
    assert found[0].asked.count("Answer:") == 3 and found[0].seconds > 0

    path = task("rolling", ROLLING)
    names = ["word_perplexity", "byte_perplexity", "bits_per_byte"]
    card = LmEval(task=path, metrics=names, name="texts")
    mine, result = card.summary(card.grade(lm)), theirs(model, path)["results"]["tiny_rolling"]
    for name in names:
        assert mine[f"texts_{name}"] == pytest.approx(result[f"{name},none"], rel=1e-6)


def test_a_tokenizer_that_begins_every_text_begins_it_as_with_lm_eval(model, task, tmp_path):
    shutil.copytree(model, tmp_path / "begun")
    tokenizer = AutoTokenizer.from_pretrained(model)
    begin = TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 1)])
    tokenizer.backend_tokenizer.post_processor = begin
    tokenizer.save_pretrained(tmp_path / "begun")
    path = str(tmp_path / "begun")
    assert LM(path).tokenizer("x")["input_ids"][0] == 1
    choice, rolling = task("choice", CHOICE), task("rolling", ROLLING)
    card = LmEval(task=choice, metrics=["brier_score"], limit=6)
    own = theirs(path, choice, limit=6)["results"]["tiny_choice"]
    assert card.summary(card.grade(LM(path)))["choice_brier_score"] == pytest.approx(own["brier_score,none"], rel=1e-5)
    card = LmEval(task=rolling, metrics=["word_perplexity"], limit=4)
    own = theirs(path, rolling, limit=4)["results"]["tiny_rolling"]
    assert card.summary(card.grade(LM(path)))["rolling_word_perplexity"] == pytest.approx(own["word_perplexity,none"], rel=1e-6)


def test_answers_are_lm_evals_own(model, task):
    path = task("generate", GENERATE)
    card = LmEval(task=path, metrics=["exact_match,whole", "exact_match,first"], generates=True, limit=6)
    lm = LM(model)
    lm = LM(model, answerer=Greedy(model, lm.tokenizer))
    found = card.grade(lm)
    own = theirs(model, path, limit=6)["samples"]["tiny_generate"]
    whole = [sample["filtered_resps"][0] for sample in own if sample["filter"] == "whole"]
    assert [json.loads(one.output)[0] for one in found] == whole
    assert [one.tokens for one in found] == [12] * 6 and card.needs == "generate"
    assert set(card.summary(found)) == {"generate_exact_match_whole", "generate_exact_match_first"}
    with pytest.raises(DataError, match="asks for answers"):
        LmEval(task=path, metrics=["exact_match,whole"]).grade(lm)
    with pytest.raises(DataError, match="no filter 'none'; it has first, whole"):
        LmEval(task=path, metrics=["exact_match"], generates=True, limit=2).grade(lm)


def test_what_could_not_be_finished_is_refused_before_anything_is_asked(task, tmp_path):
    class Nobody:
        tokenizer, room, reads_tokens = None, None, True

    def refused(text, metrics=("acc",)):
        LmEval(task=task("odd", text), metrics=list(metrics)).grade(Nobody())  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="needs the package scikit-learn"):
        refused(CHOICE.replace("{metric: acc_norm}", "{metric: f1}"))
    (tmp_path / "own.py").write_text("def target(doc):\n    import rouge_nowhere\n    return rouge_nowhere.x(doc)\n")
    (tmp_path / "own.yaml").write_text(
        Path(task("odd", CHOICE)).read_text().replace('doc_to_target: "{{answer}}"', "doc_to_target: !function own.target")
    )
    with pytest.raises(ConfigError, match="needs the package rouge_nowhere"):
        LmEval(task=str(tmp_path / "own.yaml")).grade(Nobody())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no metric 'bleu'"):
        refused(CHOICE, ["bleu"])
    with pytest.raises(ConfigError, match="no such file"):
        LmEval(task="nowhere.yaml").grade(Nobody())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the data of task"):
        refused(CHOICE.replace("tiny_choice", "tiny_lost").replace("num_fewshot", "training_split: lost\nnum_fewshot"))


def test_documents_without_a_score_are_left_out_and_not_guessed(model, task):
    class Blind(LM):
        def loglikelihood(self, pairs):
            found = super().loglikelihood(pairs)
            return [(math.nan, False), *found[1:]]

    card = LmEval(task=task("choice", CHOICE))
    assert len(card.grade(Blind(model))) == 23
