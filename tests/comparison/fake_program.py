"""Stands for `tst-lightning` in tests of the runner: no torch, behaviour chosen by ``--fake=...``.

Every start is a line in ``RUN/trace.jsonl``; ``--fake`` is one of

* ``ok``: end at once
* ``fail``: print something and exit with 3
* ``once``: like ``fail`` the first time, but leave a checkpoint; like ``ok`` the second
* ``sleep``: leave a checkpoint and a ``ready`` file, then sleep for a minute
* ``meet``: like ``ok``, but only once another run is at work at the same time
* ``train:LOSS``: leave a whole run that ends with this validation loss
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
    options = dict(
        argument[2:].split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument
    )
    folder = Path(options["trainer.default_root_dir"])
    first = not (folder / "trace.jsonl").exists()
    record = {"arguments": arguments, "time": time.time(), "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}
    with (folder / "trace.jsonl").open("a") as trace:
        trace.write(json.dumps(record) + "\n")
    mode, _, value = options["fake"].partition(":")
    print("hello from the run", flush=True)
    if mode in ("sleep", "once"):
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").touch()
    if mode == "sleep":
        (folder / "ready").touch()
        time.sleep(60)
    if mode == "fail" or (mode == "once" and first):
        print("10 %\r100 %\nthe disk is on fire", file=sys.stderr)
        return 3
    if mode == "meet":
        others = folder.parents[1]
        deadline = time.time() + 15
        while len(list(others.glob("*/*/trace.jsonl"))) < 2:
            if time.time() > deadline:
                return 4
            time.sleep(0.02)
    if mode == "train":
        from synthetic_runs import write_run

        write_run(folder, {50: 2.0, 100: float(value)}, 100, finished=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
