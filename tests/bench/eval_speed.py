"""Takes one task of multiple choice and one model, leaves the seconds of lm-eval's `hf` backend and of raylm's task `lm_eval` on
it, each in a process of its own, alternating; the scores of every question must be the same. CPU seconds stand beside: of the two
they say the same where other work is on the machine.

A question has five solved ones before it and four choices: lm-eval reads all of that once for every choice, and makes logits of
every token.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.near_copies.peers import timed

SHOTS, BATCH = 5, 16
DOCUMENTS, ROUNDS = int(os.environ.get("DOCUMENTS", "64")), int(os.environ.get("ROUNDS", "3"))
VOCAB, HIDDEN, LAYERS = 8192, 512, 8
GOAL, MARK = 3.0, "measured: "
YAML = """task: which_topic
dataset_path: json
dataset_kwargs: {{data_files: {{train: {train}, validation: {validation}}}}}
output_type: multiple_choice
training_split: train
validation_split: validation
doc_to_text: "Text: {{{{text}}}}\\nWhich of its words comes next?\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
num_fewshot: {shots}
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


def prepare(at: Path) -> None:
    """A random model of 30 M parameters with a tokenizer of Python's help texts, and questions on them."""
    import pydoc_data.topics as help_texts

    from tests.model.tiny import tiny_checkpoint

    tiny_checkpoint(at / "model", vocab=VOCAB, hidden=HIDDEN, layers=LAYERS, max_len=2048)
    draw, words = random.Random(0), " ".join(help_texts.topics.values()).split()
    for name, count in (("train", 40), ("validation", DOCUMENTS)):
        rows = []
        for _ in range(count):
            start, choices = draw.randrange(len(words) - 60), draw.sample(words, 4)
            answer = draw.randrange(4)
            choices[answer] = words[start + 40]
            rows.append({"text": " ".join(words[start : start + 40]), "choices": choices, "answer": answer})
        (at / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: at / f"{name}.jsonl" for name in ("train", "validation")}
    (at / "task.yaml").write_text(YAML.format(**files, shots=SHOTS))
    from lm_eval.tasks import TaskManager

    # the library that reads the rows keeps them in a form of its own: who came first would pay for both
    TaskManager(include_defaults=False).load([str(at / "task.yaml")])


def ours(at: Path) -> tuple[float, float, list[float], dict[str, float]]:
    """Seconds, CPU seconds, right or wrong of each question, metrics."""
    # the imports of either are no part of the work
    import lm_eval.evaluator
    import lm_eval.tasks  # noqa: F401

    from raylm.evaluate.harness import model  # noqa: F401
    from raylm.evaluate.lm import LM
    from raylm.evaluate.tasks.lm_eval import LmEval

    card = LmEval(task=str(at / "task.yaml"), metrics=["acc", "acc_norm"], name="mc")
    lm = LM(str(at / "model"))
    lm.positions()
    started, began = time.perf_counter(), time.process_time()
    found = card.grade(lm)
    spent, worked = time.perf_counter() - started, time.process_time() - began
    metrics = {name.removeprefix("mc_"): value for name, value in card.summary(found).items()}
    return spent, worked, [one.values["mc_acc"] for one in found], metrics


def theirs(at: Path) -> tuple[float, float, list[float], dict[str, float]]:
    """As `ours`, by lm-eval alone."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    backend: Any = HFLM
    lm = backend(pretrained=str(at / "model"), device="cpu", dtype="float32", batch_size=BATCH)
    manager = TaskManager(include_defaults=False)
    started, began = time.perf_counter(), time.process_time()
    loaded = manager.load([str(at / "task.yaml")])
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=1234)
    # `evaluate`, as raylm calls it: `simple_evaluate` would also look at the machine
    results: Any = evaluator.evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
    spent, worked = time.perf_counter() - started, time.process_time() - began
    metrics = results["results"]["which_topic"]
    right = [sample["acc"] for sample in results["samples"]["which_topic"]]
    return spent, worked, right, {name: metrics[f"{name},none"] for name in ("acc", "acc_norm")}


def main() -> None:
    found: dict[str, list[Any]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for _ in range(ROUNDS):
            for who, made in found.items():
                _, printed = timed([sys.executable, "-m", "tests.bench.eval_speed", who, folder])
                # libraries write behind it
                made.append(json.loads(next(line for line in printed.splitlines() if line.startswith(MARK))[len(MARK) :]))
                print(f"{who}: {made[-1][0]:.2f} s, {made[-1][1]:.2f} CPU s, {made[-1][3]}", flush=True)
    seconds = {who: statistics.median(one[0] for one in made) for who, made in found.items()}
    cpu = {who: statistics.median(one[1] for one in made) for who, made in found.items()}
    same = all(one[2:] == found["theirs"][0][2:] for made in found.values() for one in made)
    ratio = seconds["theirs"] / seconds["ours"]
    from importlib.metadata import version

    print(
        json.dumps(
            {
                "name": "eval_speed",
                "peer": "lm-eval hf",
                "peer_version": version("lm-eval"),
                "ours": round(seconds["ours"], 2),
                "theirs": round(seconds["theirs"], 2),
                "unit": "s",
                "ratio": round(ratio, 2),
                "goal": GOAL,
                "CPU seconds": {who: round(spent, 2) for who, spent in cpu.items()},
                "CPU ratio": round(cpu["theirs"] / cpu["ours"], 2),
                "load": round(os.getloadavg()[0], 1),
                "requests": DOCUMENTS * 4,
                "quality": {"right or wrong of every question and metrics equal": same, **found["ours"][0][3]},
                "ok": same and ratio >= GOAL,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(MARK + json.dumps({"ours": ours, "theirs": theirs}[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main()
