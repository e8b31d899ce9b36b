"""``python pretrained_memory.py FOLDER``: two processes share a mixture that lies in files; the most memory of each.

Writes the files, and ``RANK.json``: the weights' bytes, and the highest memory of the process above that before,
without the files' pages, which are mapped: the system can drop them, and processes of a machine share them.
"""

import json
import multiprocessing
import os
import sys
import threading
from pathlib import Path

import torch
from forked_fits import free_port
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from tst_lightning.modeling.building import pretrained_config
from tst_lightning.modeling.initial_weights import outline
from tst_lightning.modeling.pretrained_weights import fill_shards_from
from tst_lightning.modeling.sharding import shard

CONFIG = Qwen3MoeConfig(
    vocab_size=8192, hidden_size=1024, num_hidden_layers=16, num_attention_heads=8, num_key_value_heads=8, head_dim=128,
    num_experts=8, num_experts_per_tok=2, moe_intermediate_size=512, bos_token_id=None, eos_token_id=None,
)  # fmt: skip


def anonymous_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


class Highest(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.bytes, self.over = 0, threading.Event()

    def run(self):
        while not self.over.wait(0.002):
            self.bytes = max(self.bytes, anonymous_bytes())


def write(folder):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG).save_pretrained(folder)


def one_process(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh(
        "cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel")
    )
    module = nn.Module()
    module.model = outline(pretrained_config(str(folder)))
    shard(module, module.model, mesh)
    before, highest = anonymous_bytes(), Highest()
    highest.start()
    fill_shards_from(str(folder), module, module.model, seed=0)
    highest.over.set()
    weights = sum(parameter.numel() * 4 for parameter in module.model.parameters())
    result = {"weights": weights, "highest": highest.bytes - before}
    (folder / f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def main(folder):
    context, port = multiprocessing.get_context("fork"), free_port()
    writer = context.Process(target=write, args=(folder,))
    writer.start()
    writer.join()
    children = [context.Process(target=one_process, args=(rank, port, folder)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode:
            sys.exit("a process failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
