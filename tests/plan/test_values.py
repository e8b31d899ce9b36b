"""tst_lightning.plan.values: what one part of a plan cannot know leaves the others as they are."""

import pytest
from test_plan_run import configured

from tst_lightning.plan import values
from tst_lightning.plan.machine import Machine
from tst_lightning.plan.memory import Memory, RehearsalError
from tst_lightning.plan.run import fit_plan


@pytest.mark.parametrize("is_first", [True, False])
def test_a_rehearsal_that_fails(is_first, monkeypatch):
    """Of the run: its memory is not known. Of another batch size: only that is not."""
    rehearsed = values.memory
    batch_sizes = []

    def memory(run, *others) -> Memory:
        batch_sizes.append(run.config["data"]["batch_size"])
        if (batch_sizes == [4]) is is_first:
            raise RehearsalError("no values")
        return rehearsed(run, *others)

    monkeypatch.setattr(values, "memory", memory)
    plan = fit_plan(configured({"accumulate_grad_batches": 2}))
    needed, found = values._memory(plan, plan.schedule, Machine(memory_gb=80))
    if is_first:
        assert (needed, found) == (None, {"unknown": "no values"})
    else:
        assert batch_sizes == [4, 8]
        assert found["total_bytes"] == needed.peak.total_bytes > 0
        assert found["largest_batch"] is None
