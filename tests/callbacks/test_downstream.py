"""DownstreamEvaluation in a real Trainer, with a module and a data module of the test's own."""

import json
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, LlamaConfig

from callbacks.downstream import DownstreamEvaluation
from tst_lightning.errors import UserError

SENTENCES = ["The river was wide and they crossed the", "A letter came and she opened the"]


class RecordingLogger(DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict]] = []

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        self.logged.append((step, metrics))


class Module(pl.LightningModule):
    """Next-token training with dropout, so that a moved random state shows in the weights."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=257, max_position_embeddings=64, attention_dropout=0.3, **sizes)
        self.model = AutoModelForCausalLM.from_config(config)
        self.fails_at = fails_at
        self.autocast: list[bool] = []
        self.modes: list[bool] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if batch_idx == self.fails_at:
            raise RuntimeError("training broke")
        self.modes.append(self.model.model.layers[0].training)
        return self.model(batch, labels=batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(pl.LightningDataModule):
    def __init__(self, data_dir: Path | None, sequence_length: int = 32) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.sequence_length = sequence_length

    def train_dataloader(self) -> DataLoader:
        rows = torch.randint(0, 257, (40, 32), generator=torch.Generator().manual_seed(1))
        return DataLoader(list(rows), batch_size=2)


@pytest.fixture
def data_dir(prepared_source: Path, tmp_path: Path) -> Path:
    """The tokenizer of a prepared corpus, with items of the bundled tasks."""
    folder = tmp_path / "prepared"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "tokenizer").symlink_to(prepared_source / "tokenizer")
    targets = ["river", "letter"]
    last_word = [{"context": s, "target": t} for s, t in zip(SENTENCES, targets, strict=True)]
    continuation = [
        {"context": s, "choices": ["one way", "two ways", "or three", "or four"], "label": i}
        for i, s in enumerate(SENTENCES)
    ]
    for task, items in (("heldout_last_word", last_word), ("heldout_continuation", continuation)):
        text = "".join(json.dumps(item) + "\n" for item in items)
        (folder / "evaluation" / f"{task}.jsonl").write_text(text)
    return folder


def fit(tmp_path: Path, data_dir: Path, callback=None, module=None, resume=None, **options) -> SimpleNamespace:
    module, logger = module or Module(), RecordingLogger()
    torch.manual_seed(123)
    trainer = pl.Trainer(
        default_root_dir=tmp_path / "run",
        logger=logger,
        callbacks=[callback] if callback else [],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"max_steps": 6, "max_epochs": -1, "accelerator": "cpu"} | options,
    )
    trainer.fit(module, Data(data_dir), ckpt_path=resume)
    evaluated = [(step, metrics) for step, metrics in logger.logged if any("downstream/" in key for key in metrics)]
    return SimpleNamespace(module=module, trainer=trainer, evaluated=evaluated, folder=tmp_path / "run" / "evaluation")


def test_evaluates_at_the_end_and_writes_standard_files(tmp_path: Path, data_dir: Path) -> None:
    callback = DownstreamEvaluation(["heldout"])
    run = fit(tmp_path, data_dir, callback)
    ((step, metrics),) = run.evaluated
    assert step == 6
    assert set(metrics) == {
        "downstream/heldout_last_word/acc", "downstream/heldout_last_word/perplexity",
        "downstream/heldout_continuation/acc", "downstream/heldout_continuation/acc_norm",
    }  # fmt: skip
    assert [path.name for path in run.folder.iterdir()] == ["step=6"]
    (aggregated,) = (run.folder / "step=6").glob("results_*.json")
    read = json.loads(aggregated.read_text())
    assert read["results"]["heldout_continuation"]["acc,none"] == metrics["downstream/heldout_continuation/acc"]
    assert read["config"]["step"] == 6
    assert read["config"]["max_length"] == 32
    assert len(list((run.folder / "step=6").glob("samples_*.jsonl"))) == 2


@pytest.mark.gpu
def test_the_end_is_evaluated_on_the_gpu(tmp_path: Path, data_dir: Path, monkeypatch) -> None:
    """Lightning moves the model to the CPU before ``on_fit_end``."""
    devices = []
    evaluate = DownstreamEvaluation._evaluate

    def recording(self, trainer, pl_module):
        devices.append(pl_module.model.device.type)
        evaluate(self, trainer, pl_module)

    monkeypatch.setattr(DownstreamEvaluation, "_evaluate", recording)
    run = fit(tmp_path, data_dir, DownstreamEvaluation(["heldout"]), accelerator="gpu", devices=1)
    assert devices == ["cuda"]
    assert run.module.model.device.type == "cpu"


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 3}])
def test_training_is_the_same_bit_for_bit(tmp_path: Path, data_dir: Path, options: dict) -> None:
    plain = fit(tmp_path, data_dir, **options).module
    watched = fit(tmp_path, data_dir, DownstreamEvaluation(["heldout"], every_n_steps=2), **options)
    assert [step for step, _ in watched.evaluated] == [2, 4, 6]
    assert all(watched.module.modes)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, watched.module.state_dict()[name]), name


def test_once_per_optimizer_step_and_none_on_resuming(tmp_path: Path, data_dir: Path) -> None:
    options = {"accumulate_grad_batches": 4}
    first = fit(tmp_path, data_dir, DownstreamEvaluation(["heldout"], every_n_steps=2), max_steps=2, **options)
    assert [step for step, _ in first.evaluated] == [2]
    first.trainer.save_checkpoint(tmp_path / "at2.ckpt")
    callback = DownstreamEvaluation(["heldout"], every_n_steps=2)
    resumed = fit(tmp_path, data_dir, callback, resume=tmp_path / "at2.ckpt", max_steps=5, **options)
    assert [step for step, _ in resumed.evaluated] == [4, 5]


def test_finished_run_that_is_resumed_is_evaluated_again(tmp_path: Path, data_dir: Path) -> None:
    first = fit(tmp_path, data_dir, DownstreamEvaluation(["heldout"]))
    first.trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = fit(tmp_path, data_dir, DownstreamEvaluation(["heldout"]), resume=tmp_path / "last.ckpt")
    assert again.evaluated == first.evaluated
    assert len(list((again.folder / "step=6").glob("results_*.json"))) == 1


def test_a_run_that_breaks_is_not_evaluated(tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(RuntimeError, match="training broke"):
        fit(tmp_path, data_dir, DownstreamEvaluation(["heldout"]), module=Module(fails_at=3))
    assert not (tmp_path / "run" / "evaluation").exists()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_forward_pass_runs_in_the_trainers_precision(
    tmp_path: Path, data_dir: Path, precision: str, dtype: torch.dtype
) -> None:
    module, dtypes = Module(), set()
    module.model.get_output_embeddings().register_forward_hook(
        lambda head, _, output: None if head.training else dtypes.add(output.dtype)
    )
    fit(tmp_path, data_dir, DownstreamEvaluation(["heldout"]), module=module, precision=precision)
    assert dtypes == {dtype}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": []}, "at least one name"),
        ({"tasks": "heldout"}, "must be a list"),
        ({"tasks": ["heldout"], "every_n_steps": 0}, "every_n_steps is 0"),
        ({"tasks": ["heldout"], "limit": -1}, "limit is -1"),
        ({"tasks": ["heldout"], "log_items": "all"}, "log_items is 'all'"),
        ({"tasks": ["heldout"], "at_end": False}, "would never evaluate"),
    ],
)
def test_mistaken_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DownstreamEvaluation(**arguments)


def test_lm_evals_own_task_on_a_local_copy(tmp_path: Path, data_dir: Path) -> None:
    items = [{"goal": f"goal {i}", "sol1": "one way", "sol2": "another", "label": i} for i in range(2)]
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "piqa.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    callback = DownstreamEvaluation(["piqa"], task_data_dir=str(tmp_path / "copies"), log_items="full")
    run = fit(tmp_path, data_dir, callback)
    ((_, metrics),) = run.evaluated
    assert set(metrics) == {"downstream/piqa/acc", "downstream/piqa/acc_norm"}
    (samples,) = (run.folder / "step=6").glob("samples_piqa_*.jsonl")
    assert [json.loads(line)["doc"] for line in samples.read_text().splitlines()] == items


def test_missing_data_stops_the_run_before_its_first_step(tmp_path: Path, data_dir: Path) -> None:
    (data_dir / "evaluation" / "heldout_last_word.jsonl").unlink()
    module = Module()
    with pytest.raises(UserError, match="heldout_last_word"):
        fit(tmp_path, data_dir, DownstreamEvaluation(["heldout"]), module=module)
    with pytest.raises(UserError, match="no `data_dir`"):
        fit(tmp_path, None, DownstreamEvaluation(["heldout"]), module=module)
    assert module.modes == []
