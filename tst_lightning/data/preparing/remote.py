"""A prepared corpus in object storage: what is done there before and after the tasks."""

import hashlib
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tst_lightning.data.manifest import FILE_NAME, Manifest
from tst_lightning.data.preparing.duplicates import digests_file, duplicates_file
from tst_lightning.data.preparing.encoder import ENCODER_FILE, TOKENIZER_FOLDER
from tst_lightning.data.preparing.finish import small_files
from tst_lightning.data.preparing.place import CONNECTIONS, REPORT_NAME, RemotePlace, task_folder
from tst_lightning.data.preparing.routing import SPLITS
from tst_lightning.data.preparing.task import VALIDATION_DIGESTS_FILE
from tst_lightning.data.preparing.task_output import HELD_OUT_FILE, ends_file
from tst_lightning.data.storage import ObjectStorage, cache_folder
from tst_lightning.errors import UserError

PREVIOUS_MANIFEST = "previous_manifest.json"


def scratch_target(url: str) -> Path:
    """Beside which the local scratch folder of a preparation lies: the same for every call with this URL."""
    return cache_folder(None) / "prepare" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def remote_manifest(url: str) -> Manifest | None:
    """The manifest at a URL, if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            ObjectStorage(url).get(FILE_NAME, Path(folder, FILE_NAME))
        except FileNotFoundError:
            return None
        return Manifest.load(folder)


def withdraw_previous(place: RemotePlace) -> None:
    """Take away the manifest of a corpus that is to be replaced: its shards are about to be overwritten."""
    try:
        place.storage.get(FILE_NAME, place.folder / PREVIOUS_MANIFEST)
    except FileNotFoundError:
        return
    place.share(PREVIOUS_MANIFEST)
    place.storage.delete(FILE_NAME)


def publish(place: RemotePlace, manifest: Manifest, tasks: int) -> None:
    """Upload what the tasks did not, the manifest last; then delete what only the preparation needed."""
    for name in small_files(place.folder):
        place.storage.put(place.folder / name, name)
    place.storage.put(place.folder / FILE_NAME, FILE_NAME)
    needless = _previous_names(place) - _file_names(manifest)
    needless |= {f"{place.prefix}/{name}" for name in _working_names(place.folder, tasks)}
    with ThreadPoolExecutor(CONNECTIONS) as executor:
        list(executor.map(place.storage.delete, sorted(needless)))


def _working_names(folder: Path, tasks: int) -> set[str]:
    """What may be there below ``.prepare-<digest>``. Deleting what is not there is no error."""
    names = {PREVIOUS_MANIFEST, VALIDATION_DIGESTS_FILE, ENCODER_FILE}
    names |= {f"{TOKENIZER_FOLDER}/{path.name}" for path in (folder / TOKENIZER_FOLDER).iterdir()}
    of_a_task = (REPORT_NAME, HELD_OUT_FILE, *(ends_file(Path(), split).name for split in SPLITS))
    for number in range(tasks):
        names |= {digests_file(number), duplicates_file(number)}
        names |= {f"{task_folder(Path(), number)}/{name}" for name in of_a_task}
    return names


def _previous_names(place: RemotePlace) -> set[str]:
    """The files of the corpus that has been replaced; none if another release wrote its manifest."""
    previous = place.fetch(PREVIOUS_MANIFEST)
    if previous is None:
        return set()
    with tempfile.TemporaryDirectory() as folder, suppress(UserError):
        shutil.copy(previous, Path(folder, FILE_NAME))
        return _file_names(Manifest.load(folder))
    return set()


def _file_names(manifest: Manifest) -> set[str]:
    splits = {"train": manifest.train, "validation": manifest.validation}
    shards = {f"{name}/{shard.file}" for name, split in splits.items() for shard in split.shards}
    return shards | set(manifest.files)
