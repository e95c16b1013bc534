"""The order of prompts: each once, deferred ones in their turn, and on from where a checkpoint stood."""

from __future__ import annotations

from raylm.rl.order import Ask, Order


def rows_at(position: int) -> list[int]:
    return [(2 * position + at) % 3 for at in range(2)]


def test_prompts_come_position_by_position():
    order = Order(rows_at)
    assert [order.next() for _ in range(3)] == [Ask(0, 0), Ask(0, 1), Ask(1, 2)]
    assert order.asked() == {Ask(0, 0), Ask(0, 1), Ask(1, 2)} and order.size(7) == 2


def test_a_row_that_must_wait_comes_as_soon_as_it_may():
    order = Order(rows_at)
    first = [order.next() for _ in range(3)]
    assert order.next({0, 2}) == Ask(2, 1) and Ask(1, 0) not in order.asked()
    assert [order.next() for _ in range(2)] == [Ask(1, 0), Ask(2, 2)]
    assert order.asked() == {*first, Ask(1, 0), Ask(2, 1), Ask(2, 2)}


def test_a_run_goes_on_with_what_was_in_flight_and_what_waited():
    order = Order(rows_at)
    asked = [order.next() for _ in range(3)]
    asked.append(order.next({0, 2}))
    state = order.state([asked[3], asked[1]])
    again = Order(rows_at)
    again.go_on_from(state)
    assert [again.next() for _ in range(4)] == [Ask(0, 1), Ask(1, 0), Ask(2, 1), Ask(2, 2)]
