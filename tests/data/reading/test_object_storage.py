"""Shards in object storage through the cache: what is read, how much is kept, and what damage does."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from object_storage import upload_folder
from recording import fit, trainer
from torch.utils.data import DataLoader, Dataset

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import Shard
from tst_lightning.data.reading.cache import ShardCache
from tst_lightning.data.reading.shards import Shards
from tst_lightning.data.shard_format import shard_bytes, write_shard
from tst_lightning.data.storage import ObjectStorage, locked
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

TOKENS = 5000
SHARDS = 12
SHARD_BYTES = shard_bytes(TOKENS, "uint16")
LocalSplit = tuple[Path, tuple[Shard, ...]]


class Folder:
    """A local folder that stands for a bucket, and counts what is fetched from it."""

    def __init__(self, folder: Path, seconds: float = 0) -> None:
        self.url = f"folder://{folder}"
        self.folder = folder
        self.seconds = seconds
        self.fetched: list[str] = []

    def download(self, name: str, local: Path) -> None:
        self.fetched.append(name)
        data = (self.folder / name).read_bytes()
        local.write_bytes(data[: len(data) // 2])
        time.sleep(self.seconds)
        local.write_bytes(data)


@pytest.fixture
def split(tmp_path: Path) -> LocalSplit:
    """A folder of shards with random ids, and their entries in the manifest."""
    folder = tmp_path / "split"
    folder.mkdir()
    generator = np.random.default_rng(0)
    shards = []
    for number in range(SHARDS):
        ids = generator.integers(0, 1 << 16, TOKENS - 100 * number).astype(np.uint16)
        name = f"chunk-{number}.bin"
        shards.append(Shard(name, len(ids), 1, write_shard(folder / name, ids)))
    return folder, tuple(shards)


class Spans(Dataset):
    """Random spans by number, as they are read through ``shards``."""

    def __init__(self, shards: Shards, spans: list[tuple[int, int, int]]) -> None:
        self.shards = shards
        self.spans = spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.shards.tokens(*self.spans[number]).astype(np.int32))


def random_spans(shards: tuple[Shard, ...], count: int, seed: int) -> list[tuple[int, int, int]]:
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, len(shards), count).tolist()
    return [(number, int(generator.integers(0, shards[number].tokens - 50)), 50) for number in numbers]


def hammer(remote: Shards, local: Shards, spans: list[tuple[int, int, int]]) -> bool:
    """Whether every span is the same through both."""
    return all(np.array_equal(remote.tokens(*span), local.tokens(*span)) for span in spans)


class DiskUse:
    """Watches a cache's folder in a thread; ``most_bytes`` is the most that it ever held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most_bytes = self.looks = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "DiskUse":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.0005):
            # Without the lock a file could be counted under its old and its new name.
            with locked(self.folder / ".lock"):
                used_bytes = sum(entry.stat().st_size for entry in os.scandir(self.folder))
            self.most_bytes = max(self.most_bytes, used_bytes)
            self.looks += 1


@pytest.mark.parametrize("repeat", range(3))
def test_loader_workers_read_what_was_uploaded_within_the_limit(
    split: LocalSplit, bucket_url: str, tmp_path: Path, repeat: int
) -> None:
    folder, shards = split
    cache = ShardCache(tmp_path / "cache", 3 * SHARD_BYTES)
    remote = Shards(upload_folder(folder, f"{bucket_url}/train"), shards, "uint16", 65_536, cache)
    local = Shards(str(folder), shards, "uint16", 65_536)
    spans = random_spans(shards, 150, seed=repeat)
    loader = DataLoader(Spans(remote, spans), batch_size=None, num_workers=2, timeout=60)
    with DiskUse(cache.folder) as disk:
        for span, read in zip(spans, loader, strict=True):
            assert read.tolist() == local.tokens(*span).tolist()
    assert disk.looks > 10
    assert 2 * SHARD_BYTES < disk.most_bytes <= cache.max_bytes
    assert not list(cache.folder.glob("*.partial"))


@pytest.mark.parametrize("repeat", range(3))
def test_processes_that_share_a_cache_do_not_disturb_each_other(
    split: LocalSplit, bucket_url: str, tmp_path: Path, repeat: int
) -> None:
    folder, shards = split
    # Less room than four processes want at once: some have to wait for the downloads of others.
    cache = ShardCache(tmp_path / "cache", 3 * SHARD_BYTES)
    remote = Shards(upload_folder(folder, f"{bucket_url}/train"), shards, "uint16", 65_536, cache)
    local = Shards(str(folder), shards, "uint16", 65_536)
    work = [(remote, local, random_spans(shards, 60, seed=10 * repeat + process)) for process in range(4)]
    # Not a Pool, which ends its workers by a signal: one that holds a lock of the pool then leaves the others waiting.
    with DiskUse(cache.folder) as disk, ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as executor:
        assert all(executor.map(hammer, *zip(*work, strict=True), timeout=60))
    assert 2 * SHARD_BYTES < disk.most_bytes <= cache.max_bytes
    assert not list(cache.folder.glob("*.partial"))


def test_a_shard_is_fetched_once_whoever_asks(split: LocalSplit, tmp_path: Path) -> None:
    folder, shards = split
    storage = Folder(folder, seconds=0.05)
    cache = ShardCache(tmp_path, 100 * SHARD_BYTES)
    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(cache.map, storage, shard, "uint16") for shard in shards[:2] for _ in range(3)]
        assert [len(read.result(timeout=30)) for read in reads] == [5000] * 3 + [4900] * 3
    assert sorted(storage.fetched) == ["chunk-0.bin", "chunk-1.bin"]


def test_a_cache_of_one_shard_serves_many_readers_in_turn(split: LocalSplit, tmp_path: Path) -> None:
    folder, shards = split
    cache = ShardCache(tmp_path, SHARD_BYTES)
    with DiskUse(cache.folder) as disk, ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(cache.map, Folder(folder, 0.01), shard, "uint16") for shard in shards]
        maps = [read.result(timeout=30) for read in reads]
    assert disk.most_bytes <= SHARD_BYTES
    # All but the last are evicted by now, and still mapped.
    assert len(list(cache.folder.glob("*.bin"))) == 1
    for shard, ids in zip(shards, maps, strict=True):
        assert ids.tobytes() == (folder / shard.file).read_bytes()[-2 * shard.tokens :]


def test_the_least_recently_opened_shard_is_evicted(split: LocalSplit, tmp_path: Path) -> None:
    folder, shards = split
    storage, cache = Folder(folder), ShardCache(tmp_path, 2 * SHARD_BYTES)
    for number in (0, 1, 0, 2, 0):
        cache.map(storage, shards[number], "uint16")
    assert storage.fetched == ["chunk-0.bin", "chunk-1.bin", "chunk-2.bin"]
    assert {path.stem for path in cache.folder.glob("*.bin")} == {shards[0].sha256, shards[2].sha256}


def test_a_cache_that_shrinks_is_emptied_to_its_new_size(split: LocalSplit, tmp_path: Path) -> None:
    folder, shards = split
    for shard in shards[:4]:
        ShardCache(tmp_path, 4 * SHARD_BYTES).map(Folder(folder), shard, "uint16")
    cache = ShardCache(tmp_path, 2 * SHARD_BYTES)
    cache.map(Folder(folder), shards[4], "uint16")
    assert {path.stem for path in cache.folder.glob("*.bin")} == {shards[3].sha256, shards[4].sha256}


@pytest.mark.parametrize("next_shard", [0, 1])
def test_what_a_killed_download_leaves_is_never_read(split: LocalSplit, tmp_path: Path, next_shard: int) -> None:
    """Taken over by whoever wants the same shard, removed by whoever wants another."""
    folder, shards = split
    cache = ShardCache(tmp_path / "cache", SHARD_BYTES)
    process = multiprocessing.get_context("fork").Process(
        target=cache.map, args=(Folder(folder, seconds=60), shards[0], "uint16")
    )
    process.start()
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in cache.folder.glob("*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    ids = cache.map(Folder(folder), shards[next_shard], "uint16")
    assert ids.tobytes() == (folder / shards[next_shard].file).read_bytes()[-2 * shards[next_shard].tokens :]
    assert {path.name for path in cache.folder.iterdir()} == {".lock", f"{shards[next_shard].sha256}.bin"}


def test_a_shortened_file_in_the_cache_is_fetched_again(split: LocalSplit, tmp_path: Path) -> None:
    folder, shards = split
    storage, cache = Folder(folder), ShardCache(tmp_path, SHARD_BYTES)
    cache.map(storage, shards[0], "uint16")
    os.truncate(cache.folder / f"{shards[0].sha256}.bin", 100)
    assert len(cache.map(storage, shards[0], "uint16")) == TOKENS
    assert len(storage.fetched) == 2


def test_damaged_and_missing_objects(split: LocalSplit, bucket_url: str, tmp_path: Path) -> None:
    folder, shards = split
    storage = ObjectStorage(upload_folder(folder, f"{bucket_url}/train"))
    shard = shards[5]
    remote = Shards(storage.url, shards, "uint16", 65_536, ShardCache(tmp_path / "cache", 3 * SHARD_BYTES))
    content, damaged = (folder / shard.file).read_bytes(), tmp_path / "damaged"
    for altered in (content[:-10], content[:-1] + b"?", content + b"xx"):
        damaged.write_bytes(altered)
        storage.put(damaged, shard.file)
        message = rf"train/{shard.file}' is not the shard that .* \({len(altered):,} bytes where {len(content):,} are"
        with pytest.raises(UserError, match=message):
            remote.tokens(5, 0, 1)
    storage.delete(shard.file)
    with pytest.raises(UserError, match=rf"lacks '{shard.file}', which its manifest lists"):
        remote.tokens(5, 0, 1)
    assert [path.name for path in remote.cache.folder.iterdir()] == [".lock"]
    storage.put(folder / shard.file, shard.file)
    assert remote.tokens(5, 0, TOKENS).tobytes() == content[-2 * shard.tokens :]


def test_a_download_that_fails_once_is_repeated(
    split: LocalSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shards = split
    storage = Folder(folder)
    fetch = storage.download

    def short_at_first(name: str, local: Path) -> None:
        fetch(name, local)
        if len(storage.fetched) == 1:
            os.truncate(local, 99)

    storage.download = short_at_first
    assert len(ShardCache(tmp_path, SHARD_BYTES).map(storage, shards[0], "uint16")) == TOKENS
    assert len(storage.fetched) == 2


def test_a_cache_smaller_than_a_shard_is_refused_before_reading(split: LocalSplit, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", SHARD_BYTES - 1)
    with pytest.raises(UserError, match=r"may hold 10,011 bytes, and its largest shard 'chunk-0\.bin' has 10,012"):
        Shards("s3://bucket/train", split[1], "uint16", 65_536, cache)


def test_a_cache_that_cannot_be_written(split: LocalSplit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose a cache_dir on a writable disk"):
        ShardCache(tmp_path / "file", SHARD_BYTES).map(Folder(split[0]), split[1][0], "uint16")


def test_training_from_a_url_reads_the_same_batches(prepared_dir: Path, bucket_url: str, tmp_path: Path) -> None:
    url = upload_folder(prepared_dir, f"{bucket_url}/corpus")
    runs = []
    for data_dir in (str(prepared_dir), url):
        options = {"num_workers": 2, "validation_windows": 10, "shuffle_shards": 1}
        data = TokenDataModule(data_dir, 16, 4, cache_dir=str(tmp_path / "cache"), cache_bytes=130_000, **options)
        runs.append(fit(data, trainer(tmp_path, 300, Schedule.superposition(4, 150), val_check_interval=150)))
    local, remote = runs
    assert remote.rows == local.rows
    assert len(remote.rows) == 300
    assert len(remote.validation) == len(local.validation) > 0
    assert all(torch.equal(batch, same) for batch, same in zip(remote.validation, local.validation, strict=True))
    kept_bytes = sum(path.stat().st_size for path in (tmp_path / "cache" / "shards").iterdir())
    assert 60_000 < kept_bytes <= 130_000
