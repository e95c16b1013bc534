"""Views: numbers as people write them."""

import pytest

from raylm import job, view
from tests.test_job import write


@pytest.mark.parametrize(("count", "said"), [(7, "7"), (1000, "1 k"), (819_200, "819.2 k"), (1.5e9, "1.5 B"), (2e15, "2000 T")])
def test_counts(count, said):
    assert view._short(count) == said


def test_sizes_follow_the_tokenizer_of_a_stage_of_a_stage(tmp_path):
    loaded = job.load(write(tmp_path))
    assert view._vocabulary(loaded, "tokens") == 300
    assert view._vocabulary(loaded, "nowhere") is None
