"""What is wrong with an environment is said before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from raylm.core.config import Config, CustomCard
from raylm.core.errors import ConfigError
from raylm.rl.checks import check_cards
from raylm.rl.environments.calculator import Calculator
from raylm.rl.environments.checks import check_environment, check_template
from raylm.rl.environments.environment import Environment
from raylm.rl.environments.guess_number import GuessNumber
from tests.rl.samples import config
from tests.rl.talk import coder_of

HERE = "tests.rl.environments.test_checks"


class Bare(Config):
    def reset(self, prompt: Any) -> None:
        return None


class Odd(Environment):
    async def step(self, turn: Any, history: Any) -> Any:
        return None


class Silent(Environment):
    def step(self, turn: Any) -> Any:
        return None


def test_methods_of_somebody_elses_environment():
    check_environment(Calculator())
    check_environment(CustomCard(path="tests.rl.environments.odd:Odd"))
    with pytest.raises(ConfigError, match=r"has no method step\(turn\)"):
        check_environment(CustomCard(path=f"{HERE}:Bare"))
    with pytest.raises(ConfigError, match=r"has step\(turn: 'Any', history: 'Any'\).*raylm calls step\(turn\)"):
        check_environment(CustomCard(path=f"{HERE}:Odd"))
    with pytest.raises(ConfigError, match="cannot make the custom card"):
        check_environment(CustomCard(path="no_such:Thing"))


def test_an_environment_without_rewards_needs_some():
    game, tools = {"kind": "guess_number"}, {"kind": "calculator"}
    check_cards(config(environment=game, rewards=[]))
    with pytest.raises(ValueError, match="say `rewards`"):
        config(environment=tools, rewards=[])
    check_cards(config(environment={"kind": "custom", "path": "tests.rl.environments.odd:Odd"}, rewards=[]))
    with pytest.raises(ConfigError, match="this environment gives no rewards"):
        check_cards(config(environment={"kind": "custom", "path": f"{HERE}:Silent"}, rewards=[]))


def test_a_template_without_tools_is_refused_and_takes_a_game(tmp_path):
    coder = coder_of("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>")
    coder.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="does not tell in which form the model calls tools"):
        check_template(Calculator(), str(tmp_path), "auto")
    with pytest.raises(ConfigError, match="does not write the calls of tools"):
        check_template(Calculator(), str(tmp_path), "hermes")
    coder.chat_template = coder.chat_template.replace("in messages", "in messages if m.role == 'user'")
    coder.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="writes earlier turns anew"):
        check_template(GuessNumber(), str(tmp_path), "auto")
    coder_of().save_pretrained(tmp_path)
    for card in (Calculator(), GuessNumber()):
        check_template(card, str(tmp_path), "auto")
