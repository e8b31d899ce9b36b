"""Local shards: what is read, how much stays open, and which damage is noticed before reading."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from recording import Recorder, trainer

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import Manifest, Shard, Split
from tst_lightning.data.reading import shards as shards_module
from tst_lightning.data.reading.shards import Shards, require_shards
from tst_lightning.data.shard_format import HEADER_BYTES, write_shard
from tst_lightning.errors import UserError


def write_split(folder: Path, contents: list[np.ndarray]) -> Split:
    names = [f"chunk-{number}.bin" for number in range(len(contents))]
    shards = tuple(
        Shard(name, len(ids), 1, write_shard(folder / name, ids)) for name, ids in zip(names, contents, strict=True)
    )
    return Split(len(contents), 1, sum(map(len, contents)), shards)


def maps_of(folder: Path) -> set[str]:
    """The files of a folder that this process has mapped, according to the system."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if str(folder) in line}


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_any_span_is_read_as_it_was_written(tmp_path: Path, dtype: str) -> None:
    generator = np.random.default_rng(0)
    contents = [generator.integers(0, 60_000, length).astype(dtype) for length in (1, 1000, 17, 400)]
    split = write_split(tmp_path, contents)
    require_shards(tmp_path, split, dtype)
    shards = Shards(str(tmp_path), split.shards, dtype, 60_000)
    for reader in (shards, pickle.loads(pickle.dumps(shards))):
        for number, ids in enumerate(contents):
            for _ in range(20):
                first, end = sorted(generator.integers(0, len(ids) + 1, 2).tolist())
                read = reader.tokens(number, first, end - first)
                assert read.dtype == dtype
                assert read.tolist() == ids[first:end].tolist()


def test_maps_are_lazy_bounded_and_stay_behind_when_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "MAX_OPEN_SHARDS", 3)
    split = write_split(tmp_path, [np.full(5000, number, np.uint16) for number in range(6)])
    shards = Shards(str(tmp_path), split.shards, "uint16", 6)
    assert not maps_of(tmp_path)
    held = shards.tokens(0, 10, 4)
    for number in (1, 2, 3, 1, 4):  # 1 is used once more and so outlasts 2
        shards.tokens(number, 0, 1)
    copied = len(pickle.dumps(shards))
    assert copied < 5000
    assert maps_of(tmp_path) == {str(tmp_path / f"chunk-{number}.bin") for number in (0, 3, 1, 4)}
    assert held.tolist() == [0] * 4
    del held
    assert len(maps_of(tmp_path)) == 3


def test_tokens_cannot_be_written_to(prepared_dir: Path) -> None:
    manifest = Manifest.load(prepared_dir)
    shards = Shards(str(prepared_dir / "train"), manifest.train.shards, manifest.token_dtype, 257)
    with pytest.raises(ValueError, match="read-only"):
        shards.tokens(0, 0, 1)[0] = 1


@pytest.mark.parametrize(("dtype", "wrong"), [("uint16", 300), ("int32", 257), ("int32", -1)])
def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path, dtype: str, wrong: int) -> None:
    ids = np.full(20, 256, dtype)
    ids[[13, 17]] = wrong
    shards = Shards(str(tmp_path), write_split(tmp_path, [ids]).shards, dtype, 257)
    assert shards.tokens(0, 3, 10).tolist() == [256] * 10
    message = f"chunk-0.bin' holds token {wrong} at position 13, the vocabulary has 257: .*`tst-lightning verify`"
    with pytest.raises(UserError, match=message):
        shards.tokens(0, 10, 10)


def test_ids_beyond_the_vocabulary_end_a_run_that_compares_no_checksums(prepared_dir: Path, tmp_path: Path) -> None:
    shard = Manifest.load(prepared_dir).train.shards[2]
    path = prepared_dir / "train" / shard.file
    ids = np.fromfile(path, "<u2")
    ids[HEADER_BYTES // 2 :] += 300
    ids.tofile(path)
    module, data = Recorder(), TokenDataModule(str(prepared_dir), 16, 4, num_workers=0, verify_shards="none")
    with pytest.raises(UserError, match=rf"'{path}' holds token \d+ at position [\d,]+, the vocabulary has 257"):
        trainer(tmp_path, 100).fit(module, data)


def test_all_damage_is_reported_at_once(prepared_dir: Path) -> None:
    folder, manifest = prepared_dir / "train", Manifest.load(prepared_dir)
    require_shards(folder, manifest.train, manifest.token_dtype)
    first, second, third, fourth = (folder / shard.file for shard in manifest.train.shards)
    first.unlink()
    with open(second, "ab") as file:
        file.write(b"\0\0")
    with open(fourth, "r+b") as file:
        file.truncate(HEADER_BYTES + 1)
    message = (
        rf"lacks 1 of 4 shards, the first is '{first.name}' and holds 2 truncated or altered shards, the first is "
        rf"'{second.name}' with 48,260 bytes where the manifest gives 48,258: run `tst-lightning verify`"
    )
    with pytest.raises(UserError, match=message):
        require_shards(folder, manifest.train, manifest.token_dtype)
    assert third.exists()
