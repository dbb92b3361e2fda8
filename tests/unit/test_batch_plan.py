"""Every row exactly once: whatever rows, batch and ranks, and wherever a run stops and goes on with other ranks."""

from hypothesis import given
from hypothesis import strategies as st

from features.reader import BatchPlan

WORLDS = (1, 2, 4, 8)


@given(
    start=st.integers(0, 50),
    rows=st.integers(1, 500),
    per_rank=st.integers(1, 9),
    stops=st.lists(st.tuples(st.integers(1, 12), st.sampled_from(WORLDS)), max_size=6),
    last=st.sampled_from(WORLDS),
)
def test_every_row_once_and_in_order_across_stops_and_changes_of_ranks(
    start: int, rows: int, per_rank: int, stops: list[tuple[int, int]], last: int
) -> None:
    batch, seen, step = per_rank * max(WORLDS), [], 0
    for steps, world in [*stops, (10**6, last)]:
        plans = [BatchPlan(start, start + rows, batch, world, rank) for rank in range(world)]
        assert len({plan.steps for plan in plans}) == 1, "a rank would wait for another's step for ever"
        for number in range(step, min(step + steps, plans[0].steps)):
            parts = [plan.rank_rows(number) for plan in plans]
            assert all(stop - first <= plans[0].local_batch for first, stop in parts)
            seen += [row for first, stop in parts for row in range(first, stop)]
        step = min(step + steps, plans[0].steps)
    assert seen == list(range(start, start + rows))


@given(rows=st.integers(1, 300), grown=st.integers(0, 300), steps=st.integers(0, 20), world=st.sampled_from(WORLDS))
def test_a_stream_that_grows_keeps_the_whole_batches_it_had(rows: int, grown: int, steps: int, world: int) -> None:
    before, after = (BatchPlan(0, stop, 16, world, world - 1) for stop in (rows, rows + grown))
    for step in range(min(steps, rows // 16)):
        assert before.rank_rows(step) == after.rank_rows(step)
