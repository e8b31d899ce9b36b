"""The plan against a naive reference that walks the whole text, and its promises as properties."""

import pickle
from collections import Counter
from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_lightning.data.reading.concat import MICRO_BATCHES_PER_BLOCK, ConcatRows
from tst_lightning.data.reading.coverage import tokens_left_unread
from tst_lightning.data.reading.order import GroupOrder
from tst_lightning.data.reading.plan import Plan
from tst_lightning.data.reading.rows import Span
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule, Stage

ROW = 3
SETTINGS = settings(max_examples=60, deadline=None)


def make_plan(
    shard_groups: tuple[int, ...],
    group_rows: int = 1,
    streams: int = 1,
    shuffle_shards: int = 8,
    seed: int = 0,
    **options,
) -> Plan:
    """A plan over one corpus of contiguous text."""
    order = GroupOrder(tuple(shard_groups), streams, shuffle_shards, seed)
    return Plan((ConcatRows(order, ROW, group_rows),), **options)


def changed(plan: Plan, shard_groups: tuple[int, ...] | None = None, streams: int | None = None, **options) -> Plan:
    """The same plan with other values."""
    (corpus,) = plan.corpora
    groups = {"shard_groups": shard_groups or corpus.order.shard_groups, "streams": streams or corpus.order.streams}
    return replace(plan, corpora=(replace(corpus, order=replace(corpus.order, **groups)),), **options)


@st.composite
def schedules(draw) -> Schedule:
    bags = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=3))
    steps = [0, *sorted(draw(st.sets(st.integers(1, 7), min_size=len(bags) - 1, max_size=len(bags) - 1)))]
    return Schedule(tuple(Stage(step, bag, bag) for step, bag in zip(steps, bags, strict=True)))


@st.composite
def plans(draw) -> Plan:
    """Plans of one rank; ``streams`` divides the batch."""
    streams = draw(st.sampled_from([1, 2, 4]))
    return make_plan(
        shard_groups=(*draw(st.lists(st.integers(0, 30), min_size=1, max_size=9)), 4),
        schedule=draw(schedules()),
        group_rows=draw(st.sampled_from([4, 8])),
        accumulate=draw(st.integers(1, 3)),
        batch_size=streams * draw(st.integers(1, 4)),
        streams=streams,
        shuffle_shards=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 1000)),
    )


STEPS = 10


def spans(plan: Plan, micro: int, rank: int = 0) -> list[Span]:
    """The only span of each row of a batch."""
    return [span for (span,) in plan.batch(micro, rank)]


def run_spans(plan: Plan, steps: int = STEPS) -> list[list[Span]]:
    return [spans(plan, micro) for micro in range(steps * plan.accumulate)]


def rows(spans: list[Span]) -> list[tuple[int, int]]:
    """(shard, row in shard) of every row that the spans cover."""
    return [(span.shard, span.first_token // ROW + i) for span in spans for i in range(span.tokens // ROW)]


def reading_order(plan: GroupOrder, stream: int, count: int) -> list[tuple[int, int]]:
    """The first ``count`` (shard, group) of a stream, by laying out whole passes."""
    order: list[tuple[int, int]] = []
    epoch = 0
    while len(order) < count:
        shards = np.random.default_rng([plan.seed, 0, epoch]).permutation(len(plan.shard_groups))
        line = [(int(shard), group) for shard in shards for group in range(plan.shard_groups[shard])]
        length = len(line) // plan.streams
        mine = range(stream * length, (stream + 1) * length)
        sizes = [plan.shard_groups[shard] for shard in shards]
        bounds = [sum(sizes[:i]) for i in range(0, len(sizes), plan.shuffle_shards)] + [len(line)]
        for window, (start, end) in enumerate(pairwise(bounds)):
            members = [position for position in range(start, end) if position in mine]
            generator = np.random.default_rng([plan.seed, 1, epoch, stream, window])
            order += [line[members[i]] for i in generator.permutation(len(members))]
        epoch += 1
    return order[:count]


@SETTINGS
@given(plans())
def test_batches_follow_the_reference_order(plan: Plan) -> None:
    """Stage by stage: the same samples as dealing out the groups of each stream in reading order."""
    (corpus,) = plan.corpora
    per_stream = plan.batch_size // plan.streams
    got = run_spans(plan)
    for stream in range(plan.streams):
        mine = [span for batch in got for span in batch[stream * per_stream : (stream + 1) * per_stream]]
        order = reading_order(corpus.order, stream, plan.groups_needed(STEPS)[0] // plan.streams)
        samples, start = [], 0
        same_bags = groupby(plan.schedule.spans(STEPS), key=lambda span: span[0].bag_size)
        for index, (bag_size, stages) in enumerate(same_bags):
            steps = sum(count for _, count in stages)
            parts, wanted = corpus.group_rows // bag_size, steps * plan.accumulate * per_stream
            block = 1 if parts == 1 else MICRO_BATCHES_PER_BLOCK * -(-per_stream // parts)
            stage_samples: list[Span] = []
            for number in range(-(-wanted // (block * parts))):
                members = order[start : start + block]
                generator = np.random.default_rng([corpus.order.seed, 2, index, stream, number])
                group_orders = [range(block)]
                part_orders = [[0] * block]
                if parts > 1:
                    group_orders = generator.permuted([list(range(block))] * parts, axis=1)
                    part_orders = generator.permuted([[part] * block for part in range(parts)], axis=0)
                for group_order, part_order in zip(group_orders, part_orders, strict=True):
                    for member in group_order:
                        shard, group = members[member]
                        row = group * corpus.group_rows + int(part_order[member]) * bag_size
                        stage_samples.append(Span(shard, row * ROW, bag_size * ROW))
                start += block
            samples += stage_samples[:wanted]
        assert mine == samples


@SETTINGS
@given(plans())
def test_rows_are_read_at_most_once_per_pass(plan: Plan) -> None:
    """Across stages too: a switch of bag size replays nothing."""
    shard_groups = tuple(40 * n + 150 for n in plan.corpora[0].order.shard_groups)
    plan = changed(plan, shard_groups)
    steps = plan.most_steps(1, STEPS + 1)
    assert steps > 0
    counts = Counter(row for batch in run_spans(plan, steps) for row in rows(batch))
    assert all(count == 1 for count in counts.values())
    for shard, row in counts:
        assert 0 <= row < shard_groups[shard] * plan.corpora[0].group_rows


@SETTINGS
@given(plans())
def test_what_is_skipped_is_less_than_a_block_per_stage_and_stream(plan: Plan) -> None:
    plan = changed(plan, shard_groups=(5_000, 3_000))
    (corpus,) = plan.corpora
    touched = {(span.shard, span.first_token // corpus.group_tokens) for batch in run_spans(plan) for span in batch}
    (needed,) = plan.groups_needed(STEPS)
    assert len(touched) <= needed
    read = sum(span.tokens for batch in run_spans(plan) for span in batch)
    per_stream = plan.batch_size // plan.streams
    remainder = sum(
        MICRO_BATCHES_PER_BLOCK * -(-per_stream // (corpus.group_rows // stage.bag_size)) * corpus.group_tokens
        for stage in plan.schedule.stages
        if stage.bag_size < corpus.group_rows
    )
    assert read <= needed * corpus.group_tokens <= read + plan.streams * remainder
    assert read == plan.schedule.data_tokens(STEPS, plan.accumulate * plan.batch_size * ROW)
    assert read == needed * corpus.group_tokens - sum(
        tokens_left_unread(plan, segment, micros) for segment, micros in plan.segments_by(STEPS)
    )
    assert plan.data_tokens(STEPS) == read // ROW * (ROW - 1)


@SETTINGS
@given(plans(), st.sampled_from([2, 4]))
def test_ranks_share_out_the_same_global_batch(plan: Plan, world_size: int) -> None:
    one = changed(plan, streams=plan.streams % 2 * 3 + 1, batch_size=plan.batch_size * 4)
    many = changed(one, batch_size=one.batch_size // world_size, world_size=world_size)
    for micro in range(STEPS * plan.accumulate):
        dealt = [many.batch(micro, rank) for rank in range(world_size)]
        assert {len(rows) for rows in dealt} == {many.batch_size}
        assert [row for rows in dealt for row in rows] == one.batch(micro, 0)
    assert many.groups_needed(STEPS) == one.groups_needed(STEPS)


@SETTINGS
@given(plans(), st.randoms(use_true_random=False))
def test_any_batch_can_be_asked_for_first(plan: Plan, random) -> None:
    """A resumed run, or a worker process that gets a pickled plan, agrees with one that began at 0."""
    expected = dict(enumerate(run_spans(plan)))
    copy = pickle.loads(pickle.dumps(plan))
    for micro in random.sample(sorted(expected), len(expected)):
        assert spans(copy, micro) == expected[micro]


def test_a_pass_reads_every_group_and_the_next_one_in_another_order() -> None:
    shard_groups = (5, 0, 7, 4)
    plan = make_plan(shard_groups, batch_size=4, shuffle_shards=2, seed=3)
    first, second = ([span for micro in range(start, start + 4) for span in spans(plan, micro)] for start in (0, 4))
    everything = {(shard, group) for shard, groups in enumerate(shard_groups) for group in range(groups)}
    assert set(rows(first)) == set(rows(second)) == everything
    assert first != second
    assert plan.passes_needed(4) == (1,)
    assert plan.passes_needed(5) == (1.25,)
    assert [plan.most_steps(passes, 100) for passes in (1, 2)] == [4, 8]


def test_at_most_two_windows_of_shards_are_in_use() -> None:
    plan = make_plan((16,) * 12, batch_size=4, shuffle_shards=3, seed=1)
    for micro in range(0, 36):
        recent = {s.shard for m in range(micro, micro + 12) for s in spans(plan, m)}
        assert len(recent) <= 6


def test_rows_of_a_group_do_not_meet_in_a_batch() -> None:
    plan = make_plan((400,), group_rows=8, batch_size=16)
    groups = [[(span.shard, span.first_token // (8 * ROW)) for span in spans(plan, micro)] for micro in range(64)]
    assert {len(set(batch)) for batch in groups} == {16}
    assert len({position for batch in groups for position in batch}) == 64 * 16 // 8


def test_seed_changes_the_order() -> None:
    one, other = (make_plan((50, 50), batch_size=8, seed=seed) for seed in (0, 1))
    assert one.batch(0, 0) != other.batch(0, 0)


def test_same_groups_in_the_same_order_with_and_without_superposition() -> None:
    schedule = Schedule.superposition(4, 100)
    tst = make_plan((3_000,), schedule=schedule, group_rows=4, batch_size=16, seed=5)
    baseline = make_plan((3_000,), group_rows=4, batch_size=16, seed=5)
    block = MICRO_BATCHES_PER_BLOCK * 16 // 4
    tst_groups = [s.first_token // (4 * ROW) for m in range(12) for s in spans(tst, m)]
    for number in range(3):
        micros = range(number * MICRO_BATCHES_PER_BLOCK, (number + 1) * MICRO_BATCHES_PER_BLOCK)
        read = {s.first_token // (4 * ROW) for m in micros for s in spans(baseline, m)}
        assert read == set(tst_groups[number * block : (number + 1) * block])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"group_rows": 6, "schedule": Schedule.superposition(4, 5)}, "rows_per_group=6 .* bag size 4"),
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
        ({"streams": 3, "world_size": 2, "batch_size": 3}, "streams=3 .* 2 ranks"),
        ({"streams": 4, "batch_size": 6}, "global batch of 6 rows .* streams=4"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_plan((10,), **values)


def test_fewer_groups_than_streams_are_refused() -> None:
    plan = make_plan((1, 0), batch_size=4, streams=2)
    for ask in (lambda: plan.batch(0, 0), lambda: plan.passes_needed(1)):
        with pytest.raises(UserError, match=r"the shards hold 1 groups \(whole groups of 3 tokens\), and 2 stream"):
            ask()
