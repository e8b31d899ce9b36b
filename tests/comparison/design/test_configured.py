"""What would stop a run when its turn comes stops the comparison before any run."""

import copy

import pytest

from tst_lightning.comparison.design.planned import plan_of
from tst_lightning.errors import UserError

BAGS = {"bag_size": 4, "step_ratio": 0.3}
NGRAM_TARGETS = ("NgramTargets", {"table": "tables/a"})
DECOMPOSED = ("LengthCurriculum", {"min_length": 64})


def config(*callbacks: tuple[str, dict], data: dict | None = None, **model: object) -> dict:
    return {
        "trainer": {
            "max_steps": 100,
            "accumulate_grad_batches": 1,
            "callbacks": [{"class_path": f"callbacks.{name}", "init_args": options} for name, options in callbacks],
        },
        "data": {"batch_size": 8, "sequence_length": 256, "packing": "concat"} | (data or {}),
        "model": model,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "cross"}, "loss='cross': choose"),
        ({"interpolate": 2.0}, "interpolate=2.0"),
        ({"loss": "mce_alt", "weights": "power_law"}, "mce_alt sums"),
        ({"on_switch": "reset"}, "on_switch='reset'"),
        ({"reinitialize": "all"}, "reinitialize='all'"),
        ({"superpose_inputs": False, "superpose_outputs": False}, "both false"),
        ({"weights": [0.5, 0.5]}, "weights"),
    ],
)
def test_options_that_only_the_callback_knows(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(config(("SuperpositionCallback", BAGS | options)))


def test_a_file_that_is_not_there_is_another_matter() -> None:
    values = config(("SuperpositionCallback", BAGS | {"weights_file": "none.json"}))
    before = copy.deepcopy(values)
    assert plan_of(values).schedule.last_switch == 30
    assert values == before


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (("LengthCurriculum", {"cycles": 0}), "cycles=0"),
        (("LengthCurriculum", {"curriculum": "shrink"}), "curriculum='shrink'"),
        (("NgramTargets", {"table": "a", "alpha": 1.5}), "alpha=1.5"),
        (("NgramTargets", {"table": "a", "anneal_start": 0.9, "anneal_end": 0.1}), "anneal_end=0.1 is before"),
    ],
)
def test_options_of_other_callbacks(callback: tuple[str, dict], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(config(callback))


def test_heads_out_of_range() -> None:
    assert plan_of(config(multi_token={"heads": 2, "weight": 0.1}))
    with pytest.raises(UserError, match=r"multi_token\.heads=-1"):
        plan_of(config(multi_token={"heads": -1, "weight": 0.1}))


def test_callbacks_that_refuse_each_other() -> None:
    bags, one = ("SuperpositionCallback", BAGS), ("SuperpositionCallback", BAGS | {"bag_size": 1})
    for both in ((bags, bags), (bags, DECOMPOSED), (DECOMPOSED, bags), (DECOMPOSED, DECOMPOSED)):
        with pytest.raises(UserError, match="each sets the schedule of the run: leave one in"):
            plan_of(config(*both))
    with pytest.raises(UserError, match=r"NgramTargets does not go with SuperpositionCallback \(bags of 4 tokens"):
        plan_of(config(NGRAM_TARGETS, bags))
    for both in ((NGRAM_TARGETS, DECOMPOSED), (NGRAM_TARGETS, one)):
        assert plan_of(config(*both)).follows_length


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"packing": "best_fit"}, "packing=best_fit"),
        ({"isolate_documents": True}, "isolate_documents=True"),
        ({"fold_by_document": True}, "fold_by_document=True"),
        ({"streams": 2}, "streams=2"),
        ({"data_dir": {"a": 0.5, "b": 0.5}}, "a mixture of 2 corpora"),
        ({"sequence_length": 192}, "sequence_length=192: rows of a length curriculum have powers of two"),
        ({"sequence_length": 32}, "min_length=64 is greater than sequence_length=32"),
    ],
)
def test_data_that_cannot_be_decomposed(data: dict, message: str) -> None:
    plan_of(config(DECOMPOSED))
    with pytest.raises(UserError, match=message):
        plan_of(config(DECOMPOSED, data=data))


def test_a_table_of_one_corpus() -> None:
    assert plan_of(config(NGRAM_TARGETS, data={"data_dir": {"a": 1.0}}))
    with pytest.raises(UserError, match=r"is of one corpus, and data\.data_dir names 2"):
        plan_of(config(NGRAM_TARGETS, data={"data_dir": {"a": 0.5, "b": 0.5}}))


def test_groups_that_do_not_hold_the_bags() -> None:
    bags = ("SuperpositionCallback", BAGS | {"bag_size": 8})
    with pytest.raises(
        UserError, match=r"rows_per_group is 4, and bags of 8 tokens do not divide it: .* multiple of 8"
    ):
        plan_of(config(bags, data={"rows_per_group": 4}))
    packed = ({"packing": "best_fit"}, {"isolate_documents": True}, {"fold_by_document": True})
    for fine in ({"rows_per_group": 24}, {"rows_per_group": None}, *packed):
        plan_of(config(bags, data={"rows_per_group": 4} | fine))


def test_batches_that_cannot_have_so_many_times_fewer_rows() -> None:
    def patches(size: int) -> tuple[str, dict]:
        return "SuperpositionCallback", BAGS | {"bag_size": size, "tokens_per_step": "constant"}

    assert plan_of(config(patches(4), data={"packing": "best_fit"}))
    assert plan_of(config(("SuperpositionCallback", BAGS | {"bag_size": 3})))
    for size, packing in ((3, "concat"), (16, "best_fit")):
        with pytest.raises(UserError, match=rf"batch_size is 8, .* set it to a multiple of {size}"):
            plan_of(config(patches(size), data={"packing": packing}))
