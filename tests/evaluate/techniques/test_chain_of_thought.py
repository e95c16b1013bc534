"""An instruction to think, and examples that do."""

from __future__ import annotations

from raylm.evaluate.items import Item
from raylm.evaluate.techniques.chain_of_thought import STEPS, ChainOfThought

ASKED = Item("x", [{"role": "user", "content": "2 + 2?"}], "4", {}, "")
SOLVED = Item("y", [{"role": "user", "content": "1 + 1?"}], "2", {"reasoning": "One and one make two."}, "")


def test_the_instruction_stands_behind_the_last_words_of_the_user():
    assert ChainOfThought().messages(ASKED, []) == [{"role": "user", "content": f"2 + 2?\n\n{STEPS}"}]
    later = ASKED._replace(messages=[*ASKED.messages, {"role": "assistant", "content": "Hm."}])
    assert ChainOfThought(instruction="Think.").messages(later, [])[0]["content"] == "2 + 2?\n\nThink."


def test_examples_show_their_reasoning_and_mark_their_answer():
    card = ChainOfThought(num_examples=1)
    turns = card.messages(ASKED, [SOLVED])
    assert turns[1] == {"role": "assistant", "content": "One and one make two.\n#### 2"}
    assert turns[0]["content"].endswith(STEPS) and turns[2]["content"].endswith(STEPS)
    assert card.lacks(ASKED) == "without a column 'reasoning'" and card.lacks(SOLVED) == ""
