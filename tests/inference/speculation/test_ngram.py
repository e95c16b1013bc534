import pytest

from raylm.inference.speculation.ngram import Ngram


def test_lookups_are_in_order():
    with pytest.raises(ValueError, match="min_lookup = 5 is above max_lookup = 4"):
        Ngram(min_lookup=5)
    assert Ngram().speculative_config("")["num_speculative_tokens"] == 4
