"""Dataset decomposition: chunks against the authors' loop, the plan against a walk through a run, and whole runs."""

import itertools
import math
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import STEPS, documents_of

from tst_lightning.data.reading.decomposed import Bucket, DecomposedPlan
from tst_lightning.data.reading.decomposition import Decomposition, decompose
from tst_lightning.data.reading.order import GroupOrder
from tst_lightning.schedule import Schedule, Stage

SETTINGS = settings(max_examples=40, deadline=None)
LENGTHS = (4, 8, 16)
SHARDS = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=20), min_size=1, max_size=4)


def chunks_by_loop(tokens: int, lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """First token and length of the chunks of one document, as ``make_dd_buckets.py`` goes through it."""
    found, first = [], 0
    while tokens - first > 1:
        power = int(math.log2(tokens - first - 1))
        if 2**power < lengths[0]:
            break
        length = min(2**power, lengths[-1])
        found.append((first, length))
        first += length + 1
    return found


@SETTINGS
@given(st.lists(st.integers(0, 300), max_size=30), st.sampled_from([(1,), (8,), (1, 2, 4), LENGTHS]))
def test_documents_are_cut_into_their_longest_chunks(documents: list[int], lengths: tuple[int, ...]) -> None:
    chunks = decompose(np.array(documents, dtype=np.int64), lengths)
    found = list(zip(*(part.tolist() for part in chunks), strict=True))
    expected = [
        (number, *chunk) for number, tokens in enumerate(documents) for chunk in chunks_by_loop(tokens, lengths)
    ]
    assert found == expected
    assert all(part.dtype == np.int64 for part in chunks)


@SETTINGS
@given(st.lists(st.integers(0, 300), max_size=30), st.integers(0, 99))
def test_long_documents_are_cut_at_random_and_then_as_others(documents: list[int], seed: int) -> None:
    chunks = decompose(np.array(documents), LENGTHS, np.random.default_rng(seed))
    for number, tokens in enumerate(documents):
        mine = chunks.document == number
        first, length = chunks.first[mine].tolist(), chunks.length[mine].tolist()
        assert first == [0, *itertools.accumulate(n + 1 for n in length)][: len(first)]
        # As long as there is room for two of the longest, a chunk of any length; from there on the longest.
        free = sum(tokens - start > 2 * LENGTHS[-1] for start in first)
        start = first[free] if free < len(first) else sum(n + 1 for n in length)
        rest = [(start + offset, n) for offset, n in chunks_by_loop(tokens - start, LENGTHS)]
        assert list(zip(first, length, strict=True))[free:] == rest
        assert set(length) <= set(LENGTHS)


def test_random_cuts_give_each_length_as_many_tokens() -> None:
    length = decompose(np.array([400_000]), LENGTHS, np.random.default_rng(0)).length
    tokens = [int((length == n).sum()) * n for n in LENGTHS]
    assert max(tokens) < 1.05 * min(tokens)


@st.composite
def schedules(draw) -> Schedule:
    lengths = draw(st.lists(st.sampled_from(LENGTHS), min_size=STEPS, max_size=STEPS))
    steps = draw(st.sets(st.integers(1, STEPS - 1), max_size=STEPS))
    return Schedule(tuple(Stage(step, 1, 1, sequence_length=lengths[step]) for step in sorted({0} | steps)))


def bucket_plan(shards, cut: bool = False, group_tokens: int = 50, seed: int = 0, **options) -> DecomposedPlan:
    shards = [[*shards[0], 200], *shards[1:]]  # so that no bucket is empty
    documents = documents_of(shards, cut, group_tokens)
    order = GroupOrder(documents.shard_groups, shuffle_shards=2, seed=seed)
    for kind in ("random", "longest"):
        cuts = Decomposition(documents, LENGTHS, seed, kind)
        if cuts.counts.sum(0).all():
            break
    lengths = [n for n, count in zip(LENGTHS, cuts.counts.sum(0), strict=True) if count]
    return DecomposedPlan(tuple(Bucket(order, cuts, n) for n in lengths), sequence_length=16, **options)


@st.composite
def plans(draw) -> DecomposedPlan:
    world_size, batch_size = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 2))
    history = ()
    if step := draw(st.integers(0, STEPS - 1)):
        history = ((0, draw(st.integers(1, 3)) * 2), (step, batch_size * world_size))
    options = {"world_size": world_size, "batch_size": batch_size, "accumulate": draw(st.integers(1, 3))}
    plan = bucket_plan(
        draw(SHARDS), draw(st.booleans()), draw(st.sampled_from([20, 50, 200])), draw(st.integers(0, 99)),
        schedule=Schedule((Stage(0, 1, 1, sequence_length=16),)), history=history, **options,
    )  # fmt: skip
    schedule = draw(schedules())
    present = [bucket.length for bucket in plan.buckets]
    stages = [replace(s, sequence_length=max(n for n in present if n <= max(s.sequence_length, present[0])))
              for s in schedule.stages]  # fmt: skip
    return replace(plan, schedule=Schedule(tuple(stages)))


def all_chunks(plan: DecomposedPlan, length: int) -> set[tuple[int, int]]:
    """(shard, first token) of every chunk of one length, by the way through all documents."""
    cuts = plan.buckets[0].decomposition
    return {
        (shard, int(first))
        for shard, groups in enumerate(cuts.documents.shard_groups)
        for group in range(groups)
        for first in cuts.chunks(shard, group, length)
    }


@settings(max_examples=15, deadline=None)
@given(plans())
def test_a_run_reads_each_bucket_pass_after_pass(plan: DecomposedPlan) -> None:
    """Every row once in a pass, whatever the schedule; ranks agree; and all that is counted is there."""
    whole = replace(plan, world_size=1, batch_size=plan.global_batch)
    read: dict[int, list[tuple[int, int]]] = {bucket.length: [] for bucket in plan.buckets}
    steps_of = Counter()
    for step in range(STEPS):
        length = plan.schedule.stage(step).sequence_length
        rows_now = next(rows for first, rows in reversed(plan.parts) if first <= step)
        for micro in range(step * plan.accumulate, (step + 1) * plan.accumulate):
            rows = whole.batch(micro, 0)
            assert len(rows) == rows_now * 16 // length
            assert plan.segment(micro).bag_size == 1
            assert all(len(row) == 1 and row[0].tokens == length + 1 for row in rows)
            read[length] += [(span.shard, span.first_token) for (span,) in rows]
            if rows_now == plan.global_batch:
                ranks = [plan.batch(micro, rank) for rank in range(plan.world_size)]
                assert [row for batch in ranks for row in batch] == rows
                assert len({len(batch) for batch in ranks}) == 1
        steps_of[length] += 1
        positions = {n: len(starts) * n for n, starts in read.items()}
        assert plan.positions_by_length(step + 1) == positions
        assert plan.data_tokens(step + 1) == sum(positions.values()) == plan.rows_read(step + 1) * 16
        assert plan.groups_needed(step + 1) == tuple(map(len, read.values()))
        assert {n: plan.steps_of(n, step + 1) for n in read} == {n: steps_of[n] for n in read}
    for bucket, starts in zip(plan.buckets, read.values(), strict=True):
        chunks = all_chunks(plan, bucket.length)
        assert bucket.rows_per_pass == len(chunks)
        passes = [starts[i : i + len(chunks)] for i in range(0, len(starts), len(chunks))]
        for one in passes:
            assert len(set(one)) == len(one)
            assert set(one) <= chunks
    copy = pickle.loads(pickle.dumps(plan))
    assert [copy.batch(micro, 0) for micro in range(5)] == [plan.batch(micro, 0) for micro in range(5)]


@SETTINGS
@given(SHARDS, st.booleans(), st.sampled_from([20, 50]))
def test_rows_lie_in_one_document_and_do_not_overlap(shards: list[list[int]], cut: bool, group_tokens: int) -> None:
    plan = bucket_plan(shards, cut, group_tokens, schedule=Schedule((Stage(0, 1, 1, sequence_length=16),)))
    lengths = [[*shards[0], 200], *shards[1:]]
    ends = [set(itertools.accumulate(of_shard)) for of_shard in lengths]
    used = Counter()
    for bucket in plan.buckets:
        for shard, first in all_chunks(plan, bucket.length):
            tokens = range(first, first + bucket.length + 1)
            assert not ends[shard] & set(tokens[1:])
            assert tokens[-1] < sum(lengths[shard])
            used.update((shard, token) for token in tokens)
    assert set(used.values()) == {1}
    assert sum(used.values()) == sum(bucket.tokens_per_pass for bucket in plan.buckets)


def test_another_seed_and_another_pass_have_another_order() -> None:
    shards = [[70] * 40] * 3
    schedule = Schedule((Stage(0, 1, 1, sequence_length=16),))
    plan = bucket_plan(shards, schedule=schedule)
    other = bucket_plan(shards, seed=1, schedule=schedule)
    bucket = plan.buckets[-1]
    first, second = (bucket.rows(start, 40) for start in (0, bucket.rows_per_pass))
    assert first != second
    assert first != other.buckets[-1].rows(0, 40)
