"""NgramTargets: what batches hold, what is trained on, and what is refused."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from pseudo_corpus import pseudo_text_tokens, write_prepared
from runs import tiny_data, tiny_module, tiny_trainer, weights_hash
from torch.nn.functional import cross_entropy

from callbacks import NgramTargets, SuperpositionCallback
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.ngram.command import ngram
from tst_lightning.data.ngram.mixing import Alpha, MixedTargets
from tst_lightning.data.ngram.table import NgramTable
from tst_lightning.data.reading.rows import Span
from tst_lightning.data.shard_format import map_shard
from tst_lightning.errors import UserError

STEPS = 6
R = 3


@pytest.fixture(scope="module")
def table(prepared_source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables") / "table"
    ngram(str(prepared_source), str(folder), n=3, r=R, workers=1)
    return str(folder)


class Recording(NgramTargets):
    """Keeps the batches, and where their rows are."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)
        self.plan = trainer.datamodule._train_plan


def fit(folder, corpus, callbacks, steps=STEPS, module=None, ckpt_path=None, data=None, **options):
    module = module or tiny_module()
    run = tiny_trainer(folder, steps, callbacks, **options)
    run.fit(module, tiny_data(corpus, **data or {}), ckpt_path=ckpt_path)
    return module


def test_alpha_is_a_line_between_its_two_steps(table):
    callback = NgramTargets(table, alpha=0.8, alpha_end=0.2, anneal_start=0.25, anneal_end=0.75)
    alpha = callback.alpha(8)
    assert [round(alpha.at(step), 6) for step in range(8)] == [0.8, 0.8, 0.8, 0.65, 0.5, 0.35, 0.2, 0.2]
    at_once = NgramTargets(table, alpha=0.8, anneal_start=0.5, anneal_end=0.5).alpha(4)
    assert [at_once.at(step) for step in range(4)] == [0.8, 0.8, 0, 0]
    usual = [NgramTargets(table).alpha(4).at(step) for step in range(4)]
    assert usual == [0.5, 0.375, 0.25, 0.125]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_the_token_and_the_tables_targets_by_step(workers, table, prepared_source, tmp_path):
    callback = Recording(table, alpha=0.6, anneal_end=0.5)
    fit(tmp_path, prepared_source, [callback], accumulate_grad_batches=2, data={"num_workers": workers})
    plain = Recording(table, alpha=0.0)
    fit(tmp_path, prepared_source, [plain], accumulate_grad_batches=2)
    assert len(callback.batches) == 2 * STEPS
    for micro, (batch, without) in enumerate(zip(callback.batches, plain.batches, strict=True)):
        assert batch["micro"] == micro
        assert set(without) == {"tokens", "micro"}
        torch.testing.assert_close(batch["tokens"], without["tokens"], rtol=0, atol=0)
        alpha = [0.6, 0.4, 0.2, 0, 0, 0][micro // 2]
        if alpha == 0:
            assert set(batch) == {"tokens", "micro"}
            continue
        targets, weights = batch["targets"], batch["target_weights"]
        assert targets.dtype == torch.int32
        assert weights.dtype == torch.float32
        assert targets.shape == weights.shape == (4, 16, R + 2)
        torch.testing.assert_close(targets[..., 0], batch["tokens"][:, 1:, 0], rtol=0, atol=0)
        torch.testing.assert_close(weights[..., 0], torch.full((4, 16), 1 - alpha))
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, 16))
        ids, of_ids = tables_targets(callback.plan.batch(micro, 0), table)
        np.testing.assert_array_equal(targets[..., 1:].flatten(0, 1), ids)
        np.testing.assert_allclose(weights[..., 1:].flatten(0, 1), alpha * of_ids, atol=1e-6)


def tables_targets(rows, table):
    """Of the tokens that follow the first one of each row of one piece."""
    return NgramTable(table).targets([(shard, first + 1, tokens - 1) for ((shard, first, tokens, _),) in rows])


@pytest.mark.parametrize("isolate", [False, True])
def test_packed_batches_have_targets_where_there_are_some(isolate, tmp_path):
    """The first target of a position is the packed one, and where that is none, there is none."""
    tokens = pseudo_text_tokens(20_000, 5)
    tokens[np.random.default_rng(0).random(len(tokens)) < 0.1] = 256  # many short documents
    corpus, table = write_prepared(tmp_path / "corpus", [tokens], [tokens]), str(tmp_path / "table")
    ngram(str(corpus), table, n=3, r=R, workers=1)
    packed = {"packing": "best_fit", "isolate_documents": isolate}
    callback, plain = Recording(table, alpha=1.0, alpha_end=0.5), Recording(table, alpha=0.0)
    for each in (callback, plain):
        fit(tmp_path, corpus, [each], data=packed)
    ignored, distributions = 0, 0
    for batch, without in zip(callback.batches, plain.batches, strict=True):
        targets, weights = batch["targets"], batch["target_weights"]
        torch.testing.assert_close(targets[..., 0], without["targets"][..., 0], rtol=0, atol=0)
        is_target = targets[..., 0] != -100
        assert torch.equal((targets != -100).any(-1), is_target)
        torch.testing.assert_close(weights.sum(-1), is_target.float())
        assert set(batch) - set(without) == {"target_weights"}
        ignored += int((~is_target).sum())
        distributions += int(((weights > 0).sum(-1) > 2).sum())
    assert ignored > 0 or not isolate
    assert distributions > 100


def test_pieces_of_packed_rows_lie_where_their_tokens_do(table, prepared_source):
    spans = [[Span(0, 40, 5), Span(2, 7, 3)], [Span(3, 0, 10)]]
    shards = Manifest.load(prepared_source).train.shards
    tokens = np.full((2, 10, 1), 256, np.int32)
    for row, of_row in enumerate(spans):
        place = 0
        for shard, first, count, _ in of_row:
            path = prepared_source / "train" / shards[shard].file
            tokens[row, place : place + count, 0] = map_shard(path, "uint16")[first : first + count]
            place += count
    following = tokens[:, 1:].copy()
    following[0, 7:] = -100
    batch = {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(following)}
    mixed = pickle.loads(pickle.dumps(MixedTargets(NgramTable(table), Alpha(0.25, 0.25, 0, 1), 3)))(7, spans, batch)
    ids, weights = NgramTable(table).targets([(0, 40, 5), (2, 7, 3)])
    np.testing.assert_array_equal(mixed["targets"][0, :7, 1:], ids[1:])
    np.testing.assert_allclose(mixed["target_weights"][0, :7, 1:], 0.25 * weights[1:], rtol=1e-6)
    assert (mixed["targets"][0, 7:] == -100).all()
    assert (mixed["target_weights"][0, 7:] == 0).all()


def test_the_loss_is_the_mixture_of_two_cross_entropies(table, prepared_source, tmp_path):
    module, callback = tiny_module(), Recording(table, alpha=0.3, alpha_end=0.3)
    fit(tmp_path, prepared_source, [callback], steps=1, module=module)
    (batch,) = callback.batches
    with torch.no_grad():
        logits = module.model(batch["tokens"][:, :-1, 0].long()).logits.double().flatten(0, 1)
        loss, _ = module(batch["tokens"][:, :-1], batch["targets"], module.loss, None, batch["target_weights"])
    one_hot = cross_entropy(logits, batch["tokens"][:, 1:, 0].flatten().long())
    ids, weights = (torch.from_numpy(values) for values in tables_targets(callback.plan.batch(0, 0), table))
    distributions = torch.zeros_like(logits).scatter_add_(1, ids.long().clamp(min=0), weights.double())
    expected = 0.7 * one_hot + 0.3 * cross_entropy(logits, distributions)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_alpha_0_is_next_token_training_bit_for_bit(table, prepared_source, tmp_path):
    plain = weights_hash(fit(tmp_path, prepared_source, []))
    assert weights_hash(fit(tmp_path, prepared_source, [NgramTargets(table, alpha=0.0)])) == plain
    assert weights_hash(fit(tmp_path, prepared_source, [NgramTargets(table, alpha=0.01)])) != plain


def test_a_resumed_run_ends_like_the_whole_and_refuses_other_targets(table, prepared_source, tmp_path):
    options = {"alpha": 0.7, "anneal_end": 0.9}
    whole = fit(tmp_path / "run", prepared_source, [NgramTargets(table, **options)], save_every=3)
    (half,) = (tmp_path / "run").rglob("*3*.ckpt")

    def resume(callback):
        return fit(tmp_path / "again", prepared_source, [callback], ckpt_path=half)

    assert weights_hash(resume(NgramTargets(table, **options))) == weights_hash(whole)
    with pytest.raises(
        UserError,
        match=r"n-gram targets alpha 0.7, this run has 0.6: set alpha: 0.7 in NgramTargets to go on",
    ):
        resume(NgramTargets(table, **options | {"alpha": 0.6}))
    other = tmp_path / "other"
    ngram(str(prepared_source), str(other), n=2, r=R, workers=1)
    with pytest.raises(UserError, match=r"n-gram targets table [0-9a-f]{12}, this run has [0-9a-f]{12}: set table"):
        resume(NgramTargets(str(other), **options))


def test_the_line_of_alpha_is_laid_out_over_one_length(table, prepared_source, tmp_path):
    """Resumed for longer, alpha would jump from 0.35 to 0.425. Where it does not change, any length will do."""
    for name, options in (("line", {"alpha": 0.7}), ("flat", {"alpha": 0.7, "alpha_end": 0.7})):
        fit(tmp_path / name, prepared_source, [NgramTargets(table, **options)], save_every=3)

    def resume(name, **options):
        path = tmp_path / name / "checkpoints" / "step=3.ckpt"
        return fit(tmp_path / "again", prepared_source, [NgramTargets(table, **options)], STEPS + 2, ckpt_path=path)

    with pytest.raises(UserError, match=r"n-gram targets max_steps 6, this run has 8: set --trainer.max_steps 6 "):
        resume("line", alpha=0.7)
    resume("flat", alpha=0.7, alpha_end=0.7)


def test_the_next_fit_of_a_data_module_has_no_table(table, prepared_source, tmp_path):
    data, module = tiny_data(prepared_source), tiny_module()
    tiny_trainer(tmp_path, 2, [NgramTargets(table)]).fit(module, data)
    second = Recording(table)
    second.setup = lambda *arguments, **options: None
    tiny_trainer(tmp_path, 2, [second]).fit(tiny_module(), data)
    assert all(set(batch) == {"tokens", "micro"} for batch in second.batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha=1.5: give a number from 0 to 1"),
        ({"alpha_end": float("nan")}, "alpha_end=nan: give"),
        ({"anneal_start": -0.1}, "anneal_start=-0.1: give"),
        ({"anneal_start": 0.5, "anneal_end": 0.4}, "anneal_end=0.4 is before anneal_start=0.5"),
    ],
)
def test_bad_values_are_refused_at_construction(options, message):
    with pytest.raises(UserError, match=message):
        NgramTargets("nowhere", **options)


def test_what_does_not_go_together_is_refused_before_work(table, prepared_source, tmp_path):
    def refused(message, *others, table=table, corpus=prepared_source, first=True, **options):
        callbacks = [NgramTargets(table), *others]
        with pytest.raises(UserError, match=message):
            fit(tmp_path, corpus, callbacks if first else callbacks[::-1], **options)

    refused("no n-gram table at 'nowhere'", table="nowhere")
    for first in (True, False):
        bags = SuperpositionCallback(bag_size=2, step_ratio=0.5)
        refused("does not go with superposition .bags of 2 tokens from step 0", bags, first=first)
    bags = SuperpositionCallback(bag_size=2, step_ratio=0.5, superpose_inputs=False)
    refused("does not go with superposition", bags)
    tokens = [pseudo_text_tokens(3000, 5)]
    other = write_prepared(tmp_path / "other", tokens, tokens)
    refused(f"was built from '{prepared_source}' .*'{other}' has another text", corpus=other)
    damaged = shutil.copytree(table, tmp_path / "damaged")
    data = bytearray((damaged / "rows.u32").read_bytes())
    data[100] ^= 1
    (damaged / "rows.u32").write_bytes(data)
    refused("has 'rows.u32' altered", table=str(damaged))
    run = tiny_trainer(tmp_path, 2, [NgramTargets(table)])
    with pytest.raises(UserError, match=r"needs set_target_table\(table, alpha\) on the datamodule"):
        run.fit(tiny_module(), torch.utils.data.DataLoader([0]))


def test_a_table_is_of_one_corpus(table, prepared_source, tmp_path):
    tokens = [pseudo_text_tokens(9000, 5)]
    other = write_prepared(tmp_path / "other", tokens, tokens)
    data = tiny_data(prepared_source)
    data = type(data)({str(prepared_source): 0.5, str(other): 0.5}, sequence_length=16, batch_size=4, num_workers=0)
    with pytest.raises(UserError, match="is of one corpus, and data_dir names 2"):
        data.set_target_table(NgramTable(table), Alpha(0.5, 0, 0, 1))
