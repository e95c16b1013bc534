"""Views: numbers as people write them."""

import pytest

from raylm import job, view
from raylm.core.artifact import Tokens
from tests.rows import counting_rows, make_rows
from tests.test_job import write


@pytest.mark.parametrize(("count", "said"), [(7, "7"), (1000, "1 k"), (819_200, "819.2 k"), (1.5e9, "1.5 B"), (2e15, "2000 T")])
def test_counts(count, said):
    assert view._short(count) == said


def test_a_mixture_is_told_in_rows_tokens_and_epochs(tmp_path, capsys):
    for name, count in (("web", 40), ("code", 12)):
        make_rows(tmp_path, name, Tokens, counting_rows(count), num_tokens=16 * (count - 4), length=16)
    parts = f'[{{rows = "{tmp_path}/web", weight = 0.75}}, {{rows = "{tmp_path}/code", weight = 0.25}}]'
    table = f'rows = {{kind = "mixture", parts = {parts}}}'
    path = write(tmp_path, lambda text: text.replace('rows = "tokens"', table).replace("steps = 2", "steps = 8"))
    loaded = job.load(path)
    view.plan(loaded, job.plan(loaded))
    said = capsys.readouterr().out
    assert f"75.00% from {tmp_path}/web: 24 rows, 384 tokens, 0.67 epochs" in " ".join(said.split())
    assert "code: 8 rows, 128 tokens, 1.00 epochs" in " ".join(said.split())
    unmade = table.replace(f"{tmp_path}/code", "tokens")
    loaded = job.load(write(tmp_path, lambda text: text.replace('rows = "tokens"', unmade)))
    view.plan(loaded, job.plan(loaded))
    assert "shown once the parts are made" in capsys.readouterr().out
