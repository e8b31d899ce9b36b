"""A local Ray cluster of two workers against one process."""

import signal
import sys

import pytest
from corpora import files_of, prepare_small, write_files

from tst_lightning.data.preparing.ray_engine import Ray
from tst_lightning.data.tokenizer import TrainedBPE
from tst_lightning.errors import UserError


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home folder
    on_terminate = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, on_terminate)  # Ray leaves its own, which the processes of later tests would inherit


def test_ray_gives_the_files_of_one_process(tmp_path):
    def fail(task, on_advance):
        import os

        if task == 1:
            raise UserError("part 1 is broken")
        if task == 2:
            os._exit(1)
        return os.getpid()

    ray = pytest.importorskip("ray")
    source = write_files(tmp_path / "text")
    options = {"tokenizer": TrainedBPE(300), "deduplicate": True, "evaluation_items": 5, "max_documents": 120}
    one = prepare_small(source, tmp_path / "one", workers=1, **options)
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        two = prepare_small(source, tmp_path / "two", engine="ray", workers=2, **options)
        assert files_of(one) == files_of(two)
        assert ray.is_initialized()  # a cluster that prepare did not start stays
        outcomes = dict(Ray(2).run(fail, iter([0, 1, 2, 3]), None))
        assert str(outcomes[1]) == "part 1 is broken"
        assert str(outcomes[2]).startswith("the Ray worker for 2 died (")
    finally:
        ray.shutdown()


def test_without_ray_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'tst-lightning\[ray\]', or use --engine processes"):
        prepare_small(write_files(tmp_path / "text"), tmp_path / "out", engine="ray")
    assert not list(tmp_path.glob("out*"))
