"""Memory that `tst-lightning plan` estimates, against what the allocator gave out in real runs, side by side.

    python benchmarks/plan_memory.py                     # all cases
    python benchmarks/plan_memory.py --only one          # those of one process
    python benchmarks/plan_memory.py --only recomputed   # those of activation checkpointing (AC), of one process
    python benchmarks/plan_memory.py --only parallel     # those of two processes

The last cases are two processes on one machine (gloo), of which the first is measured.

Each case is a `Trainer.fit` of a few steps on the CPU, with the real module, callback and optimizer on random tokens.
Measured: the sum of all tensors' bytes that torch's CPU allocator reports to its profiler, at its highest. That is
deterministic, and knows nothing of how the estimate is made. Exits with 1 if a case is more than 15 % off.
"""

import itertools
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")
sys.path.insert(0, str(Path(__file__).parents[1]))

import lightning
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, IterableDataset

from tst_lightning.plan.memory import memory
from tst_lightning.plan.model_size import module_of
from tst_lightning.plan.run import fit_plan
from tst_lightning.schedule import Schedule

LIMIT = 0.15
VOCABULARY = 2048
_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "transformers.LlamaConfig",
        {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 3,
         "num_key_value_heads": 3, "max_position_embeddings": 512, "tie_word_embeddings": False},
    ),
    "qwen3_moe": (
        "transformers.Qwen3MoeConfig",
        {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "max_position_embeddings": 512,
         "output_router_logits": True},
    ),
    "gpt2": ("transformers.GPT2Config", {"n_embd": 192, "n_layer": 4, "n_head": 3, "n_positions": 512}),
}  # fmt: skip


class RandomTokens(lightning.LightningDataModule):
    """Batches of the schedule's shapes."""

    def __init__(self, rows: int, positions: int, micros: int, accumulate: int) -> None:
        super().__init__()
        self.batch_size, self.sequence_length = rows, positions
        self._micros, self._accumulate = micros, accumulate
        self.schedule, self.bag_size = Schedule(), 1

    def set_schedule(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def train_dataloader(self) -> DataLoader:
        module = self

        class Batches(IterableDataset):
            def __len__(self) -> int:
                return module._micros

            def __iter__(self) -> Iterator[dict[str, Any]]:
                for micro in range(module._micros):
                    stage = module.schedule.stage(micro // module._accumulate)
                    rows = module.batch_size // stage.row_divisor
                    shape = (rows, module.sequence_length + 1, stage.bag_size)
                    yield {"tokens": torch.randint(0, VOCABULARY, shape, dtype=torch.int32), "micro": micro}

        return DataLoader(Batches(), batch_size=None)


def configuration(
    model: str, bag_size: int, loss_impl: str, precision: str, rows: int, positions: int = 128, accumulate: int = 1,
    optimizer: str = "AdamW", recomputed: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """As ``parse_fit`` gives it, of what a plan reads."""
    class_path, options = MODELS[model]
    callbacks = []
    if bag_size > 1:
        options_of = {"bag_size": bag_size, "recovery_step": 2}
        callbacks = [{"class_path": "callbacks.SuperpositionCallback", "init_args": options_of}]
    muon = {"class_path": "tst_lightning.optimizers.MuonWithAdamW", "init_args": {"lr": 1e-3}}
    return {
        "model": {
            "config": {"class_path": class_path, "init_args": _COMMON | options},
            "loss_impl": loss_impl,
            "activation_checkpointing": recomputed,
            **({"optimizer": muon} if optimizer == "Muon" else {}),
        },
        "data": {"data_dir": "none", "batch_size": rows, "sequence_length": positions},
        "trainer": {
            "max_steps": 4, "accumulate_grad_batches": accumulate, "precision": precision, "accelerator": "cpu",
            "devices": 1, "callbacks": callbacks,
        },
    }  # fmt: skip


def estimated_bytes(config: dict[str, Any]) -> int:
    """At the fullest moment of a step."""
    plan = fit_plan(config)
    return memory(plan, lambda: module_of(config), plan.schedule).peak.total_bytes


def measured_bytes(config: dict[str, Any], strategy: Any = "auto") -> int:
    """At the fullest moment of a run of four steps, in this process."""
    plan = fit_plan(config)
    data, devices = config["data"], config["trainer"]["devices"]
    batches = RandomTokens(
        data["batch_size"], data["sequence_length"], plan.max_steps * plan.accumulate, plan.accumulate
    )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer = lightning.Trainer(
            accelerator="cpu", devices=devices, strategy=strategy, precision=plan.precision,
            max_steps=plan.max_steps, logger=False,
            accumulate_grad_batches=plan.accumulate, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=[plan.superposition] if plan.superposition else [],
            limit_val_batches=0, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module_of(config), datamodule=batches)
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and configuration of each."""
    for model in MODELS:
        for bag_size, impl, precision in itertools.product((1, 4), ("chunked", "eager"), ("32-true", "bf16-mixed")):
            yield (
                f"{model:<10} s={bag_size} {impl:<7} {precision:<10} rows=8",
                configuration(model, bag_size, impl, precision, 8),
            )
    for rows, accumulate, optimizer in ((2, 1, "AdamW"), (32, 1, "AdamW"), (8, 4, "AdamW"), (8, 1, "Muon")):
        yield (
            f"llama      s=4 chunked bf16-mixed rows={rows} accumulate={accumulate} {optimizer}",
            configuration("llama", 4, "chunked", "bf16-mixed", rows, accumulate=accumulate, optimizer=optimizer),
        )


def recomputed_cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and configuration of each with activation checkpointing."""
    for model in MODELS:
        for bag_size, impl, precision, rows in ((1, "eager", "32-true", 8), (4, "chunked", "bf16-mixed", 32)):
            yield (
                f"{model:<10} s={bag_size} {impl:<7} {precision:<10} rows={rows} AC",
                configuration(model, bag_size, impl, precision, rows, recomputed=True),
            )


PARALLEL = ("ddp", "fsdp2", "fsdp2 AC")


def parallel_configuration(name: str) -> dict[str, Any]:
    """Of two processes."""
    name, _, recomputed = name.partition(" ")
    config = configuration("llama", 4, "chunked", "bf16-mixed", 8, recomputed=bool(recomputed))
    strategies = {
        "ddp": "ddp",
        "fsdp2": {
            "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
            "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1},
        },
    }
    config["trainer"] |= {"devices": 2, "strategy": strategies[name]}
    return config


def measured_in_parallel(name: str) -> int:
    """``measured_bytes`` of the first of two processes that torchrun starts and ends."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, __file__, "--process-of", name],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=300, check=True,
    )  # fmt: skip
    return int(done.stdout.split("measured_bytes=")[1].split()[0])


def print_measured_in_parallel(name: str) -> int:
    """What each of the processes does."""
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    strategy = DDPStrategy() if name == "ddp" else ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    measured = measured_bytes(parallel_configuration(name), strategy)
    if os.environ["RANK"] == "0":
        print(f"measured_bytes={measured}", flush=True)
    return 0


def main() -> int:
    """Print a line for each case; returns 0 if all are within the limit, else 1."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if "--process-of" in sys.argv:
        return print_measured_in_parallel(sys.argv[-1])
    print(f"torch {torch.__version__}, bytes of tensors at their highest, fit on the CPU\n")
    print(f"{'case':<64}{'estimate':>10}{'measured':>10}{'ratio':>7}")
    only = sys.argv[-1] if "--only" in sys.argv else None
    groups = {"one": cases, "recomputed": recomputed_cases}
    ratios = [
        compared(title, config, measured_bytes)
        for name, group in groups.items()
        if only in (None, name)
        for title, config in group()
    ]
    for name in PARALLEL if only in (None, "parallel") else ():
        title = f"llama      s=4 chunked bf16-mixed rows=8 {name}, 2 processes"
        config = parallel_configuration(name)
        ratios.append(compared(title, config, lambda _, name=name: measured_in_parallel(name)))
    print(f"\n{len(ratios)} cases, ratios from {min(ratios):.3f} to {max(ratios):.3f}")
    return 0 if all(abs(ratio - 1) <= LIMIT for ratio in ratios) else 1


def compared(title: str, config: dict[str, Any], measure: Callable[[dict[str, Any]], int]) -> float:
    """Print the line of a case; the estimate over the measurement."""
    estimate, measured = estimated_bytes(config), measure(config)
    print(f"{title:<64}{estimate / 1e6:>7.1f} MB{measured / 1e6:>7.1f} MB{estimate / measured:>7.3f}", flush=True)
    return estimate / measured


if __name__ == "__main__":
    sys.exit(main())
