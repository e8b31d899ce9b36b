"""litgpt's preparation of text files, for benchmarks/prepare.py: run by a Python that has litgpt, not by ours.

python benchmarks/litgpt_prepare.py TRAIN_DIR VALIDATION_DIR TOKENIZER_DIR WORKERS
"""

import os
import shutil
import sys
from pathlib import Path


def main() -> None:
    train_dir, validation_dir, tokenizer_dir, workers = sys.argv[1:]
    for old in (Path(train_dir, "train"), Path(validation_dir, "val")):
        shutil.rmtree(old, ignore_errors=True)  # what is there would not be prepared again
    from litgpt.data import TextFiles
    from litgpt.tokenizer import Tokenizer

    # TextFiles starts one process less than there are CPUs, and has no option for another number.
    os.cpu_count = lambda: int(workers) + 1
    data = TextFiles(Path(train_dir), Path(validation_dir))
    data.connect(Tokenizer(tokenizer_dir), batch_size=1, max_seq_length=1024)
    data.prepare_data()


if __name__ == "__main__":
    main()
