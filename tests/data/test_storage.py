"""Object storage against moto's S3, and what users are told when it cannot be used."""

import json
import multiprocessing
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from botocore.stub import Stubber
from object_storage import upload_folder

from tst_lightning.data.storage import ObjectStorage, is_remote, local_folder
from tst_lightning.errors import UserError


@pytest.fixture
def corpus_url(prepared_dir: Path, bucket_url: str) -> str:
    """The prepared corpus, uploaded."""
    return upload_folder(prepared_dir, f"{bucket_url}/some/corpus")


def small_files(folder: Path) -> dict[str, bytes]:
    """Contents of every file but the shards, by path."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".bin"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_an_object_is_written_replaced_read_and_deleted(bucket_url: str, tmp_path: Path) -> None:
    storage = pickle.loads(pickle.dumps(ObjectStorage(f"{bucket_url}/folder/")))
    file = tmp_path / "file"
    for content in (b"first", b"second and longer"):
        file.write_bytes(content)
        storage.put(file, "a/name")
        storage.put(file, "a/name.old")
        storage.get("a/name", tmp_path / "new" / "copy")
        assert (tmp_path / "new" / "copy").read_bytes() == content
    assert ObjectStorage(bucket_url).exists("folder/a/name")
    assert not ObjectStorage(bucket_url).exists("folder/a/na")
    for _ in range(2):  # also when it is gone already
        storage.delete("a/name")
    assert not storage.exists("a/name")
    assert storage.exists("a/name.old")


def test_a_missing_object_leaves_the_local_file_as_it_was(bucket_url: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(FileNotFoundError, match="nothing"):
        ObjectStorage(bucket_url).get("nothing", file)
    assert file.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_bucket_is_named(bucket_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    storage = ObjectStorage(f"{bucket_url}-other/path")
    calls = (
        lambda: storage.get("name", tmp_path / "copy"),
        lambda: storage.put(tmp_path / "file", "name"),
        lambda: storage.exists("name"),
        lambda: storage.delete("name"),
    )
    for call in calls:
        with pytest.raises(UserError, match=r"there is no bucket 'test-\w+-other'.* make the bucket"):
            call()


def test_missing_credentials(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match=r"no credentials.*set AWS_ACCESS_KEY_ID"):
        ObjectStorage(bucket_url).exists("name")


def test_an_unreachable_endpoint(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"check the network.*127\.0\.0\.1:9"):
        ObjectStorage(bucket_url, attempts=1).exists("name")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(UserError, match="correct AWS_ENDPOINT_URL"):
        ObjectStorage(bucket_url).exists("name")


def test_refusals_are_explained(bucket_url: str) -> None:
    storage = ObjectStorage(bucket_url)
    with Stubber(storage._open()._client) as stub:
        stub.add_client_error("delete_object", "AccessDenied", http_status_code=403)
        with pytest.raises(UserError, match=r"cannot delete 's3://.*/name' .*AccessDenied.* lack the permission"):
            storage.delete("name")
        stub.add_client_error("delete_object", "InternalError", http_status_code=500)
        with pytest.raises(UserError, match=r"InternalError.*try again later"):
            storage.delete("name")


@pytest.mark.parametrize("url", ["ftp://host/path", "s3:///path"])
def test_urls_that_are_no_object_storage(url: str) -> None:
    with pytest.raises(UserError, match="is no object storage: give s3://BUCKET/PATH"):
        ObjectStorage(url).exists("name")


def test_google_storage_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(UserError, match="pip install google-cloud-storage"):
        ObjectStorage("gs://bucket/path").exists("name")


def test_google_storage_as_far_as_a_stand_in_can_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class NotFound(Exception):
        pass

    class Blob:
        contents: ClassVar[dict[str, bytes]] = {}

        def __init__(self, key: str) -> None:
            self.key = key

        def upload_from_filename(self, name: str) -> None:
            self.contents[self.key] = Path(name).read_bytes()

        def download_to_filename(self, name: str) -> None:
            if self.key not in self.contents:
                raise NotFound("404: No such object")
            Path(name).write_bytes(self.contents[self.key])

        def exists(self) -> bool:
            return self.key in self.contents

        def delete(self) -> None:
            if self.contents.pop(self.key, None) is None:
                raise NotFound("404: The specified bucket does not exist." if "lost" in self.key else "404")

    modules = {
        "google.cloud.storage": {"Client": lambda: SimpleNamespace(bucket=lambda name: SimpleNamespace(blob=Blob))},
        "google.api_core.exceptions": {"NotFound": NotFound, "GoogleAPIError": OSError},
        "google.auth.exceptions": {"GoogleAuthError": OSError, "DefaultCredentialsError": OSError},
    }
    for name in ("google", "google.cloud", "google.api_core", "google.auth", *modules):
        module = ModuleType(name)
        vars(module).update(modules.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)

    storage = ObjectStorage("gs://bucket/path")
    (tmp_path / "file").write_bytes(b"content")
    storage.put(tmp_path / "file", "name")
    assert Blob.contents == {"path/name": b"content"}
    storage.get("name", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"
    storage.delete("name")
    storage.delete("name")
    assert not storage.exists("name")
    with pytest.raises(FileNotFoundError):
        storage.get("name", tmp_path / "copy")
    with pytest.raises(UserError, match="there is no bucket 'bucket'"):
        storage.delete("lost")


def test_what_is_remote() -> None:
    assert is_remote("s3://bucket/path")
    assert not is_remote(Path("data/s3"))


def test_a_local_corpus_is_used_where_it_is(prepared_dir: Path, tmp_path: Path) -> None:
    assert local_folder(prepared_dir, tmp_path / "cache") == prepared_dir
    assert not (tmp_path / "cache").exists()


def test_the_small_files_are_copied_once(
    corpus_url: str, prepared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = local_folder(corpus_url, tmp_path / "cache")
    assert small_files(folder) == small_files(prepared_dir)
    assert not list(folder.rglob("*.bin"))
    fetched: list[str] = []
    download = ObjectStorage.download

    def recorded(storage: ObjectStorage, name: str, local: Path) -> None:
        fetched.append(name)
        download(storage, name, local)

    monkeypatch.setattr(ObjectStorage, "download", recorded)
    assert local_folder(corpus_url + "/", tmp_path / "cache") == folder
    assert fetched == ["manifest.json"]


def test_a_changed_corpus_is_copied_anew(corpus_url: str, prepared_dir: Path, tmp_path: Path) -> None:
    before = local_folder(corpus_url, tmp_path)
    manifest = json.loads((prepared_dir / "manifest.json").read_text())
    manifest["options"] = {"source": "other"}
    (prepared_dir / "manifest.json").write_text(json.dumps(manifest))
    upload_folder(prepared_dir, corpus_url)
    after = local_folder(corpus_url, tmp_path)
    assert after != before
    assert small_files(after) == small_files(prepared_dir)


def test_several_processes_get_one_whole_copy(corpus_url: str, prepared_dir: Path, tmp_path: Path) -> None:
    leftover = local_folder(corpus_url, tmp_path)
    leftover.rename(leftover.with_name("partial-12345678"))  # as if killed before it was complete
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.starmap_async(local_folder, [(corpus_url, tmp_path)] * 3).get(timeout=60)
    assert set(folders) == {leftover}
    assert small_files(leftover) == small_files(prepared_dir)
    assert [path for path in leftover.parent.iterdir() if path.name != ".lock"] == [leftover]


def test_no_corpus_at_the_url(bucket_url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no prepared corpus at 's3://.*/empty'.*prepare --output_dir"):
        local_folder(f"{bucket_url}/empty", tmp_path)


def test_incomplete_and_altered_corpora(corpus_url: str, tmp_path: Path) -> None:
    storage = ObjectStorage(corpus_url)
    storage.put(Path(__file__), "tokenizer/tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer/tokenizer\.json' is not the file that the manifest lists"):
        local_folder(corpus_url, tmp_path / "cache")
    storage.delete("tokenizer/tokenizer.json")
    with pytest.raises(UserError, match=r"lacks 'tokenizer/tokenizer\.json'"):
        local_folder(corpus_url, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("manifest.json"))


def test_names_that_lead_out_of_the_cache_are_refused(corpus_url: str, prepared_dir: Path, tmp_path: Path) -> None:
    manifest = json.loads((prepared_dir / "manifest.json").read_text())
    manifest["files"]["../../escaped"] = "0" * 64
    changed = tmp_path / "manifest.json"
    changed.write_text(json.dumps(manifest))
    ObjectStorage(corpus_url).put(changed, "manifest.json")
    with pytest.raises(UserError, match=r"lists '\.\./\.\./escaped', which is outside its folder"):
        local_folder(corpus_url, tmp_path / "cache")


def test_a_cache_that_cannot_be_written(corpus_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose a cache_dir on a writable disk"):
        local_folder(corpus_url, tmp_path / "file" / "cache")
