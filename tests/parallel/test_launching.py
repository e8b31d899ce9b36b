"""How processes are started: by Lightning itself, and by torchrun on two "machines"."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from forked_fits import free_port
from parallel_runs import (
    Fit,
    Run,
    assert_reads_what_one_does,
    assert_trains_what_one_does,
    fit_all,
    fit_config,
    run_command,
)


def written(folder, prepared_dir, strategy, **values):
    folder.mkdir()
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(fit_config(folder, prepared_dir, 2, strategy, **values)))
    return path


@pytest.mark.slow
def test_lightning_and_torchrun_start_the_same_run(prepared_dir, tmp_path):
    config = written(tmp_path / "lightning", prepared_dir, "fsdp2")
    run_command([sys.executable, "-m", "tst_lightning.cli", "fit", "--config", str(config)])

    config = written(tmp_path / "torchrun", prepared_dir, "ddp", trainer={"devices": 1, "num_nodes": 2})
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id"]
    command += ["mine", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command += ["--local-addr", "127.0.0.1", "-m", "tst_lightning.cli", "fit", "--config", str(config)]
    with ThreadPoolExecutor(2) as machines:
        list(machines.map(run_command, [command, command]))

    (one,) = fit_all(prepared_dir, Fit(tmp_path / "one"))
    for name in ("lightning", "torchrun"):
        run = Run(tmp_path / name, 2)
        assert_reads_what_one_does(run, one)
        assert_trains_what_one_does(run, one)
