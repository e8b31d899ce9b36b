"""Two ranks whose data or loss fails: every process ends, soon, and says why; or reads on where that is possible."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from faulty_storage import FaultyStorage
from object_storage import upload_folder
from pseudo_corpus import pseudo_text_tokens, write_prepared

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.storage import ObjectStorage

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 240
STEPS = 400
"""Almost one pass: each rank reads three of the six shards, one after the other."""


class Ended(NamedTuple):
    status: int
    errors: list[str]
    """Of the command, from whichever process."""
    output: str


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    train, validation = ([pseudo_text_tokens(20_000, seed) for seed in range(*ends)] for ends in ((0, 6), (6, 7)))
    return write_prepared(tmp_path_factory.mktemp("corpus") / "prepared", train, validation)


def write_config(folder: Path, data_dir: str, callbacks: tuple[dict, ...] = (), **data) -> Path:
    sizes = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": 256}
    read = {"sequence_length": 32, "batch_size": 4, "num_workers": 1, "streams": 2, "shuffle_shards": 1}
    checkpoint = {"class_path": "callbacks.StepCheckpoint", "init_args": {"every_n_steps": 10}}
    values = {
        "model": {"config": {"class_path": "transformers.LlamaConfig", "init_args": sizes}},
        "data": {"data_dir": data_dir, "cache_dir": str(folder / "cache"), **read, **data},
        "trainer": {
            "accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_steps": STEPS, "max_epochs": -1,
            "check_val_every_n_epoch": None, "val_check_interval": 200, "num_sanity_val_steps": 0,
            "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
            "default_root_dir": str(folder / "run"),
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger",
                       "init_args": {"save_dir": str(folder / "run"), "name": "", "version": ""}},
            "callbacks": [checkpoint, {"class_path": "callbacks.LossGuard"}, *callbacks],
        },
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def fit(config: Path) -> Ended:
    """Start both ranks, wait for their end, and see that no process of theirs is left."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tst_lightning.cli", "fit", "--config", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "COLUMNS": "1000"}
    with open(config.with_suffix(".log"), "w+") as log:
        child = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=log)
        try:
            status = child.wait(LIMIT_SECONDS)
            wait_for_the_last_of(child.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        log.seek(0)
        output = log.read()
    return Ended(status, re.findall(r"^error: .*", output, re.MULTILINE), output)


def wait_for_the_last_of(group: int) -> None:
    """Workers of a process that was killed notice within some seconds."""
    deadline = time.monotonic() + 30
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.2)


def losses(folder: Path) -> dict[int, str]:
    with open(folder / "run" / "metrics.csv") as file:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def local_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit from the local folder."""
    folder = tmp_path_factory.mktemp("local")
    ended = fit(write_config(folder, str(corpus)))
    assert ended.status == 0, ended.output
    return folder


def test_the_same_run_from_object_storage_through_interruptions(
    corpus: Path, local_run: Path, bucket_url: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for half of the shards; the store fails in every way while the second shards are fetched."""
    url = upload_folder(corpus, f"{bucket_url}/corpus")
    faults = ["", "", "503", "drop", "cut", "refuse", "", "503", "drop"]
    with FaultyStorage(s3_server, faults, refused_seconds=5) as storage:
        monkeypatch.setenv("AWS_ENDPOINT_URL", storage.url)
        ended = fit(write_config(tmp_path / "remote", url, cache_bytes=250_000))
    assert ended.status == 0, ended.output
    assert storage.failed == [fault for fault in faults if fault]
    assert losses(tmp_path / "remote") == losses(local_run)
    assert len(losses(local_run)) == STEPS
    same = weights(local_run)
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights(tmp_path / "remote").items())


def test_a_missing_shard_ends_all_ranks_with_one_error(corpus: Path, bucket_url: str, tmp_path: Path) -> None:
    url = upload_folder(corpus, f"{bucket_url}/corpus")
    for rank in (0, 1):
        shard = last_shard_of(corpus, rank)
        ObjectStorage(url).delete(f"train/{shard}")
        ended = fit(write_config(tmp_path / f"rank{rank}", url))
        assert ended.status != 0
        assert len(ended.errors) == 1, ended.output
        assert f"'{url}/train' lacks '{shard}', which its manifest lists: upload it, or prepare" in ended.errors[0]
        ObjectStorage(url).put(corpus / "train" / shard, f"train/{shard}")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_damaged_shard_ends_all_ranks_with_one_error(corpus: Path, tmp_path: Path, rank: int) -> None:
    damaged = Path(shutil.copytree(corpus, tmp_path / "damaged"))
    path = damaged / "train" / last_shard_of(corpus, rank)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    ended = fit(write_config(tmp_path / "fit", str(damaged), verify_shards="first_read"))
    assert ended.status != 0
    assert len(ended.errors) == 1, ended.output
    assert f"'{path}' is not the shard that its manifest lists" in ended.errors[0]


def test_a_loss_that_is_no_number_ends_all_ranks_with_the_same_message(corpus: Path, tmp_path: Path) -> None:
    bad = {"class_path": "faulty_callbacks.BadLoss", "init_args": {"micro": 25, "rank": 1}}
    ended = fit(write_config(tmp_path / "fit", str(corpus), (bad,)))
    assert ended.status != 0
    assert len(ended.errors) == 1, ended.output
    for part in ("loss is nan at step 25, in micro-batch 25 of the run, rank 1;", "checkpoints/last.ckpt'"):
        assert part in ended.errors[0]
    saved = torch.load(tmp_path / "fit" / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 20


def last_shard_of(corpus: Path, rank: int) -> str:
    """The file that a rank reads last, from the plan."""
    plan = TokenDataModule(str(corpus), 32, 4, streams=2, shuffle_shards=1).plan_of(accumulate=1, world_size=2)
    ((span,),) = plan.batch(STEPS - 1, rank)[:1]
    return Manifest.load(corpus).train.shards[span.shard].file
