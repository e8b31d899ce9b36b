"""Stands for `tst-lightning` in tests of the runner: no torch, behaviour chosen by ``--fake=...``.

Every start is a line in ``RUN/trace.jsonl``; ``--fake`` is one of

* ``ok``: end at once
* ``fail``: print something and exit with 3
* ``once``: like ``fail`` the first time, but leave a checkpoint; like ``ok`` the second
* ``sleep``: leave a checkpoint and a ``ready`` file, then sleep for a minute
* ``meet``: like ``ok``, but only once another run is at work at the same time
* ``train:LOSS``: leave a whole run that ends with this validation loss
* ``loss:LOSS``: leave only a ``progress.json`` with this validation loss
* ``trunk``: leave ``checkpoints/step=5.ckpt``, and end once another run has started
* ``needs``: fail unless the file given as ``--ckpt_path`` exists

`evaluate` writes lm-eval's results file into its output folder; it fails if the tasks are ``broken``.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[0] == "prepare":
        return 0 if Path(arguments[-1]).read_text().strip() == "fine: true" else 5
    if arguments[0] == "evaluate":
        return evaluate(arguments)
    options = dict(
        argument[2:].split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument
    )
    folder = Path(options["trainer.default_root_dir"])
    first = not (folder / "trace.jsonl").exists()
    trace(folder / "trace.jsonl", arguments)
    mode, _, value = options["fake"].partition(":")
    print("hello from the run", flush=True)
    if mode in ("sleep", "once", "trunk"):
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / ("step=5.ckpt" if mode == "trunk" else "last.ckpt")).touch()
    if mode == "sleep":
        (folder / "ready").touch()
        time.sleep(60)
    if mode == "fail" or (mode == "once" and first):
        print("10 %\r100 %\nthe disk is on fire", file=sys.stderr)
        return 3
    if mode in ("meet", "trunk") and not others_start(folder.parents[1]):
        return 4
    if mode == "needs" and not Path(options["ckpt_path"]).is_file():
        return 6
    if mode == "loss":
        progress = {"step": 10, "max_steps": 10, "train_seconds": 1.0, "val_loss": float(value)}
        (folder / "progress.json").write_text(json.dumps(progress))
    if mode == "train":
        from synthetic_runs import write_run

        write_run(folder, {50: 2.0, 100: float(value)}, 100, finished=False)
    return 0


def evaluate(arguments: list[str]) -> int:
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    folder = Path(options["--output_dir"])
    trace(Path(options["--ckpt_path"]).parents[1] / "evaluation_trace.jsonl", arguments)
    if options["--tasks"] == "broken":
        print("no such task")
        return 7
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results_1.json").write_text(json.dumps({"results": {options["--tasks"]: {"acc,none": 0.5}}}))
    return 0


def trace(path: Path, arguments: list[str]) -> None:
    record = {"arguments": arguments, "time": time.time(), "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}
    with path.open("a") as stream:
        stream.write(json.dumps(record) + "\n")


def others_start(runs: Path) -> bool:
    """Wait for a second run."""
    deadline = time.time() + 60
    while len(list(runs.glob("*/*/trace.jsonl"))) < 2:
        if time.time() > deadline:
            return False
        time.sleep(0.02)
    return True


if __name__ == "__main__":
    sys.exit(main())
