"""Sharded checkpoints: the folders that ``ModelParallelStrategy`` saves with ``save_distributed_checkpoint: true``.

    last.ckpt/
        .metadata       torch.distributed.checkpoint: which part of which tensor lies in which file; a pickle
        __0_0.distcp    the shards of process 0: weights and optimizer state
        __1_0.distcp    ...
        meta.pt         Lightning: all the rest of a checkpoint, as torch.save writes it
        SHA256SUMS      checksum of .metadata; the other files have their own in them, see ``checksums``

A pickle can hold any code. ``.metadata`` is read here with the few classes that it needs and no others; ``meta.pt`` and
the tensors are read with ``weights_only``. Lightning, which reads a folder to resume, unpickles ``.metadata`` as it is:
``require_whole`` has to have gone over it before.
"""

import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.modeling.checksums import Archive, damaged, require_intact_archives
from tst_lightning.modeling.layout_sum import LAYOUT_FILE, RUN_FILE, same_sum, write_sum

WEIGHTS = "state_dict."
"""What the names of a folder's entries begin with that are weights; the others are the optimizer's state."""
_LAYOUT_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata", "TensorProperties",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
}  # fmt: skip


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a sharded checkpoint, whole or not."""
    path = Path(path)
    names = (LAYOUT_FILE, RUN_FILE)
    return path.is_dir() and (any((path / name).exists() for name in names) or any(path.glob("*.distcp")))


def require_whole(path: str | Path) -> None:
    """Refuse a sharded checkpoint that lacks something, or whose ``.metadata`` is more than a table of contents.

    Raises:
        UserError: it does.
    """
    path = Path(path)
    if not zipfile.is_zipfile(path / RUN_FILE):  # which torch.save writes, with the table of contents at the end
        raise _not_whole(path, f"{RUN_FILE} is missing or cut off")
    ends: dict[str, int] = {}
    for part in read_layout(path).storage_data.values():
        ends[part.relative_path] = max(ends.get(part.relative_path, 0), part.offset + part.length)
    for name, end in ends.items():
        file = path / name
        if file.parent != path or not file.is_file() or file.stat().st_size < end:
            raise _not_whole(path, f"{name} is missing or cut off")


def require_intact(path: str | Path, prefix: str = "", process: int = 0, processes: int = 1) -> None:
    """Refuse a sharded checkpoint whose content is not what was written.

    Args:
        path: of a folder that is whole.
        prefix: of the names of the entries to look at, such as ``state_dict.``.
        process: which share of it to look at, as of ``checksums.require_intact_file``.
        processes: how many they are.

    Raises:
        UserError: it is damaged; where, and what to do.
        OSError: it cannot be read.
    """
    require_intact_archives(path, _archives(Path(path), prefix), process, processes)


def _archives(path: Path, prefix: str) -> Iterator[Archive]:
    """As they lie on the disk; files in the order of the processes that have written them."""
    places = [(entry, index.fqn) for index, entry in read_layout(path).storage_data.items()]
    places.sort(key=lambda place: (len(place[0].relative_path), place[0].relative_path, place[0].offset))
    for entry, name in places:
        if name.startswith(prefix):
            what = f"'{name}' in {entry.relative_path} from byte {entry.offset} on"
            yield Archive(what, path / entry.relative_path, entry.offset, entry.length)
    yield Archive(RUN_FILE, path / RUN_FILE, 0, (path / RUN_FILE).stat().st_size)


def write_sums(path: str | Path) -> None:
    """Write ``SHA256SUMS`` of the table of contents; by one process, when all have saved.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    for written in (write_sum(path / LAYOUT_FILE), path / RUN_FILE):  # which nobody has brought to the disk yet
        with written.open("rb") as file:
            os.fsync(file.fileno())


def read_layout(path: str | Path) -> Any:
    """The table of contents: a ``torch.distributed.checkpoint.metadata.Metadata``.

    Raises:
        UserError: there is none, it is damaged, or it holds something else.
    """
    file = Path(path) / LAYOUT_FILE
    if file.is_file() and not same_sum(file):
        raise damaged(path, f"{LAYOUT_FILE} is not what was written")
    try:
        with file.open("rb") as stream:
            layout = _LayoutUnpickler(stream).load()
        if not isinstance(layout.state_dict_metadata, dict) or not isinstance(layout.storage_data, dict):
            raise TypeError("it lists nothing")
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error) if isinstance(error, _NotOfALayoutError) else f"{LAYOUT_FILE} is missing or damaged"
        raise _not_whole(path, reason) from error
    return layout


def read_run(path: str | Path) -> dict[str, Any]:
    """What the checkpoint says about its run: all but weights and optimizer state.

    Raises:
        UserError: it cannot be read.
    """
    import torch

    try:
        return torch.load(Path(path) / RUN_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise _not_whole(path, (str(error) or type(error).__name__).strip().split("\n")[0]) from error


def read_weights(path: str | Path, prefix: str) -> dict[str, Any]:
    """Tensors of the checkpoint's ``state_dict`` whose names begin with ``prefix``, by their names; nothing else.

    Raises:
        UserError: they cannot be read, or are not what was written.
    """
    import torch
    from torch.distributed import checkpoint

    class Reader(checkpoint.FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Any:
            return read_layout(path)

    weights = {
        name.removeprefix(WEIGHTS): torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in read_layout(path).state_dict_metadata.items()
        if name.startswith(WEIGHTS + prefix)
    }
    try:
        require_intact(path, WEIGHTS + prefix)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process
            checkpoint.load({"state_dict": weights}, storage_reader=Reader(path), no_dist=True)
    except UserError:
        raise
    except (checkpoint.api.CheckpointException, Exception) as error:  # the former is none of the latter
        raise _not_whole(path, " ".join(str(error).split())[:200]) from error
    return weights


class _NotOfALayoutError(pickle.UnpicklingError):
    pass


class _LayoutUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        found = name in _LAYOUT_CLASSES.get(module, ())
        if found or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise _NotOfALayoutError(f"{LAYOUT_FILE} asks for {module}.{name}, which no table of contents needs")


def _not_whole(path: str | Path, reason: str) -> UserError:
    return UserError(
        f"'{path}' is not a whole sharded checkpoint ({reason}): give one that a `fit` has written, with all of its "
        "files"
    )
