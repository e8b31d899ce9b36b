"""How many bytes of tensors are alive, by what they are for, and how many there were at most.

Works on real tensors and on fake ones (``FakeTensorMode``), which have storages of the right size and no memory.
"""

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COMMUNICATION = ("fsdp", "c10d", "_c10d_functional", "c10d_functional")
"""Namespaces of operators whose results are gathered weights and buffers of collectives."""


class LiveBytes(TorchDispatchMode):
    """While entered, follows every storage that an operator returns, until it is freed.

    What an operator allocates and frees within itself is not seen. Collectives count as ``gathered``, whatever the
    label.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = "activations"
        """What new storages are for."""
        self.live: dict[str, int] = defaultdict(int)
        """Bytes alive by label."""
        self.peak: dict[str, int] = {}
        """``live`` when its sum was largest since ``reset_peak``."""
        self.peak_moment = ""
        """Label under which new storages were made at that time."""
        self._total_bytes = self._peak_bytes = 0
        self._known: dict[int, tuple[weakref.ref, list[Any]]] = {}

    def __enter__(self) -> "LiveBytes":
        resize = torch.UntypedStorage.resize_
        follow = self._follow

        def resized(storage: torch.UntypedStorage, size_bytes: int) -> torch.UntypedStorage:
            result = resize(storage, size_bytes)  # how FSDP2 frees and takes gathered weights
            follow(storage)
            return result

        self._patch = patch.object(torch.UntypedStorage, "resize_", resized)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        self._patch.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, _WRAPPERS) for kind in types):
            return NotImplemented  # it is asked about the operators on the local tensors
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        is_communication = func.namespace in COMMUNICATION
        made = tree_leaves((results, kwargs.get("out"))) if is_communication else tree_leaves(results)
        made = [result for result in made if isinstance(result, Tensor) and not isinstance(result, _WRAPPERS)]
        if is_communication:
            self.relabel(made, "gathered")
        else:
            for result in made:
                self._follow(result.untyped_storage())
        return results

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Call storages that are made inside ``label``."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def relabel(self, tensors: Iterable[Tensor | None], label: str) -> None:
        """Call the storages of these tensors ``label``, also if they are new to it."""
        for tensor in tensors:
            if tensor is None:
                continue
            storage = local(tensor).untyped_storage()
            self._follow(storage, label)
            entry = self._known[id(storage)][1]
            self.live[entry[0]] -= entry[1]
            self.live[label] += entry[1]
            entry[0] = label

    def reset_peak(self) -> None:
        """Begin anew to look for the highest sum."""
        self._peak_bytes = 0
        self._note_peak()

    def _follow(self, storage: torch.UntypedStorage, label: str | None = None) -> None:
        size_bytes, key = storage.nbytes(), id(storage)
        if key not in self._known:
            entry = [label or self.label, 0]
            self._known[key] = (weakref.ref(storage, lambda _: self._forget(key)), entry)
        entry = self._known[key][1]
        if entry[1] != size_bytes:
            self.live[entry[0]] += size_bytes - entry[1]
            self._total_bytes += size_bytes - entry[1]
            entry[1] = size_bytes
            self._note_peak()

    def _forget(self, key: int) -> None:
        label, size_bytes = self._known.pop(key)[1]
        self.live[label] -= size_bytes
        self._total_bytes -= size_bytes

    def _note_peak(self) -> None:
        if self._total_bytes > self._peak_bytes:
            self._peak_bytes, self.peak, self.peak_moment = self._total_bytes, dict(self.live), self.label


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process has; another tensor as it is."""
    return tensor.to_local() if isinstance(tensor, _WRAPPERS) else tensor


def _wrappers() -> tuple[type, ...]:
    if not torch.distributed.is_available():
        return ()
    from torch.distributed.tensor import DTensor

    return (DTensor,)


_WRAPPERS = _wrappers()
