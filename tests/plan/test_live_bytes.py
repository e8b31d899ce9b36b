"""tst_lightning.plan.live_bytes: bytes of tensors that are alive, by label."""

import torch

from tst_lightning.plan.live_bytes import LiveBytes

KB = 1024


def kilobytes(count: int) -> torch.Tensor:
    return torch.zeros(count * KB, dtype=torch.uint8)


def test_peak_is_the_highest_sum_and_says_what_it_is_made_of():
    kept = kilobytes(1)
    tracker = LiveBytes()
    tracker.relabel([kept, None], "parameters")
    with tracker:
        first = kilobytes(4)
        with tracker.labelled("loss"):
            second = first + 1
            view = second[: 2 * KB]  # of the same storage
        del first, second
        third = kilobytes(3)
    assert tracker.peak == {"parameters": KB, "activations": 4 * KB, "loss": 4 * KB}
    assert tracker.peak_moment == "loss"
    assert dict(tracker.live) == {"parameters": KB, "activations": 3 * KB, "loss": 4 * KB}
    del view, third
    assert sum(tracker.live.values()) == KB


def test_freed_storages_count_no_more_and_the_peak_begins_anew():
    tracker = LiveBytes()
    with tracker:
        kilobytes(8)
        small = kilobytes(2)
        tracker.reset_peak()
        assert sum(tracker.peak.values()) == 2 * KB
        other = kilobytes(1)
        tracker.relabel([small], "gradients")
    assert tracker.live == {"activations": KB, "gradients": 2 * KB}
    del other


def test_a_storage_that_shrinks_and_grows_is_followed():
    """That is how FSDP2 frees gathered weights."""
    tracker = LiveBytes()
    with tracker:
        weight = kilobytes(4)
        weight.untyped_storage().resize_(0)
        assert sum(tracker.live.values()) == 0
        other = kilobytes(3)
        weight.untyped_storage().resize_(4 * KB)
    assert sum(tracker.peak.values()) == 7 * KB
    del other


def test_backward_passes_are_seen():
    tracker = LiveBytes()
    weight = torch.ones(KB, requires_grad=True)
    with tracker, tracker.labelled("working"):
        (weight * 2).sum().backward()
    assert tracker.live["working"] == weight.grad.numel() * 4
