"""SIGTERM, Ctrl-C and SLURM's pre-emption: saved at the end of the step, a status that says so, and gone on from."""

import os
import signal
import stat

import lightning as L
import pytest
import torch
from runs import tiny_data, tiny_module, tiny_trainer, weights_hash

from callbacks import StepCheckpoint, SuperpositionCallback
from callbacks.stop_signals import TrainingStopped

STEPS, SWITCH, ACCUMULATE = 8, 4, 2


class SignalAt(L.Callback):
    """This process is signalled in ``hook`` after ``step`` optimizer steps."""

    def __init__(self, signum, hook, step):
        self.signum, self.step = signum, step
        setattr(self, hook, self._hook)

    def _hook(self, trainer, *_):
        if trainer.global_step == self.step and self.signum:
            os.kill(os.getpid(), self.signum)
            self.signum = None


def fit(prepared_dir, folder, callbacks=(), ckpt_path=None, **data):
    method = SuperpositionCallback(bag_size=2, recovery_step=SWITCH)
    trainer = tiny_trainer(
        folder, STEPS, [method, *callbacks, StepCheckpoint(every_n_steps=100)], enable_checkpointing=True,
        accumulate_grad_batches=ACCUMULATE, val_check_interval=3,
    )  # fmt: skip
    module = tiny_module()
    trainer.fit(module, datamodule=tiny_data(prepared_dir, **data), ckpt_path=ckpt_path)
    return weights_hash(module)


def saved_step(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.fixture(scope="module")
def uninterrupted(prepared_source, tmp_path_factory):
    return fit(prepared_source, tmp_path_factory.mktemp("whole"))


# The hooks of a step in order; validation comes after every third micro-batch, the first time in the middle of step 2.
MOMENTS = [
    ("on_train_batch_start", 2, 3),  # step 3 is under way
    ("on_before_backward", 3, 4),  # its end is the switch
    ("on_validation_batch_end", 1, 2),
    ("on_train_batch_end", 5, 6),
]


@pytest.mark.parametrize(("hook", "step", "expected"), MOMENTS)
def test_sigterm_saves_at_the_end_of_the_step(prepared_dir, tmp_path, uninterrupted, capfd, hook, step, expected):
    with pytest.raises(TrainingStopped) as stopped:
        fit(prepared_dir, tmp_path, [SignalAt(signal.SIGTERM, hook, step)])
    assert stopped.value.code == 128 + 15
    if hook == "on_train_batch_end":
        expected = saved_step(tmp_path)  # the hook comes at both micro-batches
        assert expected in (step, step + 1)
    assert saved_step(tmp_path) == expected
    assert f"stopped by SIGTERM after optimizer step {expected}, saved in" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert fit(prepared_dir, tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt") == uninterrupted


def test_ctrl_c_does_the_same(prepared_dir, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingStopped) as stopped:
        fit(prepared_dir, tmp_path, [SignalAt(signal.SIGINT, "on_train_batch_start", 2)])
    assert (stopped.value.code, saved_step(tmp_path)) == (128 + 2, 3)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_in_the_last_step_ends_the_run_when_it_is_saved(prepared_dir, tmp_path):
    after_training = []
    ended = L.Callback()
    ended.on_fit_end = lambda *_: after_training.append(1)
    with pytest.raises(TrainingStopped):
        fit(prepared_dir, tmp_path, [SignalAt(signal.SIGTERM, "on_train_batch_start", STEPS - 1), ended])
    assert saved_step(tmp_path) == STEPS
    assert not after_training


class SignalWorkers(L.Callback):
    """A batch system signals every process of a job: here the reading workers."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            for worker in torch.multiprocessing.active_children():
                # Not from this process, which may end its workers so.
                os.system(f"kill -TERM {worker.pid}")


def test_workers_leave_signals_to_the_main_process(prepared_dir, tmp_path, uninterrupted):
    assert fit(prepared_dir, tmp_path, [SignalWorkers()], num_workers=2) == uninterrupted
    assert not torch.multiprocessing.active_children()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The environment of a job of one task, with a ``scontrol`` that writes down what it is asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in {"NTASKS": 1, "JOB_ID": 4711, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    return lambda: (tmp_path / "asked").read_text().split() if (tmp_path / "asked").exists() else []


def test_slurms_signal_saves_requeues_and_ends_the_job(prepared_dir, tmp_path, uninterrupted, slurm, capfd):
    """In the middle of a step, where Lightning would save at once."""
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped) as stopped:
        fit(prepared_dir, run, [SignalAt(signal.SIGUSR1, "on_before_backward", 2)])
    assert (stopped.value.code, saved_step(run)) == (128 + 10, 3)
    assert slurm() == ["requeue", "4711"]
    assert "SLURM job 4711 is requeued" in capfd.readouterr().err
    assert not list(run.glob("hpc_ckpt_*")), "Lightning would take it up by itself, in any later job too"
    assert fit(prepared_dir, run, ckpt_path=run / "checkpoints" / "last.ckpt") == uninterrupted


def test_an_array_job_is_requeued_by_its_own_name(prepared_dir, tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "11")
    with pytest.raises(TrainingStopped):
        fit(prepared_dir, tmp_path / "run", [SignalAt(signal.SIGUSR1, "on_train_batch_start", 1)])
    assert slurm() == ["requeue", "4700_11"]


def test_scancel_does_not_requeue(prepared_dir, tmp_path, slurm):
    with pytest.raises(TrainingStopped) as stopped:
        fit(prepared_dir, tmp_path / "run", [SignalAt(signal.SIGTERM, "on_train_batch_start", 2)])
    assert stopped.value.code == 128 + 15
    assert slurm() == []
