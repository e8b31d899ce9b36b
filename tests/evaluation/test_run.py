import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tst_lightning.data.preparing.heldout import CONTINUATION, LAST_WORD
from tst_lightning.evaluation.run import evaluate_tasks, scores
from tst_lightning.evaluation.task_loading import load_tasks


@pytest.fixture(scope="module")
def tasks(items_dir: Path) -> dict:
    return load_tasks(["heldout"], items_dir)


@pytest.fixture
def results(model, tokenizer, tasks) -> dict:
    return evaluate_tasks(model, tokenizer, tasks, source="here")


def random_states() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_metrics_follow_from_the_samples(results) -> None:
    log_likelihoods = [resp[0] for s in results["samples"][LAST_WORD] for resp in s["filtered_resps"]]
    assert len(log_likelihoods) == 12
    mean = sum(log_likelihoods) / 12
    assert scores(results)[f"{LAST_WORD}/perplexity"] == pytest.approx(math.exp(-mean))
    right = 0
    for sample in results["samples"][CONTINUATION]:
        values = [resp[0] for resp in sample["filtered_resps"]]
        right += values.index(max(values)) == sample["doc"]["label"]
    assert scores(results)[f"{CONTINUATION}/acc"] == right / 12
    assert set(scores(results)) == {
        f"{LAST_WORD}/acc", f"{LAST_WORD}/perplexity", f"{CONTINUATION}/acc", f"{CONTINUATION}/acc_norm"
    }  # fmt: skip


def test_perplexity_error_is_the_bootstrap_one(results) -> None:
    values = np.array([resp[0] for s in results["samples"][LAST_WORD] for resp in s["filtered_resps"]])
    # Spread of the mean log-likelihood over resamples; the delta method multiplies by the perplexity.
    generator = np.random.default_rng(0)
    means = generator.choice(values, (20_000, len(values))).mean(axis=1)
    expected = means.std() * math.exp(-values.mean()) * math.sqrt(12 / 11)
    assert results["results"][LAST_WORD]["perplexity_stderr,none"] == pytest.approx(expected, rel=0.03)
    accuracy = scores(results)[f"{CONTINUATION}/acc"]
    closed_form = math.sqrt(accuracy * (1 - accuracy) / 11)
    assert results["results"][CONTINUATION]["acc_stderr,none"] == pytest.approx(closed_form)


def test_limit_and_a_second_evaluation(model, tokenizer, tasks, results) -> None:
    few = evaluate_tasks(model, tokenizer, tasks, limit=5)
    assert [len(samples) for samples in few["samples"].values()] == [5, 5]
    assert few["config"]["limit"] == 5
    again = evaluate_tasks(model, tokenizer, tasks)
    assert scores(again) == scores(results)
    one = evaluate_tasks(model, tokenizer, tasks, limit=1)
    assert one["results"][LAST_WORD]["perplexity_stderr,none"] == "N/A"


def test_leaves_random_states_modes_gradients_and_output_alone(model, tokenizer, tasks, capfd) -> None:
    model.train()
    model.model.layers[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert len(set(modes.values())) == 2
    before = random_states()
    # A task's sampler or a model's router may draw.
    draws = []
    model.register_forward_hook(lambda *_: draws.append(random.random() + np.random.rand() + torch.rand(()).item()))
    evaluate_tasks(model, tokenizer, tasks, limit=3)
    assert draws
    assert random_states() == before
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert capfd.readouterr() == ("", "")


def test_dropout_does_not_act(model, tokenizer, tasks, results) -> None:
    torch.manual_seed(99)
    assert scores(evaluate_tasks(model.train(), tokenizer, tasks)) == scores(results)


def test_modes_are_restored_after_a_failure(model, tokenizer, tasks) -> None:
    model.train()
    handle = model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate_tasks(model, tokenizer, tasks, limit=1)
    handle.remove()
    assert all(module.training for module in model.modules())
