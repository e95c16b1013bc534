"""The number game: what is answered, what it is worth, and that halving finds every number."""

import re

import pytest

from raylm.rl.environments.environment import Turn
from raylm.rl.environments.guess_number import GuessNumber
from tests.rl.talk import coder_of, conversations, prompt, talk


def play(*guesses, wanted="11", **options):
    game = GuessNumber(**options)
    game.reset(prompt(ground_truth=wanted))
    return [game.step(Turn(guess, guess)) for guess in guesses]


def test_guesses_are_answered_and_wrong_ones_cost():
    steps = play("Is it 8?", "12", "7 or 11 or 12?", "<think>\n8 to 12\n</think>\n\n11")
    assert [step.messages[0]["content"] for step in steps[:-1]] == ["higher", "lower", "say one number"]
    assert steps[-1].done and steps[-1].reward == pytest.approx(0.7) and steps[0].reward is None


def test_completions_of_a_prompt_look_for_the_same_number_and_prompts_for_others():
    wanted = set()
    for row in range(40):
        games = [GuessNumber(), GuessNumber()]
        for game in games:
            game.reset(prompt(row=row))
        assert games[0]._wanted == games[1]._wanted
        wanted.add(games[0]._wanted)
    assert wanted <= set(range(1, 17)) and len(wanted) > 12


def test_a_ground_truth_out_of_range_is_refused():
    with pytest.raises(ValueError, match="99 is not from 1 to 16"):
        GuessNumber().reset(prompt(ground_truth="99"))


def test_halving_earns_more_than_counting():
    """Through tokens and processes: the policy reads the conversation so far as text."""
    coder = coder_of()

    def halving(text, _):
        low, high = 1, 16
        for guess, said in re.findall(r"<\|assistant\|>(\d+)<\|end\|><\|user\|>(higher|lower)", text):
            low, high = (int(guess) + 1, high) if said == "higher" else (low, int(guess) - 1)
        return str((low + high) // 2)

    asked = {wanted: prompt("Guess.", ground_truth=str(wanted)) for wanted in range(1, 17)}
    earned = []
    for policy in (halving, lambda _, request: str(request.turn + 1)):
        made = conversations(GuessNumber(), coder, most=16)
        made._chat.check(GuessNumber.speaks)
        ended = talk(made, coder, asked, policy)
        made.close()
        earned.append(sum(one.trajectory.reward for one in ended.values()) / len(ended))
        assert all(one.trajectory.finished == bool(one.trajectory.reward) for one in ended.values())
    # depths of a binary search over 16: 1, 2 x 2, 4 x 3, 8 x 4, 1 x 5 guesses
    assert earned[0] == pytest.approx((16 - 0.1 * (2 + 8 + 24 + 4)) / 16) and earned[1] < 0.4
