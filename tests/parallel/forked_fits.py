"""``python forked_fits.py FILE``: several runs of ``tst-lightning fit`` one after the other, each by several processes.

A process of its own that imports everything once and forks before it has computed anything: much quicker than to start
a Python for each process of each run. ``FILE`` is a JSON list of ``[processes, arguments of fit]``.
"""

import json
import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path

from tst_lightning.run import lightning_cli


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def one_process(local_rank, processes, port, arguments):
    if processes > 1:  # Lightning then starts no processes of its own
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK=str(local_rank))
    try:
        lightning_cli.run(["fit", *arguments])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def main(path):
    context = multiprocessing.get_context("fork")
    for processes, arguments in json.loads(Path(path).read_text()):
        port = free_port()
        children = [
            context.Process(target=one_process, args=(rank, processes, port, arguments)) for rank in range(processes)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
            if child.exitcode:  # the others wait for it
                sys.exit(f"fit {arguments} by {processes} processes failed")


if __name__ == "__main__":
    main(sys.argv[1])
