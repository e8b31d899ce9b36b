from functools import partial

import pytest
import torch

from tst_lightning.errors import UserError
from tst_lightning.run_options import require_optimizer


@pytest.mark.parametrize(
    "options",
    [
        {"fused": True, "foreach": True},  # a RuntimeError of torch
        {"lr": -1.0},  # a ValueError
        {"momentum": 0.9},  # a TypeError
    ],
)
def test_options_that_the_optimizer_refuses(options: dict) -> None:
    with pytest.raises(UserError, match=r"model.optimizer refuses its options: .*(fused|learning rate|momentum)"):
        require_optimizer(partial(torch.optim.AdamW, **options))


def test_options_that_it_takes() -> None:
    require_optimizer(partial(torch.optim.AdamW, lr=1e-3, fused=True))
