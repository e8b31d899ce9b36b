"""A module that has been trained is copied and pickled as one that has not."""

import copy
import pickle

from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_module, tiny_trainer, weights_hash

from tst_lightning.accounting import flops_per_position


def test_a_fitted_module_is_pickled_and_copied(prepared_dir, tmp_path):
    module, data = tiny_module(), tiny_data(prepared_dir)
    trainer = tiny_trainer(tmp_path, 2)
    trainer.fit(module, data)
    positions = ROWS * SEQUENCE_LENGTH * 2
    flops = positions * flops_per_position(module.model, SEQUENCE_LENGTH)
    assert module.progress(2)["progress/flops"] == flops
    module.trainer = None
    copied = copy.deepcopy(module)
    for other in (copied, pickle.loads(pickle.dumps(module))):
        assert weights_hash(other) == weights_hash(module)
    # The copy counts for itself.
    copied.trainer = trainer
    copied._flops[SEQUENCE_LENGTH] += 1
    assert copied.progress(2)["progress/flops"] == flops + positions
    module.trainer = trainer
    assert module.progress(2)["progress/flops"] == flops
