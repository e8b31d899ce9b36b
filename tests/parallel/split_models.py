"""``python split_models.py FOLDER TYPE...``: models split over two processes, against the whole ones.

Writes ``FOLDER/TYPE``: empty, or what is not the whole model's, loss or gradients.
"""

import copy
import multiprocessing
import os
import sys
from pathlib import Path

import torch
import transformers
from forked_fits import free_port
from torch import nn
from torch.nn import functional as F

from tst_lightning.modeling.sharding import shard
from tst_lightning.modeling.tensor_parallel import require_splittable, whole_weight

SIZES = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 32, "initializer_range": 0.3, "pad_token_id": None}


class Step(nn.Module):
    """As CausalLMModule: its ``forward`` is the whole step, and reads the head's weight itself."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        hidden = self.model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = hidden @ whole_weight(self.model.get_output_embeddings().weight).T
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def difference(kind, mesh):
    config = transformers.CONFIG_MAPPING[kind](**SIZES)
    require_splittable(config, 2)
    torch.manual_seed(0)
    step = Step(transformers.AutoModelForCausalLM.from_config(config))
    with torch.no_grad():
        for parameter in step.parameters():  # norms and biases too: all begin as ones and zeros
            parameter.add_(0.1 * torch.randn_like(parameter))
    whole = copy.deepcopy(step)
    shard(step, step.model, mesh)
    ids = torch.randint(0, 61, (2, 9))
    losses = [part(ids) for part in (step, whole)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    expected = dict(whole.named_parameters())
    split = 0
    for name, parameter in step.named_parameters():
        split += any(placement.is_shard() for placement in parameter.placements[1:])
        torch.testing.assert_close(parameter.grad.full_tensor(), expected[name].grad, rtol=1e-4, atol=1e-6, msg=name)
    assert split >= 6, f"{split} parameters are split"


def one_process(rank, port, folder, kinds):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh(
        "cpu", (1, 2), mesh_dim_names=("data_parallel", "tensor_parallel")
    )
    for kind in kinds:
        try:
            difference(kind, mesh)
            found = ""
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if rank == 0:
            Path(folder, kind).write_text(found)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    context, port = multiprocessing.get_context("fork"), free_port()
    children = [context.Process(target=one_process, args=(rank, port, sys.argv[1], sys.argv[2:])) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        sys.exit(child.exitcode) if child.exitcode else None
