"""Options of SuperpositionCallback that would have no effect, or not the one that they promise."""

import pytest
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import SuperpositionCallback
from tst_lightning.errors import UserError

TST = {"bag_size": 4, "step_ratio": 0.5}
INPUT_ONLY = {"superpose_outputs": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            INPUT_ONLY | {"weights": "power_law"},
            "weights='power_law' with superpose_outputs=false: .* leave out weights",
        ),
        (INPUT_ONLY | {"weights": [4, 3, 2, 1]}, r"weights=\[4, 3, 2, 1\] with superpose_outputs=false"),
        (INPUT_ONLY | {"interpolate": 0.5}, "interpolate=0.5 with superpose_outputs=false: .* leave out interpolate"),
        ({"weights": "first_token", "interpolate": 0.5}, "interpolate=0.5 with weights=first_token"),
    ],
)
def test_weights_without_effect_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SuperpositionCallback(**TST | options)
    # With bags of one token, a grid's baseline, nothing has an effect, and that is known.
    SuperpositionCallback(**TST | options | {"bag_size": 1, "weights": "uniform"})


def test_input_only_superposition_takes_the_kinds_that_mean_it():
    for weights in ("uniform", "first_token"):
        assert SuperpositionCallback(**TST, **INPUT_ONLY, weights=weights).weights[4] == (1, 0, 0, 0)


def fit(prepared_dir, folder, options, **data):
    callback = SuperpositionCallback(**{"bag_size": 4, "recovery_step": 1, "superpose_inputs": False} | options)
    tiny_trainer(folder, 2, [callback]).fit(tiny_module(), tiny_data(prepared_dir, **data))


def test_target_bags_that_would_cross_documents_are_refused(prepared_source, tmp_path):
    with pytest.raises(UserError, match=r"fold_by_document=true .* set data.isolate_documents to true"):
        fit(prepared_source, tmp_path, {}, fold_by_document=True)
    fit(prepared_source, tmp_path, {}, fold_by_document=True, isolate_documents=True)
    fit(prepared_source, tmp_path, {"superpose_inputs": True}, fold_by_document=True)
    fit(prepared_source, tmp_path, {"bag_size": 1}, fold_by_document=True)  # the baseline
