"""One tiny model and hand-made rows: a grade is of these rows, or is refused in words."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from raylm.core.artifact import Dialogues, Pairs, Prompts, Tokens
from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.shards import Rows
from raylm.evaluate.encode import longest_prompt
from raylm.evaluate.examine import Mark, Marks, examine, grade_logprobs
from raylm.evaluate.instances import Graded, asked_id
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.answers import Answers
from raylm.evaluate.tasks.bits_per_byte import BitsPerByte
from raylm.evaluate.tasks.dialogue_loss import DialogueLoss
from raylm.evaluate.tasks.generation import Generation
from raylm.evaluate.tasks.preference import Preference
from tests.evaluate.fakes import Says
from tests.model.tiny import SPECIAL, tiny_checkpoint, tiny_model, tiny_tokenizer
from tests.rows import counting_rows, make_rows

TEXTS = [f"A class defines type number {number}; a module is a file. Ünïcode, 東京." for number in range(12)]
CARDS = {
    "tokens": BitsPerByte(rows="tokens"),
    "dialogues": DialogueLoss(rows="dialogues"),
    "pairs": Preference(rows="pairs"),
    "prompts": Answers(rows="prompts", max_tokens=4),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    at = tmp_path_factory.mktemp("job")
    rows = [{"tokens": tiny_tokenizer(300).encode(text)} for text in TEXTS]
    make_rows(at, "tokens", Tokens, rows, held_out=12)
    make_rows(
        at, "dialogues", Dialogues, [{**row, "mask": [0] * 8 + [1] * (len(row["tokens"]) - 8)} for row in rows], held_out=12
    )
    make_rows(at, "pairs", Pairs, [{"prompt": [1, 3], "chosen": row["tokens"], "rejected": [70]} for row in rows], held_out=12)
    make_rows(at, "prompts", Prompts, [{**row, "messages": "[]", "ground_truth": "class"} for row in rows], held_out=12)
    tiny_checkpoint(at / "own", vocab=300, layers=1)
    tiny_checkpoint(at / "other", vocab=400, layers=1)
    return at


def asked(root, model, name, **options):
    return examine(LM(str(root / model), **options), CARDS[name], str(root / name))


@pytest.mark.parametrize("name", ["dialogues", "pairs", "prompts"])
def test_rows_of_another_tokenizer_are_refused(root, name):
    generator = {"answerer": Says(lambda prompts, _: ["a class"] * len(prompts))}
    assert asked(root, "own", name, **generator).note == ""
    with pytest.raises(DataError, match="another tokenizer than the model's: the model's tokenizer cuts"):
        asked(root, "other", name, **generator)


def test_bits_per_byte_of_the_same_model_under_other_token_ids_are_the_same(root):
    """The rows' text is encoded anew; ids are shuffled in tokenizer and embedding, so the model is the same function of text."""
    rules = json.loads(tiny_tokenizer(300).backend_tokenizer.to_str())
    first = len(SPECIAL)
    moved = [*range(first), *(first + np.random.default_rng(0).permutation(300 - first)).tolist()]
    rules["model"]["vocab"] = {name: moved[index] for name, index in rules["model"]["vocab"].items()}
    names = {"pad_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}
    shuffled = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(rules)), **names)
    model = tiny_model(vocab=300, layers=1)
    model.model.embed_tokens.weight.data[moved] = model.model.embed_tokens.weight.data.clone()
    model.save_pretrained(root / "shuffled")
    shuffled.save_pretrained(root / "shuffled")
    mark, own = asked(root, "shuffled", "tokens"), asked(root, "own", "tokens")
    assert mark.grades["bits_per_byte"] == pytest.approx(own.grades["bits_per_byte"], rel=1e-5)
    assert "encoded anew" in mark.note
    assert own.note == ""


def test_bits_per_byte_counts_the_bytes_of_the_rows_whatever_the_tokens(root):
    """A uniform model needs log2(400) bits for each of its own tokens; windows that its positions cut change nothing of that."""
    blind = tiny_model(vocab=400, layers=1, max_len=16)
    blind.model.embed_tokens.weight.data.zero_()
    blind.save_pretrained(root / "blind")
    tiny_tokenizer(400).save_pretrained(root / "blind")
    tokens = sum(len(tiny_tokenizer(400).encode(text)) for text in TEXTS)
    expected = math.log2(400) * tokens / sum(len(text.encode()) for text in TEXTS)
    assert asked(root, "blind", "tokens").grades["bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_a_tokenizer_that_does_not_give_the_text_back_is_no_measure_of_it(root):
    from tokenizers import normalizers

    tiny_checkpoint(root / "small_letters", vocab=300, layers=1)
    lower = tiny_tokenizer(300)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    lower.save_pretrained(root / "small_letters")
    with pytest.raises(DataError, match="12 of 12 texts that the model's tokenizer does not give back whole"):
        asked(root, "small_letters", "tokens")


@pytest.mark.parametrize("name", ["tokens", "dialogues", "pairs"])
def test_a_model_of_nan_has_no_grade(root, name):
    model = tiny_model(vocab=300, layers=1)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(root / "nan")
    tiny_tokenizer(300).save_pretrained(root / "nan")
    with pytest.raises(DataError, match="no grade: 12 of 12 texts without a finite score"):
        asked(root, "nan", name)


def test_texts_that_do_not_fit_are_left_out_and_counted_and_more_than_a_tenth_are_no_grade(tmp_path):
    tiny_checkpoint(tmp_path / "own", vocab=300, layers=1, max_len=20)
    rows = counting_rows(20)
    long, empty = {"tokens": [70] * 21}, {"tokens": [70]}
    for name, odd in (("few", [long, empty]), ("many", [long, long, empty])):
        make_rows(tmp_path, name, Tokens, [*rows, *odd], held_out=len(rows) + len(odd))
    make_rows(tmp_path, "plain", Tokens, rows, held_out=len(rows))
    few, plain = (examine(LM(str(tmp_path / "own")), CARDS["tokens"], str(tmp_path / name)) for name in ("few", "plain"))
    assert few.note == "without 1 of 22 texts empty, 1 of 22 texts longer than the 20 tokens that the model has room for"
    assert few.grades == pytest.approx(plain.grades)
    with pytest.raises(DataError, match="no grade: 1 of 23 texts empty, 2 of 23 texts longer"):
        examine(LM(str(tmp_path / "own")), CARDS["tokens"], str(tmp_path / "many"))


def test_an_empty_answer_wins_no_preference(tmp_path):
    """Its log-probability is 0, more than that of any answer."""
    tiny_checkpoint(tmp_path / "own", vocab=300, layers=1)
    rows = [{"prompt": [1, 3], "chosen": chosen, "rejected": [70, 71]} for chosen in ([], [72])]
    make_rows(tmp_path, "pairs", Pairs, rows, held_out=2)
    with pytest.raises(DataError, match="no grade: 1 of 2 texts empty"):
        asked(tmp_path, "own", "pairs")


def test_prompts_that_leave_no_room_for_the_answer_are_not_asked(root):
    rows = counting_rows(20)
    make_rows(root, "prompts20", Prompts, [{**row, "messages": "[]", "ground_truth": "class"} for row in rows], held_out=20)
    seen = []

    def generator(prompts, max_tokens):
        seen.extend(prompts)
        return ["class"] * len(prompts)

    card = Answers(rows="prompts20", max_tokens=4)
    assert examine(LM(str(root / "own"), answerer=Says(generator, room=20)), card, str(root / "prompts20")).grades == {
        "answers": 1.0
    }
    assert len(seen) == 20
    with pytest.raises(DataError, match="20 of 20 texts longer than the 15 tokens"):
        examine(LM(str(root / "own"), answerer=Says(generator, room=19)), card, str(root / "prompts20"))


class Killed(DialogueLoss):
    """A task whose process is killed while it is asked."""

    def grade(self, lm, rows):
        import os

        os.kill(os.getpid(), signal.SIGKILL)
        return super().grade(lm, rows)


def test_a_process_killed_in_the_middle_leaves_the_marks_it_made(root, tmp_path):
    script = (
        "import sys; from tests.evaluate.test_examine import *; root, out = sys.argv[1:]; "
        "tasks = [(0, CARDS['tokens'], f'{root}/tokens'), (1, Killed(rows='dialogues'), f'{root}/dialogues')]; "
        "grade_logprobs(f'{root}/own', None, tasks, 'own', Marks(Folder(out)))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root), str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    marks = Marks(Folder(tmp_path))
    mark = marks.read("own", 0)
    assert mark == asked(root, "own", "tokens")
    assert marks.read("own", 1) is None
    refused = grade_logprobs(str(root / "own"), None, [(1, CARDS["dialogues"], str(root / "dialogues"))], "own", marks)
    assert refused == {}
    assert marks.read("own", 1) == asked(root, "own", "dialogues")


def test_room_is_made_for_prompts_as_the_model_itself_reads_them(root):
    """Messages are asked of a model of any tokenizer: one that cuts finer than that of the rows needs more room."""
    messages = [[{"role": "user", "content": text * 3}] for text in TEXTS]
    coarse, fine = tiny_tokenizer(400), tiny_tokenizer(300)
    rows = [
        {
            "tokens": coarse.apply_chat_template(each, add_generation_prompt=True)["input_ids"],
            "messages": json.dumps(each),
            "ground_truth": "class",
        }
        for each in messages
    ]
    make_rows(root, "asked", Prompts, rows, held_out=12)
    held_out = Rows.open(str(root / "asked"), "held_out")
    of_rows = max(len(row["tokens"]) for row in rows)
    longest = max(len(fine.apply_chat_template(each, add_generation_prompt=True)["input_ids"]) for each in messages)
    assert longest > of_rows
    card, lm = Generation(rows="asked", max_tokens=4), LM(str(root / "own"))
    assert longest_prompt(card, held_out, lm) == longest
    answerer = Says(lambda prompts, _: ["class"] * len(prompts), room=longest + card.max_tokens)
    assert len(card.grade(LM(str(root / "own"), answerer=answerer), held_out)) == 12
    # tokens are asked of a model of the same tokenizer alone
    assert longest_prompt(Answers(rows="asked"), held_out, lm) == of_rows


def test_marks_of_weights_that_were_written_anew_are_forgotten(tmp_path):
    """A folder that no stage made has no fingerprint: a run that died before and the next one would be one report."""
    marks, at = Marks(Folder(tmp_path / "marks")), tmp_path / "m"
    tiny_checkpoint(at, vocab=300, layers=1)
    for model in ("m", "other"):
        marks.follow(model, str(at))
        marks.write(model, 0, Mark({"x": 1.0}, ""))
        marks.write(model, 1, Mark({"y": 1.0}, ""))
    assert len([name for name in Folder(tmp_path / "marks").files() if "/" not in name]) == 4, "marks alone"
    marks.follow("m", str(at))
    assert marks.read("m", 1) == Mark({"y": 1.0}, "")
    (at / "tokenizer_config.json").write_text("{}")
    marks.follow("m", str(at))
    assert marks.read("m", 0) is None and marks.read("m", 1) is None
    assert marks.read("other", 0) and marks.journal("m", str(at)).found == {}


class Own(Config):
    """A task that brings its own texts."""

    needs: ClassVar[str] = "logprobs"
    better: ClassVar[dict[str, str]] = {"own": "high"}
    kind: str = "own"

    def grade(self, lm, rows):
        assert rows is None
        tokens = [lm.tokenizer.encode(text) for text in TEXTS]
        masks = [[0] * 8 + [1] * (len(row) - 8) for row in tokens]
        sums = lm.logprob_sums(tokens, masks)
        return [
            Graded(asked_id(text), {"own": -nats}, {"own": sum(mask)})
            for text, nats, mask in zip(TEXTS, sums, masks, strict=True)
        ]


def test_a_task_may_bring_its_own_texts(root):
    by_rows = examine(LM(str(root / "own")), CARDS["dialogues"], str(root / "dialogues"))
    own = examine(LM(str(root / "own")), Own(), None)
    assert own.grades["own"] == pytest.approx(by_rows.grades["dialogue_loss"], rel=1e-6)
