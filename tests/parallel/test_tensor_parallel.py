"""Each supported type of model, split over two processes, against its whole self."""

import sys
from pathlib import Path

import pytest
from parallel_runs import run_command

from tst_lightning.modeling.tensor_parallel import SUPPORTED


@pytest.mark.slow
def test_split_models_are_the_whole_ones(tmp_path):
    """Loss, and the gradient of every parameter."""
    run_command([sys.executable, str(Path(__file__).with_name("split_models.py")), str(tmp_path), *SUPPORTED])
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == dict.fromkeys(SUPPORTED, "")
