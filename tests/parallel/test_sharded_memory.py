"""No process takes the memory of the whole model to build its share of it and to save it."""

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
