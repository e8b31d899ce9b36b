"""The most memory that a process takes of a model that two processes share, against its weights in whole.

    python benchmarks/sharded_memory.py                     # depth and experts of the 10B-A1B mixture reduced
    python benchmarks/sharded_memory.py --layers 4 --experts 128 --expert_width 1024 --vocabulary 128256 --steps 0

Each process builds the model of configs/model/qwen3_moe_10b_a1b.yaml with these changes, keeps its shards, saves a
distributed checkpoint of the weights, does a training step with AdamW, and saves all. What is printed is the highest
resident memory so far (ru_maxrss) above that of the same process before, with all libraries loaded. One process with
the whole model does the same beside it. Exits with 1 if a sharded process takes as much as the weights before training.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "model" / "qwen3_moe_10b_a1b.yaml"
ROW_POSITIONS, ROWS = 64, 1
PROCESSES = 2
PHASES = {
    "built": "built and sharded",
    "weights saved": "weights saved",
    "trained": "a step of training",
    "all saved": "all saved",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns 0 if no process took the weights in whole before it trained."""
    options = parse(arguments)
    if options.rank is not None:
        measure(options)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        one = run(1, options, Path(scratch, "one")) if options.steps else []
        shared = run(PROCESSES, options, Path(scratch, "shared"))
    weights = shared[0]["weights"]
    print(
        f"{options.layers} layers, {options.experts} experts of width {options.expert_width}, vocabulary "
        f"{options.vocabulary:,}: {shared[0]['parameters']:,} parameters, {weights / 1e6:,.0f} MB of weights in fp32"
    )
    print(f"highest memory of a process above an empty one of {shared[0]['empty'] / 1e6:,.0f} MB, and by the weights:")
    columns = [("one process", one)] * bool(one) + [("process 0 of 2", shared[:1]), ("process 1 of 2", shared[1:])]
    print(f"{'':<20}" + "".join(f"{name:>24}" for name, _ in columns))
    for phase, words in PHASES.items():
        if phase in shared[0]["peaks"]:
            cells = [
                f"{run[0]['peaks'][phase] / 1e6:,.0f} MB {run[0]['peaks'][phase] / weights:5.2f}" for _, run in columns
            ]
            print(f"{words:<20}" + "".join(f"{cell:>24}" for cell in cells))
    highest = max(process["peaks"]["weights saved"] for process in shared)
    print(f"built and saved by {PROCESSES} processes: none of them above {highest / weights:.2f} of the weights")
    return 0 if highest < weights else 1


def run(processes: int, options: argparse.Namespace, folder: Path) -> list[dict]:
    """What each process measured."""
    folder.mkdir()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable, __file__, "--folder", str(folder), "--processes", str(processes)]
    for name in ("layers", "experts", "expert_width", "vocabulary", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1])}
    children = [
        subprocess.Popen([*command, "--rank", str(rank)], env=environment | {"LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    try:
        for child in children:
            if child.wait():
                sys.exit(f"a run with {processes} processes failed")
    finally:
        for child in children:
            child.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


# One process ------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> None:
    """Build, save, train, save; write the peaks to ``RANK.json``."""
    import logging
    import warnings

    import lightning as L
    import torch
    import yaml
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch.distributed import checkpoint, fsdp, tensor  # noqa: F401 - loaded by either, so that both have them
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe import modeling_qwen3_moe  # noqa: F401

    from callbacks import StepCheckpoint
    from tst_lightning.module import CausalLMModule

    warnings.filterwarnings("ignore", module="lightning|torch")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    values = yaml.safe_load(CONFIG.read_text())["model"]["config"]
    changes = {"num_hidden_layers": options.layers, "num_experts": options.experts, "vocab_size": options.vocabulary}
    changes |= {"moe_intermediate_size": options.expert_width, "bos_token_id": None, "eos_token_id": None}
    config = Qwen3MoeConfig(**values["init_args"] | values["dict_kwargs"] | changes)
    module, empty, peaks = CausalLMModule(config=config), peak_bytes(), {}

    class Data(L.LightningDataModule):
        sequence_length, batch_size = ROW_POSITIONS, ROWS

        def train_dataloader(self):
            batch = {"tokens": torch.arange(ROW_POSITIONS + 1).expand(ROWS, -1).unsqueeze(-1)}
            return torch.utils.data.DataLoader([batch] * max(1, options.steps), batch_size=None)

    class Peaks(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            peaks["built"] = peak_bytes() - empty
            trainer.save_checkpoint(Path(options.folder, "weights.ckpt"), weights_only=True)
            peaks["weights saved"] = peak_bytes() - empty

        def on_train_batch_end(self, trainer, *_):
            peaks["trained"] = peak_bytes() - empty

    strategy = ModelParallelStrategy(options.processes, 1) if options.processes > 1 else "auto"
    saving = [StepCheckpoint(every_n_steps=max(1, options.steps), dirpath=f"{options.folder}/checkpoints")]
    trainer = L.Trainer(
        accelerator="cpu", devices=options.processes, strategy=strategy, max_steps=max(1, options.steps), logger=False,
        callbacks=[Peaks(), *saving], enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, default_root_dir=options.folder, limit_train_batches=options.steps,
    )  # fmt: skip
    trainer.fit(module, datamodule=Data())
    if options.steps:
        peaks["all saved"] = peak_bytes() - empty
    parameters = sum(parameter.numel() for parameter in module.model.parameters())
    result = {"empty": empty, "peaks": peaks, "parameters": parameters, "weights": 4 * parameters}
    Path(options.folder, f"{options.rank}.json").write_text(json.dumps(result))


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="of 24 (default: %(default)s)")
    parser.add_argument("--experts", type=int, default=16, help="of 128 (default: %(default)s)")
    parser.add_argument("--expert_width", type=int, default=512, help="of 1024 (default: %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=16384, help="of 128,256 (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="of training; 0: none (default: %(default)s)")
    for name in ("rank", "processes"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
