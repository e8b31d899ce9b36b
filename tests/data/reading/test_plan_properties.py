"""What holds of every plan: mixtures, packed and contiguous rows, any devices, schedules and batch sizes."""

import pickle
from functools import partial
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import ROW, STEPS, enlarged, of_one_rank, plans, spans_of, tokens_of_group, tokens_of_spans

from tst_lightning.bags import IGNORE
from tst_lightning.data.reading.coverage import tokens_left_unread
from tst_lightning.data.reading.loading import PlannedRows, RowBatches, fold_rows, pack_rows
from tst_lightning.data.reading.packed import PackedRows
from tst_lightning.data.reading.plan import Plan

SETTINGS = settings(max_examples=60, deadline=None)


class AnyTokens:
    """Stands in for the shards of a corpus: each token is its position."""

    def tokens(self, shard: int, first: int, count: int) -> np.ndarray:
        return (np.arange(first, first + count) % 60_000).astype(np.uint16)


def batches_of(plan: Plan, rank: int = 0) -> RowBatches:
    collate = fold_rows
    if isinstance(plan.corpora[0], PackedRows):
        collate = partial(pack_rows, 0, plan.corpora[0].packing.isolate)
    return RowBatches((AnyTokens(),) * len(plan.corpora), PlannedRows(plan, rank), collate, ROW)


@settings(max_examples=30, deadline=None)
@given(plans())
def test_no_token_is_read_twice_in_a_pass(plan: Plan) -> None:
    """By no two ranks either, nor on both sides of a switch or of a change of devices."""
    plan = enlarged(plan)
    steps = plan.most_steps(1, STEPS + 1)
    assert steps > 0
    spans = spans_of(plan, range(steps * plan.accumulate))
    for number, corpus in enumerate(plan.corpora):
        tokens = tokens_of_spans([span for span in spans if span.corpus == number])
        assert len(tokens) == len(set(tokens))
        assert plan.passes_needed(steps)[number] <= 1
        groups = [(shard, group) for shard, count in enumerate(corpus.order.shard_groups) for group in range(count)]
        everything = {token for shard, group in groups for token in tokens_of_group(corpus, shard, group)}
        assert set(tokens) <= everything


@SETTINGS
@given(plans())
def test_a_segment_reads_the_groups_that_are_next_and_the_remainder_is_exact(plan: Plan) -> None:
    """Of the groups between its start and the next segment's, what is not read is as much as the plan says."""
    segments = plan.segments_by(STEPS)
    for (segment, micros), (following, _) in pairwise(segments):
        spans = spans_of(plan, range(segment.first_micro, segment.first_micro + micros))
        left = 0
        for number, corpus in enumerate(plan.corpora):
            groups = range(segment.stretches[number].first_group, following.stretches[number].first_group)
            streams = range(corpus.order.streams)
            touched = [corpus.order.group(stream, group) for group in groups for stream in streams]
            tokens = [token for shard, group in touched for token in tokens_of_group(corpus, shard, group)]
            read = tokens_of_spans([span for span in spans if span.corpus == number])
            assert set(read) <= set(tokens)
            left += len(tokens) - len(read)
        assert left == tokens_left_unread(plan, segment, micros)


@SETTINGS
@given(plans())
def test_targets_and_positions_are_counted_exactly(plan: Plan) -> None:
    """Against the batches themselves."""
    batches, targets, rows = batches_of(of_one_rank(plan)), 0, 0
    for step in range(STEPS + 1):
        assert plan.data_tokens(step) == targets
        assert plan.rows_read(step) == rows
        for micro in range(step * plan.accumulate, (step + 1) * plan.accumulate):
            batch = batches[micro]
            assert batch["tokens"].shape[1:] == (ROW, plan.schedule.bag_size(step))
            following = batch.get("targets", batch["tokens"][:, 1:])
            targets += int((following != IGNORE).sum())
            rows += len(following)


@SETTINGS
@given(plans())
def test_ranks_share_out_the_global_batch(plan: Plan) -> None:
    first = max(step for step, _ in plan.parts)
    for micro in range(first * plan.accumulate, STEPS * plan.accumulate):
        dealt = [plan.batch(micro, rank) for rank in range(plan.world_size)]
        assert {len(rows) for rows in dealt} == {plan.batch_size}
        assert [row for rows in dealt for row in rows] == of_one_rank(plan).batch(micro, 0)


@SETTINGS
@given(plans(), st.randoms(use_true_random=False))
def test_any_batch_can_be_asked_for_first(plan: Plan, random) -> None:
    """A resumed run, or a worker process that gets a pickled plan, agrees with one that began at 0."""
    expected = {micro: plan.batch(micro, 0) for micro in range(STEPS * plan.accumulate)}
    copy = pickle.loads(pickle.dumps(plan))
    for micro in random.sample(sorted(expected), len(expected)):
        assert copy.batch(micro, 0) == expected[micro]


@SETTINGS
@given(plans())
def test_an_earlier_part_does_not_know_of_the_later_ones(plan: Plan) -> None:
    """What was read before a change of devices is what the run without the change read."""
    (_, rows), *later = plan.parts
    if later and rows % plan.streams == 0:
        first_step = later[0][0]
        alone = Plan(plan.corpora, plan.schedule, plan.mixture, plan.accumulate, batch_size=rows)
        before = range(first_step * plan.accumulate)
        assert spans_of(plan, before) == spans_of(alone, before)
        assert plan.data_tokens(first_step) == alone.data_tokens(first_step)
