"""Components of any graph are those of a plain union-find, however the edges are cut."""

from types import SimpleNamespace

import numpy as np
import pytest

from raylm.core.storage import Folder
from raylm.data.shuffle import gather
from raylm.prepare.dedup.fuzzy.components import contract, groups_of, large_star, send, settle


def plain_labels(edges):
    """Smallest node of each node's component, without the smallest themselves; paths followed one by one."""
    near: dict[int, set[int]] = {}
    for one, other in edges:
        near.setdefault(one, set()).add(other)
        near.setdefault(other, set()).add(one)
    labels: dict[int, int] = {}
    for first in sorted(near):
        waiting = [] if first in labels else [first]
        while waiting:
            node = waiting.pop()
            if node not in labels:
                labels[node] = first
                waiting += near[node]
    return {node: label for node, label in labels.items() if node != label}


def components(folder, edges, tasks, parts):
    """The labels that the passes leave, run here one after the other, and how many rounds it took."""
    rounds = []

    def over_parts(name, of, work, scatters, **facts):
        rounds.append(name)
        return [work(at, {"part": at}) for at in range(of)]

    corpus = SimpleNamespace(scratch=Folder(folder), over_parts=over_parts)
    for task in range(tasks):
        mine = np.array(edges[task::tasks], np.int64).reshape(-1, 2)
        send(corpus.scratch, "large-0", task, contract(mine[:, 0], mine[:, 1]), parts, both=True)
    name, sent = settle(corpus, tasks, parts)
    labels = {}
    for part in range(parts):
        table = gather(corpus.scratch, name, range(sent), part)
        made = groups_of(table["node"].to_numpy(), table["other"].to_numpy(), part, parts, 10**9)
        here = dict(zip(made["row"].tolist(), made["group"].tolist(), strict=True))
        assert not labels.keys() & here.keys()
        labels |= here
    return {node: label for node, label in labels.items() if node != label}, len(rounds)


def graphs():
    draw = np.random.default_rng(0)
    for nodes, edges in ((10, 6), (100, 60), (500, 450), (2000, 1500)):
        yield f"random-{nodes}", draw.integers(-nodes // 3, nodes, (edges, 2)).tolist()
    chain = draw.permutation(3000)
    yield "chain", [[at, at + 1] for at in range(3000)]
    yield "shuffled-chain", np.stack([chain[:-1], chain[1:]], axis=1).tolist()
    yield "two-stars", [[0, at] for at in range(1, 800)] + [[801, at] for at in range(802, 1500)] + [[799, 1499]]
    yield "loops-and-repeats", [[5, 5], [1, 2], [2, 1], [1, 2], [-3, 2]]
    yield "nothing", []


@pytest.mark.parametrize(("edges"), [pytest.param(edges, id=name) for name, edges in graphs()])
def test_labels_are_those_of_a_walk_for_any_partitioning(tmp_path, edges):
    wanted = plain_labels(edges)
    for tasks, parts in ((1, 1), (2, 2), (3, 7)):
        labels, rounds = components(tmp_path / f"{tasks}", edges, tasks, parts)
        assert labels == wanted
        # two passes a round, and the logarithm of the longest chain of rounds
        assert rounds <= 2 * 12


def test_a_large_star_by_hand():
    # 1-3, 2-3, 3-4: node 3 sees 1 and 2 below and 4 above
    node, other = np.array([1, 3, 2, 3, 3, 4, 3]), np.array([3, 1, 3, 2, 4, 3, 4])
    (larger, smaller), unsettled = large_star(node, other)
    assert sorted(zip(larger.tolist(), smaller.tolist(), strict=True)) == [(3, 1), (3, 2), (4, 1)]
    assert unsettled == 1
    assert large_star(np.array([1, 1, 2, 3]), np.array([2, 3, 1, 1]))[1] == 0


def test_groups_are_split_in_row_order():
    node = np.array([2, 3, 4, 5, 11])
    made = groups_of(node, np.array([1, 1, 1, 1, 10]), 0, 1, cap=2)
    assert made["row"].tolist() == [1, 2, 3, 4, 10, 11] and made["group"].tolist() == [1, 1, 3, 3, 10, 10]
    assert (made["clusters"], made["largest"], made["over_cap"], made["clustered"]) == (2, 5, 1, 7)
