"""Object storage that is away for a while, or has lost a shard: read on, or one clear error."""

import time
from pathlib import Path

import pytest
from faulty_storage import FaultyStorage
from object_storage import upload_folder

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.reading import cache
from tst_lightning.data.reading.cache import ShardCache
from tst_lightning.data.reading.shards import Shards
from tst_lightning.data.storage import ObjectStorage
from tst_lightning.errors import UserError


def remote_and_local(prepared_dir: Path, url: str, folder: Path) -> tuple[Shards, Shards]:
    manifest = Manifest.load(prepared_dir)
    listed = manifest.train.shards, manifest.token_dtype, manifest.tokenizer.vocab_size
    return Shards(f"{url}/train", *listed, ShardCache(folder, 10**9)), Shards(str(prepared_dir / "train"), *listed)


@pytest.mark.parametrize("faults", [["503", "503"], ["drop", "drop"], ["cut", "", "cut"], ["refuse", "", "503"]])
def test_reading_goes_on_after_an_interruption(
    prepared_dir: Path, bucket_url: str, s3_server: str, tmp_path: Path, monkeypatch, faults: list[str]
) -> None:
    url = upload_folder(prepared_dir, f"{bucket_url}/corpus")
    with FaultyStorage(s3_server, faults, refused_seconds=0.5) as storage:
        monkeypatch.setenv("AWS_ENDPOINT_URL", storage.url)
        remote, local = remote_and_local(prepared_dir, url, tmp_path)
        for shard in range(4):
            assert remote.tokens(shard, 100, 500).tolist() == local.tokens(shard, 100, 500).tolist()
    assert storage.failed == [fault for fault in faults if fault]


def test_a_missing_shard_is_looked_for_again(
    prepared_dir: Path, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some stores tell of a new object only after a while."""
    url = upload_folder(prepared_dir, f"{bucket_url}/corpus")
    remote, local = remote_and_local(prepared_dir, url, tmp_path)
    storage, file = ObjectStorage(f"{url}/train"), remote.shards[1].file
    storage.delete(file)
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2 and put_back:
            storage.put(prepared_dir / "train" / file, file)

    monkeypatch.setattr(cache.time, "sleep", wait)
    put_back = False
    with pytest.raises(UserError, match=rf"'{url}/train' lacks '{file}', which its manifest lists: upload it"):
        remote.tokens(1, 0, 5)
    assert waited == list(cache.MISSING_WAITS_SECONDS)
    waited.clear()
    put_back = True
    assert remote.tokens(1, 0, 5).tolist() == local.tokens(1, 0, 5).tolist()
    assert time.sleep is wait
