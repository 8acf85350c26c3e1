"""The bound on memory, against the most that any order of the nodes takes, found by trying all orders."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_infer.graph.memory import Step, bytes_at_once


def orders(steps: list[Step], done: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Every order in which each node runs after those that it reads from."""
    if len(done) == len(steps):
        yield done
    known = {name for i in done for name in steps[i][1]}
    made = {name for _, outputs in steps for name in outputs}
    for i, (inputs, _) in enumerate(steps):
        if i not in done and {*inputs} & made <= known:
            yield from orders(steps, (*done, i))


def most(steps: list[Step], order: tuple[int, ...]) -> int:
    """The bytes in use while the nodes run in this order. A value is freed after the last node that reads it."""
    sizes: dict[str, int] = {}
    peak = 0
    for place, i in enumerate(order):
        sizes |= steps[i][1]
        peak = max(peak, sum(sizes.values()))
        wanted = {name for j in order[place + 1 :] for name in steps[j][0]}
        sizes = {name: size for name, size in sizes.items() if name in wanted}
    return peak


@st.composite
def graphs(draw) -> list[Step]:
    steps: list[Step] = []
    names = ["x"]
    for i in range(draw(st.integers(1, 6))):
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        outputs = {f"v{i}.{j}": draw(st.integers(1, 9)) for j in range(draw(st.integers(1, 2)))}
        steps.append((inputs, outputs))
        names += outputs
    return steps


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_no_order_of_the_nodes_takes_more_than_the_bound(steps):
    assert bytes_at_once(steps) >= max(most(steps, order) for order in orders(steps))
    assert bytes_at_once(steps) <= sum(sum(outputs.values()) for _, outputs in steps)


def test_a_chain_takes_two_values_at_once():
    steps = [([f"v{i}"], {f"v{i + 1}": 10 + i % 2}) for i in range(100)]
    assert bytes_at_once(steps) == 21


def test_values_that_are_joined_at_the_end_are_all_in_use():
    parts = [(["x"], {f"v{i}": 10}) for i in range(50)]
    assert bytes_at_once([*parts, ([f"v{i}" for i in range(50)], {"y": 1})]) == 501


def test_two_thousand_nodes_take_less_than_a_second():
    import time

    begin = time.perf_counter()
    assert bytes_at_once([(["x"], {f"v{i}": 1}) for i in range(2000)]) == 2000
    assert time.perf_counter() - begin < 2
