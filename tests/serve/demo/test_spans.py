"""Token probabilities as HTML."""

from __future__ import annotations

import math

from raylm.serve.demo.answers import Answer, Beam, Token
from raylm.serve.demo.spans import MOST_TOKENS, figures, step, tokens_html


def test_colours_go_by_probability():
    assert [step(math.log(p)) for p in (1.0, 0.9, 0.89, 0.5, 0.2, 0.05, 0.01)] == [0, 0, 1, 2, 4, 5, 6]
    assert step(-9999.0) == 6
    assert step(float("-inf")) == 6


def test_figures_are_the_geometric_mean_and_its_inverse():
    tokens = [Token("a", math.log(0.5)), Token("b", math.log(0.125))]
    assert figures(tokens) == "2 tokens, mean probability 25 %, perplexity 4"


def test_whatever_a_model_wrote_is_escaped():
    bad = "<img src=x onerror=alert(1)>"
    token = Token(bad, math.log(0.5), ((bad, math.log(0.5)), ('"&', math.log(0.3))))
    shown = tokens_html(Answer("m", tokens=[token], beams=[Beam(bad, -1.0)]))
    assert "<img" not in shown
    assert shown.count("&lt;img") == 4
    assert "&quot;&amp;" in shown


def test_a_token_shows_itself_among_its_alternatives():
    token = Token(" c", math.log(0.01), ((" a", math.log(0.6)), (" b", math.log(0.3))))
    shown = tokens_html(Answer("m", tokens=[token, Token("\n", -0.01)]))
    assert shown.count('class="row on"') == 2
    assert "␣c" in shown and "1.0 %" in shown and "60 %" in shown
    assert "↵\n" in shown


def test_an_answer_without_probabilities_says_how_to_get_some_and_a_long_one_what_it_leaves_out():
    assert "No token probabilities" in tokens_html(None)
    assert "No token probabilities" in tokens_html(Answer("m", text="hello"))
    assert "… 3 more tokens" in tokens_html(Answer("m", tokens=[Token("a", -0.1)] * (MOST_TOKENS + 3)))
