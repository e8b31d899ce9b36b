"""Asking the Hugging Face hub without hanging where it cannot be reached."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from urllib.parse import urlsplit

PROBE_SECONDS = 3.0


def why_no_hub() -> str | None:
    """Why the hub cannot be asked; None if it can."""
    import datasets.config
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids downloads"
    address = urlsplit(constants.ENDPOINT)
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    if proxy:
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        return f"the hub at {address.hostname} cannot be reached ({error})"
    return None


@contextmanager
def hub_offline() -> Iterator[None]:
    """Within the block, what is not in the local cache fails at once. The flags are read at each use."""
    import datasets.config
    from huggingface_hub import constants

    modules = (constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


@contextmanager
def cache_only_without_hub() -> Iterator[str | None]:
    """Within the block, an unreachable hub means: use the local cache or fail at once.

    The libraries retry a dead connection for 25 to 50 seconds, and a silent one for minutes. Yields why the
    hub cannot be asked, if so.
    """
    reason = why_no_hub()
    with hub_offline() if reason else nullcontext():
        yield reason
