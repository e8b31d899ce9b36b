"""Parameter groups, and Muon beside AdamW: by hand, against torch's two optimizers, resumed, scheduled."""

import copy
import math

import pytest
import torch
from runs import tiny_llama, tiny_module
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR
from transformers import GPT2Config

from tst_lightning.errors import UserError
from tst_lightning.optimizers import KINDS, MuonWithAdamW, papers_adamw, parameter_groups

SHAPES = [(6, 4), (4, 10), (3, 5, 4)]


class Small(nn.Module):
    """Two hidden matrices, a stack of three, an embedding, a head with a bias, a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrices = nn.ParameterList([torch.randn(shape) for shape in SHAPES])
        self.embedding, self.norm, self.head = nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 7)
        self.frozen = nn.Parameter(torch.randn(4, 4), requires_grad=False)

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def train_a_step(self, step, seed):
        """``step`` with random gradients from ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) if parameter.requires_grad else None
        step()


def names_by_kind(module):
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {group["kind"]: [names[parameter] for parameter in group["params"]] for group in parameter_groups(module)}


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# Groups -------------------------------------------------------------------------------------------------------


def test_groups_of_a_small_model():
    assert names_by_kind(Small()) == {
        "hidden_matrices": ["matrices.0", "matrices.1", "matrices.2"],
        "embedding_and_head": ["embedding.weight", "head.weight"],
        "vectors": ["norm.weight", "norm.bias", "head.bias"],
    }
    assert [group.get("weight_decay") for group in parameter_groups(Small())] == [None, None, 0.0]


@pytest.mark.parametrize("tied", [True, False])
def test_groups_of_llama_hold_each_parameter_once(tied):
    module = tiny_module(tiny_llama(tie_word_embeddings=tied))
    module.configure_model()
    module.extra_head = nn.Linear(16, 16)  # of the LightningModule, outside its model
    names = names_by_kind(module)
    heads = [] if tied else ["model.lm_head.weight"]
    assert names["embedding_and_head"] == ["model.model.embed_tokens.weight", *heads]
    assert len(names["hidden_matrices"]) == 2 * 7 + 1
    assert "extra_head.weight" in names["hidden_matrices"]
    assert set(names["vectors"]) == {
        "extra_head.bias", "model.model.norm.weight",
        *(f"model.model.layers.{i}.{norm}_layernorm.weight" for i in (0, 1) for norm in ("input", "post_attention")),
    }  # fmt: skip
    assert sum(map(len, names.values())) == len(list(module.parameters()))


def test_position_embeddings_are_embeddings():
    module = tiny_module(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=257, n_positions=32))
    module.configure_model()
    names = names_by_kind(module)
    assert names["embedding_and_head"] == ["model.transformer.wte.weight", "model.transformer.wpe.weight"]
    assert len(names["hidden_matrices"]) == 4


def test_convolutions_are_not_stacks_of_matrices_and_biases_of_experts_no_matrices():
    module = Small()
    module.convolution = nn.Conv1d(4, 4, 3)
    module.experts = nn.ParameterDict({"down_proj": torch.zeros(3, 4, 4), "down_proj_bias": torch.zeros(3, 4)})
    names = names_by_kind(module)
    assert "convolution.weight" in names["embedding_and_head"]
    assert "experts.down_proj" in names["hidden_matrices"]
    assert "experts.down_proj_bias" in names["vectors"]


def test_papers_adamw_steps_as_if_the_groups_had_no_kind():
    one, two = Small(), Small()
    optimizer = papers_adamw(parameter_groups(one))
    plain = AdamW([{k: v for k, v in g.items() if k != "kind"} for g in parameter_groups(two)],
                  lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)  # fmt: skip
    for seed in range(3):
        one.train_a_step(optimizer.step, seed)
        two.train_a_step(plain.step, seed)
    assert equal(one, two)
    assert not torch.equal(one.norm.weight, Small().norm.weight)


# A step -------------------------------------------------------------------------------------------------------


def orthogonalized(matrix):
    """Five Newton-Schulz iterations in fp64: each applies a polynomial to the singular values alone."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / matrix.double().norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ values.diag() @ right


SCALES = {
    "match_rms_adamw": lambda a, b: 0.2 * math.sqrt(max(a, b)),
    "original": lambda a, b: math.sqrt(max(1, a / b)),
    "spectral_unclamped": lambda a, b: math.sqrt(a / b),
}


@pytest.mark.parametrize("adjust", SCALES)
def test_a_first_step_by_hand(adjust):
    lr, adamw_lr, decay, momentum = 0.02, 0.003, 0.5, 0.9
    module, start = Small(), Small()
    optimizer = MuonWithAdamW(
        parameter_groups(module), lr, adamw_lr, weight_decay=decay, momentum=momentum, adjust_lr_fn=adjust
    )
    module.train_a_step(optimizer.step, seed=1)
    for after, before in zip(module.matrices, start.matrices, strict=True):
        for new, old, gradient in zip(
            *(t.detach().reshape(-1, *t.shape[-2:]) for t in (after, before, after.grad)), strict=True
        ):
            # Nesterov: of the average, and once more towards it; Newton-Schulz does not see the scale.
            update = orthogonalized((1 - momentum + momentum * (1 - momentum)) * gradient)
            expected = -lr * decay * old - lr * SCALES[adjust](*old.shape) * update
            # torch iterates in bf16.
            assert ((new - old) - expected).norm() < 0.03 * expected.norm()
    for name in ("embedding.weight", "head.weight", "head.bias", "norm.weight"):
        new, old = module.get_parameter(name), start.get_parameter(name)
        gradient = new.grad
        expected = old * (1 - adamw_lr * (decay if old.ndim == 2 else 0)) - adamw_lr * gradient / (
            gradient.abs() + 1e-8
        )
        torch.testing.assert_close(new, expected, rtol=1e-5, atol=1e-7, msg=name)
    assert torch.equal(module.frozen, start.frozen)


def test_steps_are_those_of_torch_optimizers_and_of_each_matrix_of_a_stack():
    one, two = Small(), Small()
    optimizer = MuonWithAdamW(parameter_groups(one), lr=0.02, adamw_lr=0.003)
    stack = [nn.Parameter(matrix.clone()) for matrix in two.matrices[2]]
    matrices, tables, vectors = (group["params"] for group in parameter_groups(two))
    muon = Muon([*matrices[:2], *stack], lr=0.02, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW([{"params": tables}, {"params": vectors, "weight_decay": 0.0}],
                  lr=0.003, betas=(0.9, 0.95), weight_decay=0.1)  # fmt: skip
    for seed in range(4):
        one.train_a_step(optimizer.step, seed)
        two.train_a_step(adamw.step, seed)
        for matrix, gradient in zip(stack, two.matrices[2].grad, strict=True):
            matrix.grad = gradient
        muon.step()
    with torch.no_grad():
        two.matrices[2].copy_(torch.stack(stack))
    assert equal(one, two)
    states = [set(optimizer.state[parameter]) for parameter in (one.matrices[2], one.norm.weight)]
    assert states == [{"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}]
    assert set(optimizer.state) == {parameter for group in optimizer.param_groups for parameter in group["params"]}


def test_parameters_without_gradient_stay_and_the_closure_is_called_once():
    module, calls = Small(), []
    optimizer = MuonWithAdamW(parameter_groups(module))

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = (module.matrices[0] ** 2).sum() + (module.head.weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert calls == [True]
    moved = {
        name
        for (name, new), old in zip(module.named_parameters(), Small().parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert moved == {"matrices.0", "head.weight"}
    assert len(optimizer.state) == 2


# An optimizer like others -------------------------------------------------------------------------------------


def test_each_group_has_its_own_rate_which_a_scheduler_scales():
    module = Small()
    optimizer = MuonWithAdamW(parameter_groups(module), lr=0.02, adamw_lr=0.003)
    schedule = LambdaLR(optimizer, lambda step: 1 / (step + 1))
    module.train_a_step(optimizer.step, 0)
    schedule.step()
    assert [group["kind"] for group in optimizer.param_groups] == list(KINDS)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.0015, 0.0015]
    before = [parameter.clone() for parameter in (module.matrices[0], module.norm.weight)]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    module.train_a_step(optimizer.step, 1)
    assert torch.equal(before[0], module.matrices[0])
    assert torch.equal(before[1], module.norm.weight)


def test_without_a_rate_of_its_own_adamw_takes_muons():
    rates = [group["lr"] for group in MuonWithAdamW(parameter_groups(Small()), lr=0.5).param_groups]
    assert rates == [0.5, 0.5, 0.5]


def through_a_file(state, folder):
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def test_resumed_is_bit_identical(tmp_path):
    whole, part = Small(), Small()
    optimizers = [MuonWithAdamW(parameter_groups(module), lr=0.02, adamw_lr=0.003) for module in (whole, part)]
    for seed in range(3):
        whole.train_a_step(optimizers[0].step, seed)
        part.train_a_step(optimizers[1].step, seed)
    resumed = Small()
    resumed.load_state_dict(part.state_dict())
    optimizer = MuonWithAdamW(parameter_groups(resumed), lr=7.0)  # the saved rates come back
    optimizer.load_state_dict(through_a_file(optimizers[1].state_dict(), tmp_path))
    copied, copied_optimizer = copy.deepcopy((part, optimizers[1]))
    for seed in (3, 4):
        whole.train_a_step(optimizers[0].step, seed)
        resumed.train_a_step(optimizer.step, seed)
        copied.train_a_step(copied_optimizer.step, seed)
    assert equal(whole, resumed)
    assert equal(whole, copied)
    assert not equal(whole, part)


def test_cleared_state_is_that_of_a_new_optimizer():
    module = Small()
    optimizer = MuonWithAdamW(parameter_groups(module), lr=0.02)
    module.train_a_step(optimizer.step, 0)
    fresh = copy.deepcopy(module)
    optimizer.state.clear()
    module.train_a_step(optimizer.step, 1)
    fresh.train_a_step(MuonWithAdamW(parameter_groups(fresh), lr=0.02).step, 1)
    assert equal(module, fresh)
    optimizer.state.pop(module.embedding.weight)
    optimizer.state.pop(module.matrices[2])
    module.train_a_step(optimizer.step, 2)
    assert optimizer.state[module.embedding.weight]["step"] == 1
    assert optimizer.state[module.norm.weight]["step"] == 2


def test_gradients_are_freed():
    module = Small()
    optimizer = MuonWithAdamW(parameter_groups(module))
    module.train_a_step(optimizer.step, 0)
    gradient = torch.UntypedStorage._weak_ref(module.matrices[2].grad.untyped_storage())
    optimizer.zero_grad()
    assert torch.UntypedStorage._expired(gradient)


def test_no_hidden_matrix_is_no_error():
    table = nn.Parameter(torch.ones(3, 2))
    groups = [{"params": [], "kind": "hidden_matrices"}, {"params": [table], "kind": "embedding_and_head"}]
    optimizer = MuonWithAdamW(groups)
    table.grad = torch.ones(3, 2)
    optimizer.step()
    assert (table < 1).all()


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ([{"params": [torch.ones(2, 2)]}], {}, "kind=None.*parameter_groups"),
        ([{"params": [torch.ones(2, 2)], "kind": "matrix"}], {}, "kind='matrix'.*hidden_matrices"),
        ([{"params": [torch.ones(3)], "kind": "hidden_matrices"}], {}, r"\(3,\).*neither matrices"),
        ([{"params": [], "kind": "vectors"}], {"lr": -1.0}, "Learning rate"),
        ([{"params": [], "kind": "vectors"}], {"adjust_lr_fn": "none"}, "none is not supported"),
        ([{"params": [], "kind": "vectors"}], {"betas": (0.9, 2.0)}, "beta"),
    ],
)
def test_refuses(groups, options, message):
    with pytest.raises(UserError, match=message):
        MuonWithAdamW(groups, **options)
