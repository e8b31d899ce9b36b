"""Plans of every kind for property tests, over corpora that are numbers only."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tst_lightning.data.reading.concat import ConcatRows
from tst_lightning.data.reading.documents import Documents
from tst_lightning.data.reading.mixture import Mixture
from tst_lightning.data.reading.order import GroupOrder
from tst_lightning.data.reading.pack_groups import GroupPacking
from tst_lightning.data.reading.packed import PackedRows
from tst_lightning.data.reading.plan import Plan
from tst_lightning.data.reading.rows import CorpusRows, Span
from tst_lightning.schedule import Schedule, Stage

ROW = 5
"""Positions of a row: sequence length 4."""
STEPS = 10
_FOLDER = tempfile.TemporaryDirectory()


def documents_of(shards: list[list[int]], cut: bool, group_tokens: int, cut_long: bool = False) -> Documents:
    """Documents of the given lengths; with ``cut``, the last one of a shard goes on in the next."""
    kept = [lengths[:-1] if cut else lengths for lengths in shards]
    ends = np.concatenate([np.cumsum(lengths, dtype=np.uint32) for lengths in kept])
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    ends.astype("<u4").tofile(folder / "document_ends.u32")
    return Documents(str(folder), tuple(map(sum, shards)), tuple(map(len, kept)), group_tokens, cut_long)


def packed_corpus(
    shards: list[list[int]], policy: str = "best_fit", isolate: bool = True, group_rows: int = 8, cut: bool = False,
    number: int = 0, **order,
) -> PackedRows:  # fmt: skip
    documents = documents_of(shards, cut, group_rows * ROW, cut_long=True)
    groups = GroupOrder(documents.shard_groups, corpus=number, **order)
    return PackedRows(groups, GroupPacking(documents, ROW, policy, isolate), group_rows)


def concat_corpus(shard_groups: tuple[int, ...], group_rows: int = 4, number: int = 0, **order) -> ConcatRows:
    return ConcatRows(GroupOrder(shard_groups, corpus=number, **order), ROW, group_rows)


@st.composite
def schedules(draw) -> Schedule:
    """One to four stages; neighbours may have the same bag size."""
    bags = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=4))
    steps = [0, *sorted(draw(st.sets(st.integers(1, STEPS - 2), min_size=len(bags) - 1, max_size=len(bags) - 1)))]
    return Schedule(tuple(Stage(step, bag, bag) for step, bag in zip(steps, bags, strict=True)))


@st.composite
def corpora(draw, number: int, streams: int, packed: bool, isolate: bool, seed: int) -> CorpusRows:
    order = {"number": number, "shuffle_shards": draw(st.integers(1, 3)), "seed": seed}
    if not packed:
        groups = (*draw(st.lists(st.integers(0, 30), min_size=1, max_size=6)), 4)
        return concat_corpus(groups, draw(st.sampled_from([4, 8])), streams=streams, **order)
    lengths = st.lists(st.integers(1, 60), min_size=1, max_size=30)
    shards = draw(st.lists(lengths, min_size=1, max_size=4))
    policy = draw(st.sampled_from(["concat", "best_fit", "spfhp"]))
    return packed_corpus(shards, policy, isolate, draw(st.integers(4, 12)), draw(st.booleans()), **order)


@st.composite
def plans(draw, packed: st.SearchStrategy[bool] = st.booleans()) -> Plan:  # noqa: B008 - immutable
    """One to three corpora, all packed or none; one or several ranks and streams; a run of one part or two."""
    are_packed, isolate = draw(packed), draw(st.booleans())
    seed = draw(st.integers(0, 1000))
    streams = 1 if are_packed else draw(st.sampled_from([1, 2, 4]))
    world_size = draw(st.sampled_from([1, 2, 4]))
    batch_size = draw(st.integers(1, 3)) * max(1, streams // world_size)
    weights = draw(st.lists(st.sampled_from([0.2, 0.5, 1.0, 3.0]), min_size=1, max_size=3))
    history = ()
    if step := draw(st.integers(0, STEPS - 1)):
        history = ((0, draw(st.integers(1, 3)) * 4), (step, batch_size * world_size))
    return Plan(
        tuple(draw(corpora(number, streams, are_packed, isolate, seed)) for number in range(len(weights))),
        schedule=draw(schedules()),
        mixture=Mixture(tuple(weights), seed),
        accumulate=draw(st.integers(1, 3)),
        world_size=world_size,
        batch_size=batch_size,
        history=history,
    )


def enlarged(plan: Plan) -> Plan:
    """The same plan over enough text for a single pass."""
    return replace(plan, corpora=tuple(_enlarged(corpus) for corpus in plan.corpora))


def _enlarged(corpus: CorpusRows) -> CorpusRows:
    order = corpus.order
    if isinstance(corpus, ConcatRows):
        return replace(corpus, order=replace(order, shard_groups=tuple(20 * n + 500 for n in order.shard_groups)))
    random = np.random.default_rng(order.seed)
    shards = [random.integers(1, 60, 200).tolist() for _ in range(6)]
    packing = corpus.packing
    return packed_corpus(
        shards, packing.policy, packing.isolate, corpus.group_rows, True, order.corpus,
        shuffle_shards=order.shuffle_shards, seed=order.seed,
    )  # fmt: skip


def of_one_rank(plan: Plan) -> Plan:
    """The same global batches, those of earlier parts of the run included, in the hands of one rank."""
    return replace(plan, world_size=1, batch_size=plan.global_batch)


def spans_of(plan: Plan, micros: range) -> list[Span]:
    """What all ranks read in some micro-batches."""
    whole = of_one_rank(plan)
    return [span for micro in micros for row in whole.batch(micro, 0) for span in row]


def tokens_of_group(corpus: CorpusRows, shard: int, group: int) -> set[tuple[int, int]]:
    """(shard, token) of everything in a group."""
    if isinstance(corpus, ConcatRows):
        first = group * corpus.group_tokens
        return {(shard, token) for token in range(first, first + corpus.group_tokens)}
    starts, lengths = corpus.packing.documents.group(shard, group)
    return {(shard, start + i) for start, length in zip(starts, lengths, strict=True) for i in range(length)}


def tokens_of_spans(spans: list[Span]) -> list[tuple[int, int]]:
    return [(span.shard, span.first_token + i) for span in spans for i in range(span.tokens)]
