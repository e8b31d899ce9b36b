"""Our adapter against lm-eval's own HFLM: log-likelihoods within 1e-4 and the same accuracies."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from local_copies import write_copies

from tst_lightning.evaluation.adapter import InMemoryLM
from tst_lightning.evaluation.run import evaluate_tasks, scores
from tst_lightning.evaluation.task_loading import load_tasks

pytest.importorskip("accelerate", reason="lm-eval's HFLM needs it")

TASKS = [
    "heldout", "arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande", "lambada_openai", "wikitext",
    "blimp_causative", "mmlu_anatomy",
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(items_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    copies = write_copies(tmp_path_factory.mktemp("copies"), {"blimp": ["causative"], "mmlu": ["anatomy"]})
    return load_tasks(TASKS, items_dir, copies)


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 5])
def test_log_likelihoods_and_greedy_flags(model, tokenizer, loaded: dict, batch_size: int) -> None:
    from lm_eval.models.huggingface import HFLM

    for task in loaded["tasks"].values():
        task.build_all_requests()
    instances = [request for task in loaded["tasks"].values() for request in task.instances]
    theirs = HFLM(model.eval(), tokenizer=tokenizer, batch_size=batch_size, max_length=64)
    ours = InMemoryLM(model, tokenizer, max_length=64)
    for kind, least in (("loglikelihood", 100), ("loglikelihood_rolling", 3)):
        requests = [SimpleNamespace(args=request.args) for request in instances if request.request_type == kind]
        assert len(requests) >= least
        expected, found = (getattr(lm, kind)(requests, disable_tqdm=True) for lm in (theirs, ours))
        if kind == "loglikelihood":
            assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
            expected, found = ([value for value, _ in pairs] for pairs in (expected, found))
        # A rolling text is a sum over hundreds of tokens.
        assert found == pytest.approx(expected, abs=1e-4, rel=1e-6)


def test_metrics_are_identical(model, tokenizer, loaded: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.huggingface import HFLM

    found = scores(evaluate_tasks(model, tokenizer, loaded, max_length=64))

    class Theirs(HFLM):
        """HFLM where the evaluation would make our adapter."""

        batch_tokens = None

        def __init__(self, model, tokenizer, max_length, *_: object) -> None:
            super().__init__(model, tokenizer=tokenizer, max_length=max_length, batch_size=4)

    monkeypatch.setattr("tst_lightning.evaluation.run.InMemoryLM", Theirs)
    expected = scores(evaluate_tasks(model, tokenizer, loaded, max_length=64))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (value if "/acc" in name else pytest.approx(value, rel=1e-4)), name
