"""Draws that vote."""

from raylm.evaluate.techniques.self_consistency import SelfConsistency


def test_it_draws_by_itself():
    card = SelfConsistency(num_draws=5, temperature=0.9)
    assert (card.draws, card.sampling) == (5, {"temperature": 0.9})
