"""Runs with auxiliary losses: what they log, save, resume, leave alone and leave behind."""

import itertools

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_module, tiny_trainer, weights_hash
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from callbacks import SuperpositionCallback
from tst_lightning.accounting import flops_per_position
from tst_lightning.auxiliary.losses import AuxiliaryLosses
from tst_lightning.auxiliary.multi_token import MultiToken
from tst_lightning.bags import shift
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.modeling.checkpoint import load_model
from tst_lightning.modeling.export import export
from tst_lightning.module import CausalLMModule

SWITCH, STEPS = 2, 4


def fit(folder, data, multi_token=MultiToken(heads=2), ckpt_path=None, config=None, **options):  # noqa: B008 (frozen)
    """A run through both phases, with a checkpoint of each step."""
    module = tiny_module(config, multi_token=multi_token)
    trainer = tiny_trainer(folder, STEPS, [SuperpositionCallback(bag_size=4, recovery_step=SWITCH)], 1, **options)
    trainer.fit(module, datamodule=tiny_data(data), ckpt_path=ckpt_path)
    return module


def checkpoint(folder, step):
    return str(folder / f"checkpoints/step={step}.ckpt")


def all_weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def whole(prepared_source, tmp_path_factory):
    """A folder of a run with two heads, its module and its scalars ``{tag: {step: value}}``."""
    folder = tmp_path_factory.mktemp("whole")
    logger = TensorBoardLogger(folder, name="", version="")
    module = fit(folder, prepared_source, val_check_interval=2, log_every_n_steps=1, logger=logger)
    events = EventAccumulator(str(folder)).Reload()
    return folder, module, {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("options", [{"heads": 0}, {"weight": 0.0}])
def test_without_heads_or_weight_the_run_is_the_plain_one(options, prepared_source, tmp_path):
    plain = fit(tmp_path / "plain", prepared_source, multi_token=None)
    off = fit(tmp_path / "off", prepared_source, multi_token=MultiToken(**options))
    assert weights_hash(off) == weights_hash(plain)
    assert off.state_dict().keys() == plain.state_dict().keys()


def test_heads_change_what_is_trained_and_train_themselves(whole, prepared_source, tmp_path):
    folder, module, _ = whole
    plain = fit(tmp_path, prepared_source, multi_token=None)
    assert weights_hash(module) != weights_hash(plain)
    fresh = tiny_module(multi_token=MultiToken(heads=2))
    fresh.configure_model()
    stages = [fresh.state_dict()]
    stages += [torch.load(checkpoint(folder, step), weights_only=True)["state_dict"] for step in (SWITCH, STEPS)]
    names = [name for name in stages[0] if not name.startswith("model.")]
    assert len(names) == 2 * 3
    for before, after in itertools.pairwise(stages):
        assert all(not torch.equal(before[name], after[name]) for name in names)


def test_a_resumed_run_has_the_same_bits(whole, prepared_source, tmp_path):
    folder, module, _ = whole
    for step in (1, SWITCH, 3):
        resumed = fit(tmp_path, prepared_source, ckpt_path=checkpoint(folder, step))
        for name, value in all_weights(module).items():
            assert torch.equal(resumed.state_dict()[name], value), (step, name)


def test_the_logged_loss_is_the_main_heads(whole, prepared_source, tmp_path):
    """Of the first step it is the plain run's, bit by bit; and the untrained heads cost a tenth of about log V."""
    _, _, scalars = whole
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(tmp_path, prepared_source, multi_token=None, log_every_n_steps=1, logger=logger)
    events = EventAccumulator(str(tmp_path)).Reload()
    first = events.Scalars("train/loss")[0]
    assert scalars["train/loss"][first.step] == first.value
    assert "train/multi_token_loss" not in events.Tags()["scalars"]
    for step, loss in scalars["train/multi_token_loss"].items():
        assert loss == pytest.approx(0.1 * scalars["train/loss"][step], rel=0.03)


def test_validation_knows_no_heads(whole, prepared_source, tmp_path):
    """The last validation's loss is that of the same model in a module without heads."""
    _, module, scalars = whole
    plain = tiny_module()
    plain.configure_model()
    plain.model.load_state_dict(module.model.state_dict())
    trainer = tiny_trainer(tmp_path, STEPS)
    trainer.validate(plain, datamodule=tiny_data(prepared_source), verbose=False)
    assert scalars["val/loss"][STEPS] == trainer.callback_metrics["val/loss"].item()


def test_flops_of_training_have_the_heads(whole):
    _, module, scalars = whole
    added = 2 * (2 * 16 * 16 + 257 * 16)
    per_position = flops_per_position(module.model, SEQUENCE_LENGTH, added)
    assert scalars["progress/flops"][1] == pytest.approx(ROWS * SEQUENCE_LENGTH * per_position, rel=1e-6)


def test_heads_stay_behind_at_loading_and_export(whole, tmp_path):
    folder, module, _ = whole
    trained = module.model.state_dict()
    export(checkpoint(folder, STEPS), str(tmp_path / "exported"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", local_files_only=True)
    for model in (load_model(checkpoint(folder, STEPS))[0], exported):
        assert model.state_dict().keys() == trained.keys()
        assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("heads", [0, 1])
def test_a_checkpoint_with_other_heads_is_refused(heads, whole, prepared_source, tmp_path):
    folder, _, _ = whole
    with pytest.raises(UserError, match=rf"has 2 heads of multi-token prediction, and this run {heads}: set"):
        fit(tmp_path, prepared_source, multi_token=MultiToken(heads=heads), ckpt_path=checkpoint(folder, 1))


def test_documents_of_packed_rows_train_apart():
    """What the second document holds changes nothing of the loss of the first, if the second has no targets."""
    module = tiny_module(multi_token=MultiToken(heads=2))
    module.configure_model()
    tokens = torch.randint(257, (2, 11, 1))
    positions = torch.cat((torch.arange(6), torch.arange(4))).expand(2, -1)
    inputs, targets = (part.clone() for part in shift(tokens))
    targets[:, 5:] = -100
    others = targets.clone()
    others[:, 6:] = 3  # targets of the second document, in one of the two

    def auxiliary(targets, positions):
        return module(inputs, targets, MultiHotCrossEntropy(), positions)[1]["multi_token"]

    of_first = auxiliary(targets, positions)
    # The heads are the identity: by hand, over the positions of both documents that have a target.
    logits = module.model(inputs.squeeze(-1), position_ids=positions, use_cache=False).logits.log_softmax(-1)
    for ids, found in ((targets, of_first), (others, auxiliary(others, positions))):
        losses = []
        for k in (1, 2):
            documents = [(0, 6), (6, 10)]
            pairs = [(j, j + k) for start, end in documents for j in range(start, end - k)]
            pairs = [(j, of) for j, of in pairs if ids[0, of, 0] != -100]
            of_head = [-logits[row, j, ids[row, of, 0]] for row in range(2) for j, of in pairs]
            losses.append(torch.stack(of_head).mean())
        torch.testing.assert_close(found, 0.1 * torch.stack(losses).mean())


def test_both_losses_together(prepared_source, tmp_path):
    """A mixture of experts with heads, through both phases."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "output_router_logits": True}
    config = Qwen3MoeConfig(
        vocab_size=257, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=256, router_aux_loss_coef=0.001, **experts,
    )  # fmt: skip
    added = []

    class Module(CausalLMModule):
        def training_step(self, batch, batch_idx):
            total = super().training_step(batch, batch_idx)
            inputs, targets = shift(batch["tokens"])
            main, auxiliary = self(inputs, targets, self.loss)
            assert torch.equal(total, main + auxiliary["multi_token"] + auxiliary["router"])
            added.append({name: value.item() for name, value in auxiliary.items()})
            return total

    module = Module(config=config, multi_token=MultiToken())
    callbacks = [SuperpositionCallback(bag_size=4, recovery_step=SWITCH)]
    tiny_trainer(tmp_path, STEPS, callbacks).fit(module, datamodule=tiny_data(prepared_source))
    assert [set(each) for each in added] == [{"multi_token", "router"}] * STEPS
    assert all(each["router"] == pytest.approx(0.001 * 2, rel=0.2) for each in added)


def test_heads_train_in_bf16():
    module = tiny_module(multi_token=MultiToken())
    module.configure_model()
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1, 1))
    exact = module(*shift(tokens), module.loss)[1]["multi_token"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module(*shift(tokens), module.loss)[1]["multi_token"]
    rounded.backward()
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)


def test_nothing_is_added_without_options():
    module = tiny_module()
    module.configure_model()
    assert AuxiliaryLosses(module.model).matrix_parameters == 0
    assert list(module.auxiliary_losses.parameters()) == []
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1, 1))
    assert module(*shift(tokens), module.loss)[1] == {}
