"""Fixtures that several test folders use."""

import shutil
import signal
from pathlib import Path

import hypothesis
import pytest
from object_storage import bucket_url, s3_server  # noqa: F401 - fixtures
from pseudo_corpus import pseudo_text_tokens, write_prepared

hypothesis.settings.register_profile("no timings", deadline=None)
hypothesis.settings.load_profile("no timings")


@pytest.fixture(scope="session")
def prepared_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus behind ``prepared_dir``; do not write to it."""
    train = [pseudo_text_tokens(length, seed) for seed, length in enumerate([30_000, 24_123, 30_000, 7_777])]
    validation = [pseudo_text_tokens(length, 100 + seed) for seed, length in enumerate([6_000, 3_210])]
    return write_prepared(tmp_path_factory.mktemp("corpus") / "prepared", train, validation)


@pytest.fixture
def prepared_dir(prepared_source: Path, tmp_path: Path) -> Path:
    """A prepared corpus of 4 train shards (92k tokens) and 2 validation shards (9k), vocabulary 257.

    A copy of one's own: a test may damage it.
    """
    return Path(shutil.copytree(prepared_source, tmp_path / "prepared"))


@pytest.fixture(autouse=True)
def _signal_handlers_are_put_back():
    """A fit handles signals in its own way, and leaves no trace of it, however it ends."""
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(signum) for signum in ending]
    yield
    assert [signal.getsignal(signum) for signum in ending] == before
