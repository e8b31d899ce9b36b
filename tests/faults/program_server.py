"""``python program_server.py``: runs ``tst-lightning`` commands as processes of their own, without importing anew.

It imports everything once and forks for each command before it has computed anything. On standard input a JSON object
a line: ``arguments``; ``output``, a file for what the command prints; ``pause``, if it is to be caught somewhere.
On standard output the process' id, and when it has ended its exit status (negative: the signal).

``pause`` is ``[place, call, marker]``: at that call of ``place`` (see ``PLACES``) the file ``marker`` appears and the
process sleeps, to be killed.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import torch

import callbacks  # noqa: F401 - this and the next are imported once for all
import tst_lightning.evaluation.run
import tst_lightning.evaluation.task_loading
import tst_lightning.run.lightning_cli  # noqa: F401
from tst_lightning import cli

SLEEP_SECONDS = 300.0
PLACES = {
    "before the file is renamed": ("callbacks.whole_files", "os", "fsync"),
    "after the file is renamed": ("callbacks.whole_files", None, "_sync_folder"),
    "in validation": ("tst_lightning.module", "CausalLMModule", "validation_step"),
    "in downstream evaluation": ("tst_lightning.evaluation.adapter", "InMemoryLM", "_loglikelihood_tokens"),
    "after training": ("callbacks.downstream", "DownstreamEvaluation", "on_fit_end"),
    "while a part is prepared": ("tst_lightning.data.preparing.task_output", "TaskOutput", "_add_split"),
    "before a part is finished": ("tst_lightning.data.preparing.task_output", "TaskOutput", "close"),
}


def pause(place, call, marker):
    """Let the process sleep at that call of ``place``."""
    count = 0

    def sleep_at_call():
        nonlocal count
        count += 1
        if count == call:
            Path(marker).touch()
            time.sleep(SLEEP_SECONDS)

    if place == "while the file is written":
        pause_writing(sleep_at_call)
        return
    module, owner, name = PLACES[place]
    holder = importlib.import_module(module)
    holder = getattr(holder, owner) if owner else holder
    function = getattr(holder, name)

    def paused(*arguments, **options):
        sleep_at_call()
        return function(*arguments, **options)

    setattr(holder, name, paused)


def pause_writing(sleep_at_call):
    """``torch.save`` stops when it has written half of what its first 20 pieces would have been."""
    save = torch.save

    class Slow:
        def __init__(self, file):
            self.file, self.pieces = file, 0

        def write(self, piece):
            self.pieces += 1
            if self.pieces == 20:
                self.file.flush()
                sleep_at_call()
            return self.file.write(piece)

        def __getattr__(self, name):
            return getattr(self.file, name)

    torch.save = lambda checkpoint, file, *rest, **options: save(checkpoint, Slow(file), *rest, **options)


def run(order):
    os.setsid()
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(order.get("environment", {}))
    if order.get("pause"):
        pause(*order["pause"])
    sys.argv = ["tst-lightning", *order["arguments"]]
    sys.exit(cli.main(order["arguments"]))


def main():
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            run(order)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
