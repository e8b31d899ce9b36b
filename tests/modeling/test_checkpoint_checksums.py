"""Flipped bytes in checkpoints are detected, wherever they lie, or change nothing that is read."""

import random
import warnings
import zipfile
from types import SimpleNamespace

import pytest
import torch
from runs import tiny_data, tiny_llama, tiny_module, tiny_trainer
from test_sharded_checkpoint import model_of, save, shard, weights_of

from tst_lightning import cli
from tst_lightning.errors import UserError
from tst_lightning.modeling.checked_resuming import CheckedResuming
from tst_lightning.modeling.checkpoint import load_model, read_checkpoint
from tst_lightning.modeling.checksums import require_intact_file
from tst_lightning.modeling.sharded_checkpoint import read_run, read_weights, require_intact, write_sums


def flip(file, position, bit=0):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def middle_of(path):
    """A byte of the longest tensor."""
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda record: record.file_size)
        return path.read_bytes().index(archive.read(record)) + record.file_size // 2


def positions(file, count):
    """Bytes and bits all over a file, the same at each run of the tests."""
    choose = random.Random(file.name)
    return [(place, choose.randrange(8)) for place in choose.sample(range(file.stat().st_size), count)]


def read_as_before(read, expected):
    """False if ``read`` raises what a user gets as an error; it must not return anything else than ``expected``."""
    try:
        assert read() == expected
    except UserError:
        return False
    return True


def test_a_flipped_byte_of_a_file_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "last.ckpt"
    weights = {"a": torch.randn(8, 4), "b": torch.randn(30)}
    torch.save({"state_dict": weights, "global_step": 3, "hugging_face_config": {}}, path)

    def read():
        content = read_checkpoint(path)
        return (
            [value.tolist() for value in content["state_dict"].values()],
            [*content["state_dict"]],
            content["global_step"],
        )

    def checked():
        require_intact_file(path)
        return read()

    whole, expected = path.read_bytes(), read()
    with zipfile.ZipFile(path) as archive:
        records = [archive.read(record) for record in archive.infolist()]
    spans = [(start := whole.index(record), start + len(record)) for record in records]
    refused = 0
    for place, bit in positions(path, 150):
        flip(path, place, bit)
        passes = read_as_before(checked, expected)
        assert not (passes and any(start <= place < end for start, end in spans)), place
        refused += not passes
        path.write_bytes(whole)
    assert refused > 45
    require_intact_file(path)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_with_many_tensors_is_opened_once(tmp_path, monkeypatch, processes):
    """To open it is to parse its table of contents, which is as long as there are tensors."""
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"{number}": torch.zeros(3) for number in range(20)}}, path)
    opened, read = [], []

    class Archive(zipfile.ZipFile):
        def __init__(self, *arguments):
            opened.append(self)
            super().__init__(*arguments)

        def open(self, record):
            read.append(getattr(record, "filename", record))
            return super().open(record)

    monkeypatch.setattr(zipfile, "ZipFile", Archive)
    for process in range(processes):
        require_intact_file(path, process, processes)
    assert len(opened) == processes
    assert sorted(read) == sorted(opened[0].namelist())
    assert len(read) > 20


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "meta.pt"])
def test_a_flipped_byte_of_a_folder_is_refused_or_changes_nothing(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(model_of(), tmp_path / "last.ckpt", extra=torch.arange(5))
    write_sums(path)
    file = path / name

    def read():
        require_intact(path)
        weights = {key: value.tolist() for key, value in read_weights(path, "").items()}
        return weights, str(read_run(path))

    whole, expected = file.read_bytes(), read()
    passed = 0
    for place, bit in positions(file, 8):
        flip(file, place, bit)
        passed += read_as_before(read, expected)
        file.write_bytes(whole)
    assert passed < (1 if name == ".metadata" else 6)


def test_one_process_of_several_finds_it_in_its_share(tmp_path):
    path = save(model_of(), tmp_path / "last.ckpt")
    file = tmp_path / "file.ckpt"
    torch.save({"state_dict": weights_of(model_of())}, file)
    for checkpoint, damaged in ((path, shard(path)), (file, file)):
        whole = damaged.read_bytes()
        places = [len(whole) // 3, middle_of(file)] if damaged is file else [len(whole) // 3, 2 * len(whole) // 3]
        for place in places:
            flip(damaged, place)
            for processes in (1, 2, 3, 7):
                found = [not intact(checkpoint, process, processes) for process in range(processes)]
                assert sum(found) == 1, (place, found)
            damaged.write_bytes(whole)


def intact(path, process, processes):
    try:
        (require_intact if path.is_dir() else require_intact_file)(path, process=process, processes=processes)
    except UserError:
        return False
    return True


def test_only_what_is_read_is_compared(tmp_path):
    path = save(model_of(), tmp_path / "last.ckpt")
    flip(shard(path), shard(path).stat().st_size - 200_000)  # the optimizer's state lies behind the weights
    read_weights(path, "")
    with pytest.raises(UserError, match=r"is damaged \('optimizer_0\.state.* in __0_0\.distcp from byte \d+ on is not"):
        require_intact(path)


def test_folders_of_older_releases_have_no_sums(tmp_path):
    path = save(model_of(), tmp_path / "last.ckpt")
    require_intact(path)
    assert read_weights(path, "heads.").keys() == {"heads.up"}
    write_sums(path)
    require_intact(path)
    (path / "SHA256SUMS").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"\.metadata is not what was written"):
        require_intact(path)


@pytest.fixture
def damaged(prepared_dir, tmp_path):
    """The checkpoint of a run, with a flipped byte in its longest tensor."""
    trainer = tiny_trainer(tmp_path / "run", 2, save_every=2)
    trainer.fit(tiny_module(), tiny_data(prepared_dir))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    flip(path, middle_of(path))
    return path


def test_each_command_refuses_a_damaged_checkpoint(damaged, prepared_dir, tmp_path, capsys):
    arguments = ["--model.config", "transformers.LlamaConfig", "--data.data_dir", str(prepared_dir)]
    for name, value in tiny_llama().to_diff_dict().items():
        if isinstance(value, int) and name not in ("transformers_version",):
            arguments += [f"--model.config.{name}", str(value)]
    arguments += [
        "--data.sequence_length=16",
        "--data.batch_size=4",
        "--data.num_workers=0",
        "--ckpt_path",
        str(damaged),
    ]
    arguments += ["--trainer.accelerator=cpu", "--trainer.default_root_dir", str(tmp_path / "again")]
    commands = {
        "fit": [*arguments, "--trainer.max_steps=4"],
        "validate": arguments,
        "export": ["--ckpt_path", str(damaged), "--output_dir", str(tmp_path / "out")],
    }
    for command, options in commands.items():
        assert cli.main([command, *options]) == 2, command
        said = capsys.readouterr().err
        assert f"the checkpoint '{damaged}' is damaged" in said, (command, said)
        assert "give another checkpoint of its folder" in said
    assert not (tmp_path / "out").exists()
    assert read_checkpoint(damaged)["global_step"] == 2
    with pytest.raises(UserError, match="is damaged"):
        load_model(damaged)


def test_a_trainer_refuses_it_before_it_is_loaded(damaged, prepared_dir, tmp_path):
    module = tiny_module()
    trainer = tiny_trainer(tmp_path / "again", 4, [CheckedResuming(str(damaged))])
    with pytest.raises(UserError, match=r"is damaged \('.*data/\d+' from byte \d+ on is not what was written"):
        trainer.fit(module, tiny_data(prepared_dir), ckpt_path=str(damaged))
    assert trainer.global_step == 0


class SecondOfTwo:
    """A strategy, in whose other process all is well."""

    world_size, global_rank, root_device, met = 2, 1, torch.device("cpu"), False

    def reduce(self, failed, reduce_op):
        self.met = True
        return failed

    def broadcast(self, said, src):
        assert src == self.global_rank
        return said


@pytest.mark.parametrize("error", [MemoryError("none is left"), AttributeError("storage_data"), RuntimeError("torn")])
def test_whatever_fails_in_one_process_leaves_no_other_waiting(tmp_path, monkeypatch, error):
    path = save(model_of(), tmp_path / "last.ckpt")

    def fail(*_):
        raise error

    monkeypatch.setattr("tst_lightning.modeling.sharded_checkpoint.read_layout", fail)
    process = SecondOfTwo()
    trainer = SimpleNamespace(strategy=process, global_rank=1, world_size=2)
    with pytest.raises(UserError, match=rf"cannot be compared with its checksums \({type(error).__name__}: .*earlier"):
        CheckedResuming(str(path)).setup(trainer, None, "fit")
    assert process.met
