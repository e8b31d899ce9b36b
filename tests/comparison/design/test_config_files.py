import copy
from pathlib import Path

import pytest
import yaml

from tst_lightning.comparison.design.config_files import WATCHERS, config_digest, says_the_same

EARLIER = {
    "trainer": {
        "max_steps": 10,
        "callbacks": [
            {"class_path": "callbacks.StepCheckpoint", "init_args": {"every_n_steps": 5}},
            {"class_path": "callbacks.SuperpositionCallback", "init_args": {"bag_size": 4}},
        ],
    },
    "data": {"seed": 1},
}


@pytest.fixture
def written(tmp_path: Path):
    """Writes values to the file, and returns its path."""

    def write(values: object) -> str:
        path = tmp_path / "trainer.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return write


def with_more(*names: str, at: int = 1, **changes: object) -> dict:
    values = copy.deepcopy(EARLIER)
    values["trainer"] |= changes
    values["trainer"]["callbacks"][at:at] = [{"class_path": name} for name in names]
    return values


@pytest.mark.parametrize("at", [0, 1, 2])
def test_watchers_may_be_added(written, at: int) -> None:
    begun = config_digest(written(EARLIER))
    assert says_the_same(written(EARLIER), begun)
    for watcher in WATCHERS:
        assert says_the_same(written(with_more(watcher, at=at)), begun)
    later = with_more("callbacks.LossGuard", "callbacks.Throughput", at=at)
    assert says_the_same(written(later), begun)
    assert config_digest(written(later)) != begun


@pytest.mark.parametrize(
    "later",
    [
        with_more("callbacks.LossGuard", max_steps=11),
        with_more("callbacks.LossGuard", "callbacks.LengthCurriculum"),
        with_more("callbacks.DownstreamEvaluation"),
        with_more() | {"data": {"seed": 2}},
        {"data": {"seed": 1}},
        {"trainer": None},
        [],
        None,
    ],
)
def test_nothing_else_may(written, later: object) -> None:
    begun = config_digest(written(EARLIER))
    assert not says_the_same(written(later), begun)


def test_options_of_a_watcher_and_its_loss_count(written) -> None:
    """What a run was begun with is not given up without a word."""
    guarded = with_more("callbacks.LossGuard")
    begun = config_digest(written(guarded))
    assert not says_the_same(written(EARLIER), begun)
    guarded["trainer"]["callbacks"][0]["init_args"]["every_n_steps"] = 7
    assert not says_the_same(written(guarded), begun)


def test_every_watcher_is_a_callback() -> None:
    import callbacks

    for watcher in WATCHERS:
        package, _, name = watcher.rpartition(".")
        assert package != "callbacks" or name in callbacks.__all__


def test_the_shipped_files_still_say_what_they_said_before_the_guard(written) -> None:
    path = Path(__file__).parents[3] / "configs" / "trainer" / "cpu.yaml"
    values = yaml.safe_load(path.read_text())
    assert {"class_path": "callbacks.LossGuard"} in values["trainer"]["callbacks"]
    values["trainer"]["callbacks"].remove({"class_path": "callbacks.LossGuard"})
    assert says_the_same(str(path), config_digest(written(values)))
