"""tst_lightning.plan.batch_size: against trying every batch size; and what is said of it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_lightning.plan.batch_size import MAX_REHEARSALS, largest_batch, possible_batch_sizes, with_batch_size
from tst_lightning.plan.memory import Memory, memory
from tst_lightning.plan.model_size import module_of
from tst_lightning.plan.rehearsal import Peak
from tst_lightning.plan.remedies import batch_lines
from tst_lightning.plan.run import DDP, FSDP2, SINGLE, Devices, FitPlan
from tst_lightning.schedule import Schedule, Stage

PATCHES = Schedule((Stage(0, 4, 4, row_divisor=4), Stage(5, 1, 1)))


def plan_of(batch_size: int, accumulate: int = 1, streams: int = 1, devices: int = 1) -> FitPlan:
    config = {"data": {"batch_size": batch_size, "sequence_length": 16, "streams": streams}, "model": {}}
    ways = Devices(devices, DDP if devices > 1 else SINGLE, devices, 1, False)
    return FitPlan(config, ways, "32-true", 10, accumulate, Schedule())


def memory_of(plan: FitPlan, fixed: int, by_row: int, in_loss: int = 0, of_chunk: int = 0) -> Memory:
    """A straight line, but for a loss whose chunks stop growing."""
    rows = plan.config["data"]["batch_size"]
    kinds = {"parameters": fixed, "activations": by_row * rows, "loss": min(in_loss * rows, of_chunk)}
    return Memory({}, Peak(kinds, "loss"), "s=1", 0)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 48), st.integers(1, 12), st.integers(0, 3000), st.integers(1, 300), st.integers(0, 40),
    st.sampled_from([0, 0, 100, 400]), st.integers(10, 9000),
)  # fmt: skip
def test_it_is_the_largest_that_fits(batch_size, accumulate, fixed, by_row, in_loss, of_chunk, limit):
    plan = plan_of(batch_size, accumulate)
    asked = []

    def rehearsed(run: FitPlan) -> Memory:
        assert run.config["data"]["batch_size"] * run.accumulate == batch_size * accumulate
        asked.append(run.config["data"]["batch_size"])
        return memory_of(run, fixed, by_row, in_loss, of_chunk)

    found = largest_batch(plan, Schedule(), rehearsed(plan), limit, rehearsed)
    assert len(asked) == len(set(asked)) <= 1 + MAX_REHEARSALS
    runs = {size: with_batch_size(plan, size) for size in possible_batch_sizes(plan, Schedule())}
    totals = {size: memory_of(run, fixed, by_row, in_loss, of_chunk).peak.total_bytes for size, run in runs.items()}
    fitting = [size for size, total in totals.items() if total <= limit]
    if found is not None:
        assert found.batch_size * found.accumulate == batch_size * accumulate
        assert found.total_bytes == totals[found.batch_size]
        assert found.fits == (found.total_bytes <= limit)
    if of_chunk == 0:  # on a straight line it is the largest; where the line bends, one that was seen to fit
        assert (batch_size if found is None else found.batch_size) == max(fitting, default=1)
        assert found is None or found.fits == bool(fitting)


def test_a_line_is_found_with_one_rehearsal_more():
    """1.5 kB and 1 kB a row: of the divisors of 16 * 4, four rows take 5.5 kB and eight 9.5 kB."""
    asked = []

    def rehearsed(run: FitPlan) -> Memory:
        asked.append(run.config["data"]["batch_size"])
        return memory_of(run, 1500, 1000)

    plan = plan_of(16, 4)
    found = largest_batch(plan, Schedule(), rehearsed(plan), 9_000, rehearsed)
    assert (found.batch_size, found.accumulate, found.total_bytes, found.fits) == (4, 16, 5_500, True)
    assert asked == [16, 4]
    # More room than the batch takes: a larger one, with fewer of them a step.
    found = largest_batch(plan, Schedule(), rehearsed(plan), 40_000, rehearsed)
    assert (found.batch_size, found.accumulate) == (32, 2)
    none = largest_batch(plan, Schedule(), rehearsed(plan), 2_000, rehearsed)
    assert (none.batch_size, none.accumulate, none.fits) == (1, 64, False)
    asked.clear()
    assert largest_batch(plan, Schedule(), memory_of(plan, 1500, 1000), 20_000, rehearsed) is None
    assert asked == []  # the next one would be 32, which takes 33.5 kB


@pytest.mark.parametrize(
    ("plan", "schedule", "sizes"),
    [
        (plan_of(8, 3), Schedule(), [1, 2, 3, 4, 6, 8, 12, 24]),
        (plan_of(8, 3), PATCHES, [4, 8, 12, 24]),
        (plan_of(6, 2, streams=4, devices=2), Schedule(), [2, 4, 6, 12]),
        (plan_of(8, 1, streams=4, devices=2), PATCHES, [8]),
    ],
)
def test_the_rows_of_a_step_stay_the_same(plan, schedule, sizes):
    assert possible_batch_sizes(plan, schedule) == sizes


def printed(batch, strategy=SINGLE, checkpointing=False, state=4 * 10**9):
    configured = {"batch_size": 16, "accumulate": 2, "activation_checkpointing": checkpointing}
    in_memory = {"configured": configured, "largest_batch": batch, "state_bytes": {"parameters": state}}
    return "\n".join(
        batch_lines({"memory": in_memory, "machine": {"memory_gb": 10}, "devices": {"strategy": strategy}})
    )


def test_what_is_said():
    batch = {"batch_size": 4, "accumulate": 8, "total_bytes": 8 * 10**9, "fits": True}
    batch["flags"] = ("--data.batch_size 4", "--trainer.accumulate_grad_batches 8")
    assert printed(None) == ""
    said = printed(batch)
    assert "With as many rows a step, micro-batches of up to 4 rows fit (8.00 GB, 80%)." in said
    assert "\n    --data.batch_size 4 --trainer.accumulate_grad_batches 8\n" in said
    assert "--model.activation_checkpointing true" in said
    assert "activation_checkpointing" not in printed(batch, checkpointing=True)
    assert "larger micro-batches fit too, of up to 32 rows (8.00 GB, 80%)." in printed(batch | {"batch_size": 32})
    none = batch | {"batch_size": 1, "total_bytes": 12 * 10**9, "fits": False}
    assert "Micro-batches of 1, the smallest with as many rows a step, do not fit either (12.0 GB, 120%)" in printed(
        none
    )
    assert "state alone are 4.00 GB" in printed(none)
    assert "configs/trainer/fsdp2.yaml" in printed(none)
    assert "--model.activation_checkpointing true" in printed(none)
    assert "activation_checkpointing" not in printed(none, state=10**10)  # it would not help
    assert "tensor_parallel_size" in printed(none, FSDP2)
    assert "--data.batch_size" not in printed(none)


@pytest.mark.slow
def test_memory_grows_as_the_search_takes_it_to():
    """On rehearsals of a small Llama: all batch sizes, for limits between them."""
    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    model = {"config": {"class_path": "transformers.LlamaConfig", "init_args": sizes}}
    plan = plan_of(4, 2)
    plan = replace(plan, config=dict(plan.config) | {"model": model})

    def rehearsed(run: FitPlan) -> Memory:
        return memory(run, lambda: module_of(run.config), Schedule())

    totals = {
        size: rehearsed(with_batch_size(plan, size)).peak.total_bytes for size in possible_batch_sizes(plan, Schedule())
    }
    assert sorted(totals.values()) == list(totals.values())
    for limit in (value * 1.02 for value in totals.values()):
        expected = max(size for size, total in totals.items() if total <= limit)
        found = largest_batch(plan, Schedule(), rehearsed(plan), limit, rehearsed)
        assert (4 if found is None else found.batch_size) == expected
