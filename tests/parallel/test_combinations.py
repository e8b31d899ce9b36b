"""What superposition is combined with, under each strategy: the run of one process, or a refusal by name."""

import json
import shutil

import pytest
from parallel_runs import (
    STEPS,
    SWITCH,
    TST,
    Fit,
    assert_reads_what_one_does,
    assert_same_weights,
    assert_trains_what_one_does,
    fit_all,
    tst,
)

MUON = {"class_path": "tst_lightning.optimizers.MuonWithAdamW", "init_args": {"lr": 0.003, "eps": 1e-5}}
TIED = {"tie_word_embeddings": True}
WORDS = ["river", "boat", "men", "bridge", "horses", "night", "road", "children"]
COMBINATIONS = {
    "multi-token heads, tied": {"model": {"multi_token": {"heads": 2, "weight": 0.3}}, "config": TIED},
    "Muon": {"model": {"optimizer": MUON}, "callbacks": [TST, {"class_path": "recorder.ExactMuon"}]},
    "everything anew": {"callbacks": [tst(on_switch="restart", reinitialize="embedding_and_head")]},
    "everything anew, tied": {
        "callbacks": [tst(on_switch="restart", reinitialize="embedding_and_head")], "config": TIED
    },
    "length curriculum": {
        "callbacks": [{"class_path": "callbacks.LengthCurriculum", "init_args": {"min_length": 4, "cycles": 1}}]
    },
    "accumulated gradients": {
        "trainer": {"accumulate_grad_batches": 2, "val_check_interval": 2 * SWITCH}, "config": TIED
    },
    "output only": {"callbacks": [tst(superpose_inputs=False)]},
    "patch-level": {
        "callbacks": [tst(tokens_per_step="constant", on_switch="restart_schedule")], "data": {"batch_size": 16}
    },
    "mce_alt": {"callbacks": [tst(loss="mce_alt")]},
    "eager loss": {"model": {"loss_impl": "eager"}},
    "grouped queries, norms in heads": {
        "family": "Qwen3", "config": {"num_attention_heads": 4, "head_dim": 8, "tie_word_embeddings": True}
    },
    "biases": {"family": "Qwen2", "config": {"num_attention_heads": 4}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", COMBINATIONS)
def test_two_processes_train_what_one_does(name, prepared_dir, tmp_path):
    values = COMBINATIONS[name]
    strategies = ("ddp", "fsdp2", "tensor_parallel")
    fits = [Fit(tmp_path / strategy, 2, strategy, values=values) for strategy in strategies]
    one, *runs = fit_all(prepared_dir, Fit(tmp_path / "one", values=values), *fits)
    for strategy, run in zip(strategies, runs, strict=True):
        assert_reads_what_one_does(run, one, rows_by=2 if strategy == "tensor_parallel" else 1)
        assert_trains_what_one_does(run, one)


@pytest.mark.slow
def test_tensor_parallelism_of_isolated_documents_and_of_a_pretrained_model(prepared_dir, tmp_path):
    """Isolated documents are for tensor parallelism alone: else, each process takes the mean over its own targets."""
    from runs import tiny_llama
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(tiny_llama(initializer_range=0.1)).save_pretrained(tmp_path / "model")
    values = {"model": {"config": None, "pretrained": str(tmp_path / "model")}, "data": {"isolate_documents": True}}
    fits = [Fit(tmp_path / "one", values=values), Fit(tmp_path / "two", 2, "tensor_parallel", values=values)]
    one, two = fit_all(prepared_dir, *fits)
    assert_trains_what_one_does(two, one)


@pytest.mark.slow
def test_ngram_targets(prepared_dir, tmp_path):
    from tst_lightning.data.ngram.command import ngram

    ngram(str(prepared_dir), str(tmp_path / "table"), n=3, r=3, workers=1)
    targets = {"class_path": "callbacks.NgramTargets", "init_args": {"table": str(tmp_path / "table"), "alpha": 0.8}}
    values = {"callbacks": [targets]}
    fits = [Fit(tmp_path / strategy, 2, strategy, values=values) for strategy in ("ddp", "fsdp2", "tensor_parallel")]
    one, *runs = fit_all(prepared_dir, Fit(tmp_path / "one", values=values), *fits)
    for run in runs:
        assert_trains_what_one_does(run, one)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_under_ddp(prepared_dir, tmp_path):
    """The other strategies refuse them: ``tests/modeling/test_compilation.py``."""
    fits = [Fit(tmp_path / how, 2, values={"model": {"compilation": how}}) for how in ("lazy", "ahead")]
    one, *runs = fit_all(prepared_dir, Fit(tmp_path / "one"), *fits)
    for run in runs:
        assert_trains_what_one_does(run, one)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "tensor_parallel"])
def test_a_resumed_run_ends_with_the_same_bits(strategy, prepared_dir, tmp_path):
    """From the checkpoint at the switch, where embedding and head begin anew and validation left weights gathered."""
    values = {"callbacks": [tst(on_switch="restart", reinitialize="embedding_and_head")]}
    values["model"] = {"multi_token": {"heads": 2}}
    resume = (f"--ckpt_path={tmp_path}/whole/checkpoints/step={SWITCH}.ckpt",)
    fits = [Fit(tmp_path / "whole", 2, strategy, (), values), Fit(tmp_path / "resumed", 2, strategy, resume, values)]
    whole, resumed = fit_all(prepared_dir, *fits)
    assert len(resumed.losses) == STEPS - SWITCH
    assert_same_weights(resumed, whole, STEPS, atol=0)


@pytest.mark.slow
def test_downstream_tasks_under_ddp(prepared_dir, tmp_path):
    """The scores of one process; tasks are dealt out to the processes, in the middle of training and at its end."""
    items = [{"context": f"The river was wide and {word} crossed the", "target": word} for word in WORDS]
    folder = prepared_dir / "evaluation"
    folder.mkdir()
    (folder / "heldout_last_word.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    options = {"tasks": ["heldout_last_word"], "every_n_steps": SWITCH, "batch_tokens": 60}
    values = {"callbacks": [TST, {"class_path": "callbacks.DownstreamEvaluation", "init_args": options}]}
    one, two = fit_all(prepared_dir, Fit(tmp_path / "one", values=values), Fit(tmp_path / "two", 2, values=values))
    assert_trains_what_one_does(two, one)
    for step in (SWITCH, STEPS):
        folders = [run.folder / "evaluation" / f"step={step}" for run in (one, two)]
        files = [next(folder.glob("results_*.json")) for folder in folders]
        alone, shared = (json.loads(file.read_text())["results"]["heldout_last_word"] for file in files)
        assert alone.keys() == shared.keys()
        for name in ("sample_len", "acc,none", "perplexity,none"):
            assert shared[name] == pytest.approx(alone[name], rel=1e-3)
