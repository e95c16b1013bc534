from raylm.serve.tune.candidates import COMBINED, PLAIN, candidates, combined


def test_every_candidate_is_one_that_the_machine_takes():
    for gpus in (0, 1, 4):
        found = candidates(gpus, draft="./draft", also={"int8": "./int8"}, compiles=True)
        assert found[0].name == PLAIN and not found[0].table and len({one.name for one in found}) == len(found)
        for one in found:
            one.settings.check_gpus(one.settings.tensor_parallel if gpus and one.settings.tensor_parallel > 1 else min(gpus, 1))
        assert {"draft-2", "ngram-3", "int8", "kv-fp8"} <= {one.name for one in found}
    assert {one.name for one in candidates(4)} - {one.name for one in candidates(0)} == {
        "no-chunks", "chunks-2048", "chunks-16384", "tensor-4", "eager"
    }  # fmt: skip
    assert "compile" not in {one.name for one in candidates(0)}


def test_what_helped_is_tried_together_once():
    by_name = {one.name: one for one in candidates(0)}
    one, two, three = by_name["ngram-3"], by_name["no-prefix-cache"], by_name["ngram-6"]
    found = combined([(one, 1.1), (two, 1.05), (three, 1.3)])
    assert found is not None and found.name == COMBINED
    assert found.table == three.table | two.table, "of two that set the same key the one that helped more"
    assert combined([(one, 1.2)]) is None and combined([]) is None and combined([(one, 1.1), (three, 1.3)]) is None
