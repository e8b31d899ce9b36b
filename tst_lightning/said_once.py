"""What all processes of a run have to say alike is said by one of them.

Processes of a run read the same config and fail of the same mistake. They count who says a message in the key-value
store through which torch's processes find each other: that of ``torchrun``'s agent, which is there before they meet,
or that of their process group. Where there is none, each process speaks for itself: nothing is lost.
"""

import hashlib
import os
import sys
import time
from datetime import timedelta
from typing import Any

_LINGER_SECONDS = 2.0
_STORE_SECONDS = 5.0
_GROUP = "torch.distributed.distributed_c10d"
"""Looked for among the modules that there are: where it is not imported, there is no process group."""


def say_once(message: str, prefix: str = "") -> None:
    """Print ``message`` on standard error, unless another process of this run has printed it.

    Args:
        message: other words are another message.
        prefix: such as ``error: ``; after it the rank is said, if it is not 0.
    """
    rank, processes = rank_and_processes()
    if processes == 1:
        print(f"{prefix}{message}", file=sys.stderr, flush=True)
        return
    # torchrun's store outlives the processes that it starts again.
    attempt = [os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")]
    key = f"tst-lightning/{'/'.join(attempt)}/{hashlib.sha256(message.encode()).hexdigest()}"
    store = count = None
    try:
        store, hosts_it = _store()
        count = store.add(key, 1)
    except Exception:  # it is of a process that has ended, or there is none; the message is what counts
        hosts_it = False
    if count in (None, 1):
        print(f"{prefix}{f'rank {rank}: ' if rank else ''}{message}", file=sys.stderr, flush=True)
    if hosts_it:
        _linger(store, key, processes)


def _linger(store: Any, key: str, processes: int) -> None:
    """Keep the store, which ends with this process, until the others have come to ask, if they do soon."""
    end = time.monotonic() + _LINGER_SECONDS
    while store.add(key, 0) < processes and time.monotonic() < end:
        time.sleep(0.05)


def _store() -> tuple[Any, bool]:
    """The store that all processes reach, and whether it is this one's; raises one of many errors if there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        timeout = timedelta(seconds=_STORE_SECONDS)
        return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout), False
    group = sys.modules[_GROUP]
    return group._get_default_store(), group.get_rank() == 0


def rank_and_processes() -> tuple[int, int]:
    """Of this process and its run: of the process group, or as those who start processes say."""
    group = sys.modules.get(_GROUP)
    if group is not None and group.is_initialized():
        return group.get_rank(), group.get_world_size()
    rank = _environment_number("RANK", "SLURM_PROCID", "LOCAL_RANK", default=0)
    return rank, _environment_number("WORLD_SIZE", "SLURM_NTASKS", default=1)


def _environment_number(*names: str, default: int) -> int:
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), default)
