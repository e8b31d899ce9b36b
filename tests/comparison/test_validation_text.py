import pytest
import yaml

from tst_lightning.comparison.validation_text import other_validation


def config(**data: object) -> str:
    """What `fit` keeps of a run with these options of its data."""
    values = {"data_dir": "data/x", "sequence_length": 512, "validation_windows": 64, "seed": 1, "batch_size": 8}
    return yaml.safe_dump({"seed_everything": 1, "data": values | data}, sort_keys=False)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("data/x", "data/x/"),
        ("data/x", "./data//x"),
        ("s3://bucket/x/", "s3://bucket/x"),
        ("data/x", {"data/x": 3.0}),
        ({"a": 0.7, "b": 0.3}, {"a/": 70, "b": 30}),
        ({"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 1, "b": 2, "c": 3}),
        ({"a": 0.001, "b": 0.002}, {"a": "1e-3", "b": "2e-3"}),
    ],
)
def test_the_same_text_in_another_form(ours: object, theirs: object) -> None:
    assert other_validation([config(data_dir=ours)], [config(data_dir=theirs)]) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_dir": "data/y"}, "data_dir: data/y against data/x"),
        ({"data_dir": {"data/x": 1, "data/y": 1}}, "data_dir: {data/x: 1, data/y: 1} against data/x"),
        ({"sequence_length": 256}, "sequence_length: 256 against 512"),
        (
            {"sequence_length": 256, "validation_windows": 128},
            "sequence_length: 256 against 512; validation_windows: 128 against 64",
        ),
    ],
)
def test_other_text_is_named_option_by_option(changes: dict, said: str) -> None:
    assert other_validation([config(**changes)], [config()]) == said


def test_the_order_of_a_mixture_counts() -> None:
    assert other_validation([config(data_dir={"a": 1, "b": 1})], [config(data_dir={"b": 1, "a": 1})])


def test_options_that_leave_the_windows_alone() -> None:
    assert other_validation([config(seed=2, batch_size=4, packing="best_fit", epochs=3)], [config()]) == ""


def test_a_run_without_a_config_says_nothing() -> None:
    other = config(data_dir="data/y")
    for unknown in ("", "trainer: {max_steps: 5}", "data: {data_dir: [cut", "data:", "just text"):
        assert other_validation([unknown], [other]) == other_validation([other], [unknown]) == ""
        assert other_validation([unknown, other], [unknown, config()]) == "data_dir: data/y against data/x"
    assert other_validation([], [other]) == ""
