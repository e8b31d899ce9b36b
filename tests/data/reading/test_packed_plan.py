"""Packed rows: documents and groups against a walk through the text, the order, and whole runs."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from object_storage import upload_folder
from plans import ROW, documents_of, packed_corpus, tokens_of_spans
from pseudo_corpus import pseudo_text_tokens, write_prepared
from recording import Recorder, fit, trainer
from torch.utils.data import DataLoader

from tst_lightning.bags import IGNORE
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.reading.packed import spread
from tst_lightning.data.reading.plan import Plan
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

SETTINGS = settings(max_examples=60, deadline=None)
SHARDS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=20), min_size=1, max_size=4)
POLICIES = ["concat", "best_fit", "spfhp"]


@SETTINGS
@given(SHARDS, st.booleans(), st.integers(1, 80), st.booleans())
def test_groups_hold_the_documents_that_begin_in_them(shards, cut: bool, group_tokens: int, cut_long: bool) -> None:
    documents = documents_of(shards, cut, group_tokens, cut_long)
    expected: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for shard, lengths in enumerate(shards):
        if cut_long:
            pieces = ([group_tokens] * (length // group_tokens) + [length % group_tokens] for length in lengths)
            lengths = [length for document in pieces for length in document if length]
        for start, length in zip(itertools.accumulate(lengths, initial=0), lengths, strict=False):
            expected.setdefault((shard, start // group_tokens), []).append((start, length))
    found = {}
    for shard, groups in enumerate(documents.shard_groups):
        for group in range(groups):
            starts, lengths = documents.group(shard, group)
            assert starts.dtype == lengths.dtype == np.int64
            if len(starts):
                found[shard, group] = list(zip(starts.tolist(), lengths.tolist(), strict=True))
    assert found == expected
    every = [(shard, group) for shard, groups in enumerate(documents.shard_groups) for group in range(groups)]
    sums = [sum(length for _, length in expected.get(key, [])) for key in every]
    assert documents.group_lengths.tolist() == sums


@SETTINGS
@given(SHARDS, st.booleans(), st.sampled_from(POLICIES), st.booleans(), st.sampled_from([1, 2, 3, 4]))
def test_a_pass_reads_every_token_once(shards, cut: bool, policy: str, isolate: bool, bag_size: int) -> None:
    """All rows of all groups; no row has more bags than there are positions."""
    corpus = packed_corpus(shards, policy, isolate, 4, cut)
    counts = corpus.packing.counts(bag_size)
    plan = Plan((corpus,), Schedule.superposition(bag_size, 10**6))
    stretch = plan.segment(0).stretches[0]
    # A block may mix the end of a pass with the start of the next: as many passes as end with a block.
    passes = stretch.block_groups
    rows = [corpus.row(stretch, 0, number) for number in range(int(counts.rows.sum()) * passes)]
    read = Counter(tokens_of_spans([span for row in rows for span in row]))
    assert set(read) == {(shard, token) for shard, lengths in enumerate(shards) for token in range(sum(lengths))}
    assert set(read.values()) == {passes}
    for row in rows:
        assert sum(-(-span.tokens // bag_size) for span in row) <= ROW
        assert len({span.shard for span in row}) == 1


@pytest.mark.parametrize("policy", ["best_fit", "spfhp"])
def test_documents_that_fit_are_not_cut(policy: str) -> None:
    lengths = np.random.default_rng(0).integers(1, ROW + 1, 300).tolist()
    corpus = packed_corpus([lengths], policy)
    plan = Plan((corpus,))
    rows = [plan.batch(micro, 0)[0] for micro in range(int(corpus.packing.counts(1).rows.sum()))]
    assert Counter(span.tokens for row in rows for span in row) == Counter(lengths)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("bag_size", [1, 4])
def test_a_corpus_of_books_is_read_from_many_at_a_time(policy: str, bag_size: int) -> None:
    """As without packing: a batch has rows of as many books as it has rows, or nearly."""
    book = 4_000
    corpus = packed_corpus([[book] * 16] * 2, policy, group_rows=8)
    plan = Plan((corpus,), Schedule.superposition(bag_size, 10**6), batch_size=8)
    for micro in range(50):
        books = {(span.shard, span.first_token // book) for row in plan.batch(micro, 0) for span in row}
        assert len(books) >= 4


@pytest.mark.parametrize("rows", [0, 1, 5, 64, 1000, 1023])
@pytest.mark.parametrize("batch_rows", [1, 7, 32])
def test_spread_is_a_permutation_that_keeps_neighbours_apart(rows: int, batch_rows: int) -> None:
    order = spread(rows, batch_rows, np.random.default_rng(rows))
    assert sorted(order) == list(range(rows))
    if rows >= 16 * batch_rows:
        assert np.abs(np.diff(np.argsort(order))).min() >= 2 * batch_rows
        for start in range(rows - batch_rows):
            batch = np.sort(order[start : start + batch_rows])
            assert batch_rows == 1 or np.diff(batch).min() >= 5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("bag_size", [1, 4])
def test_neighbouring_pieces_of_a_document_do_not_meet_in_a_batch(policy: str, bag_size: int) -> None:
    """Books, each of a group and of many rows, in blocks of some 16 micro-batches."""
    book = 64 * ROW
    corpus = packed_corpus([[book] * 64] * 2, policy, group_rows=64)  # a whole number of blocks
    plan = Plan((corpus,), Schedule.superposition(bag_size, 10**6), batch_size=16)
    for micro in range(int(corpus.packing.counts(bag_size).rows.sum()) // 16):
        spans = [span for row in plan.batch(micro, 0) for span in row]
        firsts = ((span.shard, span.first_token) for span in spans)
        ends = ((span.shard, span.first_token + span.tokens) for span in spans)
        cuts = [{(shard, token) for shard, token in tokens if token % book} for tokens in (firsts, ends)]
        assert cuts[0] | cuts[1]
        assert not cuts[0] & cuts[1]


def write_documents(folder: Path, seed: int) -> Path:
    """A prepared corpus of documents of 1 to 200 tokens, three shards, the last document of each cut."""
    random = np.random.default_rng(seed)
    shards = []
    for number, tokens in enumerate((20_000, 12_345, 16_000)):
        ids = pseudo_text_tokens(tokens, seed + number)
        ids[ids == 256] = 0
        ids[np.cumsum(random.integers(1, 200, tokens // 120))] = 256
        shards.append(ids)
    return write_prepared(folder, shards, [pseudo_text_tokens(3_000, 9)])


@pytest.fixture(scope="module")
def documents_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("documents") / "prepared", 5)


@pytest.fixture(scope="module")
def second_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, for mixtures."""
    return write_documents(tmp_path_factory.mktemp("second") / "prepared", 10)


def make_data(folder: Path | dict, **options) -> TokenDataModule:
    usual = {"batch_size": 4, "num_workers": 0, "validation_windows": 8, "packing": "best_fit", "packing_rows": 16}
    return TokenDataModule(folder if isinstance(folder, dict) else str(folder), 16, **usual | options)


class Targets(Recorder):
    """Counts the targets that were really there, step by step."""

    def training_step(self, batch: dict, batch_idx: int):
        targets = batch.get("targets", batch["tokens"][:, 1:])
        self.targets = [*getattr(self, "targets", []), int((targets != IGNORE).sum())]
        self.keys = set(batch)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_packed_run(documents_dir: Path, tmp_path: Path, policy: str, isolate: bool, caplog) -> None:
    """Through the switch, with accumulation: the batches' keys, and targets counted exactly."""
    data, module = make_data(documents_dir, packing=policy, isolate_documents=isolate), Targets()
    with caplog.at_level("INFO"):
        trainer(tmp_path, 10, Schedule.superposition(4, 4), accumulate_grad_batches=2).fit(module, data)
    packed = policy != "concat" or isolate
    keys = {"tokens", "micro"} | ({"targets"} if packed else set()) | ({"position_ids"} if isolate else set())
    assert module.keys == keys
    for step in range(11):
        assert data.data_tokens(step) == sum(module.targets[: 2 * step])
        assert data.positions(step) == 2 * step * 4 * 16
    assert [shape[2] for shape in module.shapes.values()] == [4] * 8 + [1] * 12
    lines = "\n".join(caplog.messages)
    assert ("% full of text" in lines) == packed
    assert ("each of which leaves" in lines) != packed


def test_the_rows_hold_the_documents_text(documents_dir: Path, tmp_path: Path) -> None:
    """Every row is a sequence of whole documents, or of pieces that fill it: compared with the shards."""
    module = Recorder()
    seen = []
    module.training_step = lambda batch, batch_idx: seen.append(batch) or module.weights(batch["tokens"]).mean()
    trainer(tmp_path, 20).fit(module, make_data(documents_dir, isolate_documents=True))
    shards = [np.fromfile(path, np.uint16, offset=12) for path in sorted((documents_dir / "train").glob("*.bin"))]
    text = b"".join(shard.astype("<u2").tobytes() + b"\xff\xff" for shard in shards)
    rows = [row for batch in seen for row in zip(batch["tokens"], batch["position_ids"], strict=True)]
    for tokens, position_ids in rows:
        starts = [0, *(np.flatnonzero(np.diff(position_ids.numpy()) != 1) + 1).tolist(), len(position_ids) + 1]
        for start, end in itertools.pairwise(starts):
            piece = tokens.flatten().numpy()[start:end].astype("<u2")
            padding = (piece == 256).all()
            assert padding or piece.tobytes() in text


@pytest.mark.parametrize("step", [2, 4, 7])
@pytest.mark.parametrize("kind", ["packed", "isolated", "mixture"])
def test_a_resumed_run_reads_the_same_batches(
    documents_dir: Path, second_dir: Path, tmp_path: Path, step: int, kind: str
) -> None:
    schedule, run_options = Schedule.superposition(4, 4), {"accumulate_grad_batches": 2}
    folder = {str(documents_dir): 2.0, str(second_dir): 1.0} if kind == "mixture" else documents_dir
    options = {"isolate_documents": kind == "isolated", "epochs": 2}
    whole = fit(make_data(folder, **options), trainer(tmp_path, 10, schedule, save_every=1, **run_options))
    resumed = fit(
        make_data(folder, num_workers=1, **options),
        trainer(tmp_path / "resumed", 10, schedule, **run_options),
        ckpt_path=tmp_path / f"step={step}.ckpt",
    )
    assert resumed.order == list(range(2 * step, 20))
    assert resumed.rows == {micro: whole.rows[micro] for micro in resumed.order}
    assert torch.equal(resumed.weights.weight, whole.weights.weight)


@pytest.mark.parametrize("options", [{}, {"packing": "concat"}], ids=["packed", "contiguous"])
def test_workers_and_prefetching_change_nothing(
    documents_dir: Path, second_dir: Path, tmp_path: Path, options: dict
) -> None:
    data = make_data({str(documents_dir): 1.0, str(second_dir): 1.0}, epochs=2, **options)
    run = trainer(tmp_path, 6)
    run.strategy.connect(Recorder())
    run.state.fn, run.datamodule, data.trainer = "fit", data, run
    data.setup("fit")
    data.set_schedule(Schedule.superposition(4, 3))
    loader = data.train_dataloader()
    expected = list(loader)
    for workers, prefetch in ((1, 1), (1, 4), (3, 1), (3, 4)):
        other = DataLoader(
            loader.dataset, batch_size=None, sampler=loader.sampler, num_workers=workers, prefetch_factor=prefetch
        )
        for batch, wanted in zip(other, expected, strict=True):
            assert batch.keys() == wanted.keys()
            assert all(torch.equal(torch.as_tensor(batch[key]), torch.as_tensor(wanted[key])) for key in wanted)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"packing": "spfhp"}, "packing: best_fit in the checkpoint, now spfhp"),
        ({"isolate_documents": True}, "isolate_documents: False in the checkpoint, now True"),
        ({"packing_rows": 32}, "packing_rows: 16 in the checkpoint, now 32"),
        ({"packing": "concat"}, "packing: best_fit in the checkpoint, now concat"),
    ],
)
def test_another_packing_is_no_resume(documents_dir: Path, tmp_path: Path, changes: dict, named: str) -> None:
    fit(make_data(documents_dir), trainer(tmp_path, 2, save_every=2))
    with pytest.raises(UserError, match=named):
        fit(make_data(documents_dir, **changes), trainer(tmp_path / "b", 4), ckpt_path=tmp_path / "step=2.ckpt")


def test_streams_and_packing_do_not_go_together(documents_dir: Path) -> None:
    with pytest.raises(UserError, match=r"streams=2 does not go with packed rows"):
        make_data(documents_dir, streams=2)


def test_too_long_a_run_is_refused(documents_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"documents in groups of 272 tokens\), enough for \d+ steps: set epochs=2"):
        fit(make_data(documents_dir), trainer(tmp_path, 1_000))


def test_missing_document_ends_are_refused(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "p", [pseudo_text_tokens(900, 0)], [pseudo_text_tokens(900, 1)])
    (folder / "train" / "document_ends.u32").write_bytes(b"12345")
    with pytest.raises(UserError, match=r"document_ends\.u32' is not the file that the manifest lists \(sha256"):
        fit(make_data(folder), trainer(tmp_path, 1))


def test_a_packed_mixture_counts_exactly(documents_dir: Path, second_dir: Path, tmp_path: Path) -> None:
    data, module = make_data({str(documents_dir): 2.0, str(second_dir): 1.0}, epochs=2), Targets()
    trainer(tmp_path, 10, Schedule.superposition(4, 4)).fit(module, data)
    assert [data.data_tokens(step) for step in range(11)] == [0, *itertools.accumulate(module.targets)]


def test_a_mixture_of_a_local_and_a_remote_corpus(
    documents_dir: Path, second_dir: Path, tmp_path: Path, bucket_url: str
) -> None:
    url = upload_folder(second_dir, f"{bucket_url}/corpus")
    runs = []
    for second in (str(second_dir), url):
        data = make_data({str(documents_dir): 1.0, second: 1.0}, cache_dir=str(tmp_path / "cache"), num_workers=1)
        runs.append(fit(data, trainer(tmp_path, 10, Schedule.superposition(4, 4))))
    assert runs[0].rows == runs[1].rows


def test_altered_document_ends_are_refused(prepared_dir: Path, tmp_path: Path) -> None:
    """Of the right size and in order, so only the file's sha256 shows it."""
    path = prepared_dir / "train" / "document_ends.u32"
    ends = np.fromfile(path, "<u4")
    ends[2] += 1
    ends.tofile(path)
    data = TokenDataModule(str(prepared_dir), 16, 4, num_workers=0, packing="best_fit")
    with pytest.raises(
        UserError, match=r"ends\.u32' is not the file that the manifest lists \(sha256 .* it was altered"
    ):
        fit(data, trainer(tmp_path, 2))
