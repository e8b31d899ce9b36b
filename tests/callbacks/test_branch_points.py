"""BranchPoints: when it saves, and that a shorter run can start from what it saved."""

import pytest
import torch
from runs import tiny_data, tiny_module, tiny_trainer, weights_hash

from callbacks import BranchPoints
from callbacks.branch_points import branch_point
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import WarmupStableDecay


def fit(prepared_dir, folder, max_steps, points=(), ckpt_path=None, decay_ratio=0.5, **options):
    callbacks = [BranchPoints(list(points))] if points else []
    trainer = tiny_trainer(folder, max_steps, callbacks, **({"enable_checkpointing": bool(points)} | options))
    module = tiny_module(learning_rate_schedule=WarmupStableDecay(warmup_steps=1, decay_ratio=decay_ratio))
    trainer.fit(module, datamodule=tiny_data(prepared_dir), ckpt_path=ckpt_path)
    return module


def saved(folder):
    """Name -> (optimizer steps, batches) that each file has behind it; every file, hidden ones too."""
    found = {}
    for path in (folder / "checkpoints").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
        found[path.name] = (checkpoint["global_step"], batches)
    return found


@pytest.mark.parametrize("accumulated", [1, 3])
def test_saves_at_the_given_steps_and_never_inside_one(prepared_dir, tmp_path, accumulated):
    fit(prepared_dir, tmp_path, 5, [1, 4, 9], accumulate_grad_batches=accumulated)
    assert saved(tmp_path) == {"step=1.ckpt": (1, accumulated), "step=4.ckpt": (4, 4 * accumulated)}


def test_a_shorter_run_that_branches_off_is_that_run_bit_for_bit(prepared_dir, tmp_path):
    straight = fit(prepared_dir, tmp_path / "straight", 6)
    trunk = fit(prepared_dir, tmp_path / "trunk", 10, [3])
    branch = fit(prepared_dir, tmp_path / "branch", 6, ckpt_path=branch_point(tmp_path / "trunk", 3))
    assert weights_hash(branch) == weights_hash(straight)
    assert weights_hash(trunk) != weights_hash(straight)


def test_a_branch_does_not_save_its_start_in_the_middle_of_the_next_step(prepared_dir, tmp_path):
    fit(prepared_dir, tmp_path / "trunk", 6, [2], accumulate_grad_batches=2)
    start = branch_point(tmp_path / "trunk", 2)
    fit(prepared_dir, tmp_path / "branch", 4, [2, 3], ckpt_path=start, accumulate_grad_batches=2)
    assert saved(tmp_path / "branch") == {"step=2.ckpt": (2, 4), "step=3.ckpt": (3, 6)}


def test_a_resumed_run_does_not_write_again(prepared_dir, tmp_path):
    fit(prepared_dir, tmp_path, 4, [1, 3])
    path = branch_point(tmp_path, 3)
    before, content = path.stat(), path.read_bytes()
    fit(prepared_dir, tmp_path, 5, [1, 3, 5], ckpt_path=branch_point(tmp_path, 1))
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert path.read_bytes() == content
    assert saved(tmp_path).keys() == {"step=1.ckpt", "step=3.ckpt", "step=5.ckpt"}


def test_a_kill_while_it_saves_leaves_no_half_checkpoint(prepared_dir, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", lambda checkpoint, file: file.write(b"half a checkpoint"))
        patched.setattr("callbacks.whole_files.os.fsync", killed)
        patched.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # as a kill leaves it
        with pytest.raises(Killed):
            fit(prepared_dir, tmp_path, 3, [2])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [".step=2.ckpt.part"]

    fit(prepared_dir, tmp_path, 3, [2])
    assert saved(tmp_path) == {"step=2.ckpt": (2, 2)}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_point_that_a_kill_prevented_is_made_up_for(prepared_dir, tmp_path, accumulated):
    options = {"accumulate_grad_batches": accumulated}
    straight = fit(prepared_dir, tmp_path / "straight", 6, **options)
    fit(prepared_dir, tmp_path / "trunk", 10, [3], **options)
    # All that a kill at step 3 leaves: the run's own checkpoint of that step, without the point.
    point = branch_point(tmp_path / "trunk", 3)
    last = point.rename(point.with_name("last.ckpt"))
    fit(prepared_dir, tmp_path / "trunk", 10, [3], ckpt_path=last, **options)
    assert saved(tmp_path / "trunk")["step=3.ckpt"] == (3, 3 * accumulated)
    branch = fit(prepared_dir, tmp_path / "branch", 6, ckpt_path=point, **options)
    assert weights_hash(branch) == weights_hash(straight)


@pytest.mark.parametrize("steps", [[], [0], [3, -1], [True]])
def test_refuses_steps_that_never_come(steps):
    with pytest.raises(UserError, match="BranchPoints: steps="):
        BranchPoints(steps)
