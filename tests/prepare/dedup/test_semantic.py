"""Planted neighbours are found, as a plain loop over all pairs finds them, for any cut into shards."""

import numpy as np
import pyarrow as pa
import pytest

from raylm.core.errors import DataError
from raylm.prepare.dedup.semantic import Semantic
from raylm.prepare.dedup.vectors.clusters import Clusters, bucket_of, chosen, fit, planned
from raylm.prepare.dedup.vectors.embed import embedded, taken, unit
from raylm.prepare.dedup.vectors.nearest import nearest_kept
from tests.model.tiny import tiny_checkpoint
from tests.prepare.corpora import corpus_of, decided, table_of


def _planted(draw, size=240, width=16, groups=8):
    """Unit vectors around `groups` directions; every third one is close to an earlier one."""
    centres = draw.standard_normal((groups, width)) * 3
    vectors = centres[draw.integers(0, groups, size)] + draw.standard_normal((size, width))
    for at in range(3, size, 3):
        vectors[at] = vectors[draw.integers(at)] * draw.uniform(0.5, 2) + draw.standard_normal(width) * 0.2
    return vectors.astype(np.float32)


def _plain_loop(vectors, order, similarity):
    """{place: place of the one that it goes for}, one vector after the other."""
    vectors = unit(vectors).astype(np.float64)
    kept, gone = [], {}
    for at in order:
        alike = {other: vectors[at] @ vectors[other] for other in kept}
        most = max(alike, key=lambda other: alike[other], default=None)
        if most is not None and alike[most] >= similarity - 1e-4:
            gone[int(at)] = int(most)
        else:
            kept.append(at)
    return gone


def _with_vectors(vectors, missing=()):
    table = table_of([f"text {at}" for at in range(len(vectors))])
    rows = [None if at in missing else vector.tolist() for at, vector in enumerate(vectors)]
    return table.append_column("embedding", pa.array(rows, pa.list_(pa.float32(), vectors.shape[1])))


def test_nearest_kept_goes_block_by_block_as_a_plain_loop(monkeypatch):
    vectors = _planted(np.random.default_rng(0))
    wanted = _plain_loop(vectors, range(len(vectors)), 0.95)
    held = unit(vectors).astype(np.float32)
    for block in (7, 64, 1024):
        monkeypatch.setattr("raylm.prepare.dedup.vectors.nearest._BLOCK", block)
        other, score = nearest_kept(lambda places: held[places], len(held), 0.95)
        assert {at: int(place) for at, place in enumerate(other) if place >= 0} == wanted and len(wanted) > 40
        assert score[0] == -1 and all(abs(score[at] - held[at] @ held[place]) < 1e-5 for at, place in wanted.items())


def test_clusters_are_found_and_large_ones_split():
    draw = np.random.default_rng(1)
    centres = np.eye(4, 8, dtype=np.float32)
    vectors = unit(np.repeat(centres, 50, axis=0) + draw.standard_normal((200, 8)) * 0.05)
    centroids = fit(vectors, 4, seed=0)
    # the beginnings may lie in one cluster: Lloyd is no global search, but each vector is at its nearest centroid
    labels = (vectors.astype(np.float32) @ centroids.T).argmax(1)
    made = planned(vectors, 200, centroids, 60, seed=0)
    bucket, near = bucket_of(vectors, made._replace(num_planes=np.zeros(4, np.int64)))
    assert (bucket >> 8 == labels).all() and np.allclose(near, (vectors.astype(np.float32) @ centroids.T).max(1), atol=1e-5)
    one = planned(vectors, 200, centroids[:1], 60, seed=0)
    assert one.num_planes.tolist() == [2] and 2 <= len(set(bucket_of(vectors, one)[0].tolist())) <= 4
    assert len(fit(vectors[:3], 9, seed=0)) == 3
    assert Clusters(*one) == one


def test_a_draw_hangs_on_the_row_alone():
    rows = np.arange(-1000, 1000)
    assert (chosen(rows, 3)[500:600] == chosen(rows[500:600], 3)).all()
    assert abs((chosen(rows, 3) < np.uint64(1 << 63)).mean() - 0.5) < 0.05


def test_one_cluster_as_long_as_all_fit_and_then_enough_of_them():
    card = Semantic(column="embedding")
    assert [card.num_clusters(rows) for rows in (0, 20_000, 20_001, 10**6, 10**9)] == [1, 1, 141, 1000, 100_000 // 16]
    assert Semantic(column="embedding", clusters=7).num_clusters(10) == 7


def test_a_column_must_hold_finite_vectors():
    column = pa.chunked_array([pa.array([[3.0, 4.0], None], pa.list_(pa.float32(), 2))])
    assert np.allclose(taken(column, "x"), [[0.6, 0.8], [0, 0]], atol=1e-3)
    with pytest.raises(DataError, match="fixed-size list"):
        taken(pa.chunked_array([pa.array([[1.0]])]), "x")
    with pytest.raises(DataError, match="not finite"):
        taken(pa.chunked_array([pa.array([[float("nan"), 1.0]], pa.list_(pa.float32(), 2))]), "x")
    with pytest.raises(ValueError, match="either model or column"):
        Semantic()


def test_vectors_are_the_mean_of_the_last_hidden_states(tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    path = tiny_checkpoint(tmp_path / "tiny")
    texts = ["a", "some words of a text", "", "and " * 60, "some words of a text"]
    made = embedded(texts, str(path), 32, 64, "float32").astype(np.float32)
    model, tokenizer = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    for at, text in enumerate(texts):
        if not text:
            assert not made[at].any()
            continue
        ids = torch.tensor([tokenizer(text)["input_ids"][:32]])
        with torch.inference_mode():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        assert np.allclose(made[at], mean / np.linalg.norm(mean), atol=2e-3)


@pytest.mark.ray
@pytest.mark.parametrize("keep", ["first", "far", "near"])
def test_one_cluster_decides_as_a_plain_loop(tmp_path, workers, keep):
    vectors = _planted(np.random.default_rng(2))
    corpus = corpus_of(tmp_path, _with_vectors(vectors, missing=(5, 9)), 3, workers, 2)
    found, facts = decided(corpus, Semantic(column="embedding", keep=keep))
    held = unit(vectors).astype(np.float32)
    there = np.array([at for at in range(len(vectors)) if at not in (5, 9)])
    centre = fit(unit(vectors)[there], 1, seed=0)[0]
    wish = {"first": there, "far": held[there] @ centre, "near": -(held[there] @ centre)}[keep]
    wanted = _plain_loop(vectors, there[np.argsort(wish, kind="stable")], 0.95)
    ids = table_of([f"text {at}" for at in range(len(vectors))])["id"].to_pylist()
    assert {row["row"]: row["because"] for row in found} == {at: ids[other] for at, other in wanted.items()}
    assert facts["without_vector"] == 2 and facts["clusters"] == 1 and facts["dropped"] == len(wanted)
    assert sum(facts["similarities"].values()) == len(there) - 1 and facts["examples"][0]["id"] == ids[found[0]["row"]]


@pytest.mark.ray
@pytest.mark.parametrize("missing", [(), (0,), (0, 1, 2)])
def test_few_or_no_vectors(tmp_path, workers, missing):
    table = _with_vectors(np.eye(3, 4, dtype=np.float32), missing)
    found, facts = decided(corpus_of(tmp_path, table, 3, workers, 2), Semantic(column="embedding"))
    assert found == [] and facts["without_vector"] == len(missing) and facts["clusters"] == 1


@pytest.mark.ray
def test_any_sharding_decides_alike_and_a_lost_pass_is_done_again(tmp_path, workers):
    table = _with_vectors(_planted(np.random.default_rng(3)))
    card = Semantic(column="embedding", clusters=6, sample=120, max_cluster=30)
    made = []
    for cuts, count in [(1, 1), (2, 2), (7, 4)]:
        corpus = corpus_of(tmp_path / str(cuts), table, cuts, workers, count)
        made.append(decided(corpus, card))
    assert made[0] == made[1] == made[2]
    assert len(made[0][0]) > 30 and made[0][1]["clusters"] == 6 and made[0][1]["clusters_split"] > 0
    work = corpus._ctx.work
    for name in work.files():
        if name.startswith(("0-card-nearest", "0-card-buckets-00003", "0-card-clusters")) and name.endswith(".json"):
            work.remove(name)
    assert decided(corpus, card) == made[2]


@pytest.mark.ray
def test_an_encoder_finds_what_reads_the_same(tmp_path, workers):
    path = tiny_checkpoint(tmp_path / "tiny")
    texts = [f"{word} is what text number {at} is about, and {word} it stays" for at, word in enumerate("abcdefgh")]
    texts += [texts[2], texts[5] + "."]
    made = []
    for cuts in (1, 3):
        corpus = corpus_of(tmp_path / str(cuts), table_of(texts), cuts, workers, 2)
        found, _ = decided(corpus, Semantic(model=str(path), similarity=0.9999))
        made.append([(row["row"], row["because"]) for row in found])
    assert made[0] == made[1] == [(8, table_of(texts)["id"][2].as_py())]
    with pytest.raises(DataError, match="no column 'vector'"):
        decided(corpus_of(tmp_path / "other", table_of(texts), 1, workers), Semantic(column="vector"))
