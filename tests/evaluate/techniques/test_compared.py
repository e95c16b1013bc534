"""Techniques on the same questions, paired."""

from __future__ import annotations

from raylm.evaluate.instances import Graded
from raylm.evaluate.tasks.generation import Generation
from raylm.evaluate.techniques.compared import compare_techniques, lines, section


def graded(title, rights):
    return [Graded(f"q{at}", {title: float(right)}, {title: 1.0}) for at, right in enumerate(rights)]


def test_techniques_are_compared_on_the_same_questions_and_other_tasks_are_not():
    plain = Generation(rows="rows")
    thought = Generation(rows="rows", technique={"kind": "chain_of_thought"})
    other = Generation(rows="rows", checker={"kind": "regex", "pattern": "x"}, name="other")
    cards = {"generation": plain, "generation#2": thought, "generation#3": other}
    rights = [at % 2 for at in range(40)]
    tasks = {
        "generation": graded("generation", rights),
        "generation#2": graded("generation_chain_of_thought", [right or at < 24 for at, right in enumerate(rights)]),
        "generation#3": graded("other", rights),
    }
    (found,) = compare_techniques(cards, {"policy": tasks, "empty": {}})
    assert (found.task, found.first, found.second) == ("policy", "generation", "generation_chain_of_thought")
    assert (found.num_pairs, found.num_won, found.num_lost) == (40, 12, 0)
    # exact McNemar of 12 against 0: 2 / 2^12
    assert abs(found.p - 2 / 2**12) < 1e-12 and found.winner == "generation_chain_of_thought"
    assert lines([found])[-1] == "1 of 1 differences between techniques are sure" and "+0.3000" in lines([found])[0]
    assert "generation_chain_of_thought" in section([found])[1] and lines([]) == []


def test_what_is_no_sure_difference_has_no_winner():
    cards = {"a": Generation(rows="rows"), "b": Generation(rows="rows", technique={"kind": "few_shot"})}
    tasks = {"a": graded("generation", [1, 0, 1, 0]), "b": graded("generation_few_shot", [1, 1, 1, 0])}
    (found,) = compare_techniques(cards, {"policy": tasks})
    assert found.winner == "" and lines([found]) == ["0 of 1 differences between techniques are sure"]
