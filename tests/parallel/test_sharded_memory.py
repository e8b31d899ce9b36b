"""No process takes the memory of the whole model to build its share of it and to save it."""

import json
import re
import sys
from pathlib import Path

import pytest
from parallel_runs import run_command

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "sharded_memory.py"


@pytest.mark.slow
def test_two_processes_build_and_save_a_mixture_with_less_memory_than_its_weights(tmp_path):
    """The benchmark, with 1.1 GB of weights: half of them are a process', and something for a layer at a time."""
    said = run_command([sys.executable, str(BENCHMARK), "--steps", "0"])
    (share,) = re.findall(r"none of them above ([\d.]+) of the weights", said)
    assert 0.5 <= float(share) <= 0.9, said
    assert "every process builds the whole" not in said


@pytest.mark.slow
def test_two_processes_share_a_model_of_files_without_holding_it(tmp_path):
    """Half of 1.1 GB each, and what one parameter is made of."""
    said = run_command([sys.executable, str(Path(__file__).with_name("pretrained_memory.py")), str(tmp_path)])
    assert "loads the whole of" not in said
    for rank in range(2):
        measured = json.loads((tmp_path / f"{rank}.json").read_text())
        assert measured["weights"] > 1e9
        assert 0.5 <= measured["highest"] / measured["weights"] <= 0.75, measured
