"""Damage of a local corpus: found before a batch is made of it, whichever process reads, and remembered cheaply."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from pseudo_corpus import pseudo_text_tokens, write_prepared
from recording import Recorder, fit, trainer

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import FILE_NAME, Manifest
from tst_lightning.data.reading import checksums
from tst_lightning.data.reading.checksums import ShardChecksums, shards_of_run
from tst_lightning.data.shard_format import HEADER_BYTES
from tst_lightning.errors import UserError

STEPS = 80
"""Micro-batches of 64 rows that make almost one pass over the corpus."""


def flip(path: Path, position: int) -> None:
    """Change the lowest bit of one byte; size and time of change stay."""
    status = os.stat(path)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def make_data(folder: Path, **options) -> TokenDataModule:
    return TokenDataModule(str(folder), 16, 64, **{"num_workers": 0, "validation_windows": 10, "seed": 3} | options)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("byte", [HEADER_BYTES, -2])
def test_no_batch_is_made_of_a_shard_with_a_flipped_bit(
    prepared_dir: Path, tmp_path: Path, num_workers: int, byte: int
) -> None:
    """The flipped id is one of the vocabulary, so nothing but the checksum can tell."""
    listed = Manifest.load(prepared_dir).train.shards
    path = prepared_dir / "train" / listed[0].file
    flip(path, byte % path.stat().st_size)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    whole = fit(make_data(prepared_dir, shuffle_shards=1, verify_shards="none"), trainer(tmp_path, STEPS))
    module, data = Recorder(), make_data(prepared_dir, shuffle_shards=1, num_workers=num_workers)
    data.verify_shards = data._patrol.mode = "first_read"
    with pytest.raises(UserError) as refused:
        trainer(tmp_path, STEPS).fit(module, data)
    message = str(refused.value)
    for part in (f"'{path}' is not", f"sha256 {found}", f"expected {listed[0].sha256}", "`tst-lightning verify`"):
        assert part in message
    # Everything before the damaged shard's turn is trained on, and nothing of it.
    first = next(micro for micro in range(STEPS) if any(row[0].shard == 0 for row in data.plan.batch(micro, 0)))
    assert 0 < first == len(module.rows)
    assert all(module.rows[micro] == whole.rows[micro] for micro in module.rows)


@pytest.fixture
def read(prepared_dir: Path, tmp_path: Path) -> list[int]:
    """The training shards of a run in the order of their first use, from its plan, micro-batch by micro-batch."""
    data = make_data(prepared_dir, shuffle_shards=1)
    trainer(tmp_path, 1).fit(Recorder(), data)
    return list(dict.fromkeys(row[0].shard for micro in range(STEPS) for row in data.plan.batch(micro, 0)))


class WaitForPatrol(Recorder):
    def on_train_batch_end(self, *arguments) -> None:
        self.trainer.datamodule._patrol._thread.join(30)


def test_the_patrol_ends_a_run_long_before_the_shards_turn(prepared_dir: Path, tmp_path: Path, read: list[int]) -> None:
    path = prepared_dir / "train" / Manifest.load(prepared_dir).train.shards[read[-1]].file
    flip(path, 1000)
    data = make_data(prepared_dir, shuffle_shards=1)
    module = WaitForPatrol()
    with pytest.raises(UserError, match=rf"'{path}' is not the shard that its manifest lists"):
        trainer(tmp_path, STEPS).fit(module, data)
    assert len(module.rows) == 1


def test_what_ends_the_patrol_itself_is_not_lost(
    prepared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list of shards is made in the thread too: a refusal there ends the run, anything else is warned of."""

    def broken(error: Exception):
        yield from ()
        raise error

    monkeypatch.setattr(checksums, "shards_of_run", lambda data: broken(UserError("no such corpus")))
    module = WaitForPatrol()
    with pytest.raises(UserError, match="no such corpus"):
        trainer(tmp_path, STEPS).fit(module, make_data(prepared_dir))
    assert len(module.rows) <= 1
    monkeypatch.setattr(checksums, "shards_of_run", lambda data: broken(KeyError("plan")))
    module = WaitForPatrol()
    with pytest.warns(UserWarning, match=r"verify_shards=background has ended early \(KeyError: 'plan'\)"):
        trainer(tmp_path, 3).fit(module, make_data(prepared_dir))
    assert len(module.rows) == 3


def test_the_patrol_goes_through_the_shards_in_the_order_of_the_run(
    prepared_dir: Path, tmp_path: Path, read: list[int]
) -> None:
    manifest = Manifest.load(prepared_dir)
    data, looked = make_data(prepared_dir, shuffle_shards=1), []

    class Look(Recorder):
        def on_train_start(self) -> None:
            looked.extend(shards_of_run(data))

    trainer(tmp_path, STEPS).fit(Look(), data)
    expected = [("validation", shard) for shard in manifest.validation.shards]
    expected += [("train", manifest.train.shards[shard]) for shard in read]
    assert sorted(read) == [0, 1, 2, 3]
    assert looked == [(prepared_dir / name / shard.file, shard) for name, shard in expected]


def test_a_shard_is_hashed_once_by_all_processes_and_again_after_a_change(
    prepared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    compare = checksums._compare
    monkeypatch.setattr(checksums, "REMEMBERED_BYTES", 1000)
    monkeypatch.setattr(checksums, "_compare", lambda path, shard: (hashed.append(path.name), compare(path, shard)))
    shard = Manifest.load(prepared_dir).train.shards[0]
    path = prepared_dir / "train" / shard.file
    first = ShardChecksums(tmp_path / "cache")
    for process in (first, first, pickle.loads(pickle.dumps(first)), ShardChecksums(tmp_path / "cache")):
        process.require(path, shard)
    assert hashed == [shard.file]
    copy = Path(shutil.copytree(prepared_dir, tmp_path / "copy")) / "train" / shard.file
    first.require(copy, shard)
    os.utime(path, (1, 1))
    first.require(path, shard)
    assert len(hashed) == 3
    flip(path, 500)
    os.utime(path, (2, 2))
    for process in (first, ShardChecksums(tmp_path / "cache")):
        with pytest.raises(UserError, match="is not the shard"):
            process.require(path, shard)
    assert len(hashed) == 5


def test_where_nothing_can_be_remembered_shards_are_compared_all_the_same(
    prepared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "REMEMBERED_BYTES", 1000)
    (tmp_path / "file").write_text("")
    shard = Manifest.load(prepared_dir).train.shards[0]
    path = prepared_dir / "train" / shard.file
    ShardChecksums(tmp_path / "file").require(path, shard)
    flip(path, 500)
    with pytest.raises(UserError, match="is not the shard"):
        ShardChecksums(tmp_path / "file").require(path, shard)


def other_corpus(folder: Path, like: Manifest) -> Path:
    """Another text in shards of the same names and sizes."""
    splits = (
        [pseudo_text_tokens(tokens, seed + 50) for seed, tokens in enumerate(getattr(like, name).shard_tokens)]
        for name in ("train", "validation")
    )
    return write_prepared(folder, *splits)


def test_the_manifest_of_another_corpus_is_refused_before_the_start(prepared_dir: Path, tmp_path: Path) -> None:
    other = other_corpus(tmp_path / "other", Manifest.load(prepared_dir))
    shutil.copy(other / FILE_NAME, prepared_dir / FILE_NAME)
    module = Recorder()
    with pytest.raises(UserError, match=r"document_ends.u32' is not the file .* or manifest.json is another corpus'"):
        trainer(tmp_path, 10).fit(module, make_data(prepared_dir))
    # Its document ends copied as well, it is found at the first shard.
    for split in ("train", "validation"):
        shutil.copy(other / split / "document_ends.u32", prepared_dir / split)
    with pytest.raises(UserError, match=r"bin' is not the shard .* or manifest.json is another corpus'"):
        trainer(tmp_path, 10).fit(module, make_data(prepared_dir))
    assert not module.rows


def test_another_tokenizer_than_the_manifests_is_refused_before_the_start(prepared_dir: Path, tmp_path: Path) -> None:
    path = prepared_dir / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    with pytest.raises(UserError, match=r"tokenizer.json' is not the file that the manifest lists"):
        trainer(tmp_path, 10).fit(Recorder(), make_data(prepared_dir))


@pytest.mark.parametrize("change_bytes", [-2, 2])
def test_a_shard_of_another_size_is_refused_before_the_start(
    prepared_dir: Path, tmp_path: Path, change_bytes: int
) -> None:
    path = prepared_dir / "train" / Manifest.load(prepared_dir).train.shards[1].file
    os.truncate(path, path.stat().st_size + change_bytes)
    module = Recorder()
    with pytest.raises(UserError, match=rf"truncated or altered shards, the first is '{path.name}' with 48,2"):
        trainer(tmp_path, 10).fit(module, make_data(prepared_dir))
    assert not module.rows


def test_a_checkpoint_is_not_gone_on_from_with_another_corpus(prepared_dir: Path, tmp_path: Path) -> None:
    other = other_corpus(tmp_path / "other", Manifest.load(prepared_dir))
    fit(make_data(prepared_dir), trainer(tmp_path / "runs", 4, save_every=2))
    with pytest.raises(UserError, match=r"corpus: .*prepared' in the checkpoint, now .*other'\."):
        fit(make_data(other), trainer(tmp_path / "runs", 6), ckpt_path=tmp_path / "runs" / "step=2.ckpt")


def test_modes(prepared_dir: Path) -> None:
    with pytest.raises(UserError, match="verify_shards='always': choose background, first_read, none"):
        make_data(prepared_dir, verify_shards="always")
