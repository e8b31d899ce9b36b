"""Whether a process that trains, evaluates and saves for hours keeps its memory, files and processes.

    OMP_NUM_THREADS=1 python benchmarks/soak.py                        # two hours, into results/soak/
    OMP_NUM_THREADS=1 python benchmarks/soak.py --minutes 3 --steps 200 --output_dir runs/soak
    python benchmarks/soak.py --report_only                            # the report again, from the samples

One process trains a tiny model again and again: `fit` with superposition and a reading worker, which validates,
evaluates the bundled downstream tasks and saves every 40 optimizer steps; `fit` again from the checkpoint in its
middle, which has to end with the same bits, those of the first time; `evaluate` on the last checkpoint. Garbage is
collected after each command. A thread looks at memory (of the process, and of it with its children), open files,
threads, child processes, temporary files and shared memory every few seconds. Memory is what no file backs and no
other process shares: of the rest the system takes pages back, and gives them again, as it likes.

``samples.jsonl`` grows by a line at every look and the report is renewed after every round, so that a soak that is
stopped has its result too. Memory is flat if the upper end of the 95 % interval of its least-squares slope after the
warm-up is below 10 MB/h. The interval is that of means over at most 24 equal spans, because successive looks are not
independent. A count has grown if its median over the last quarter is above that over the first. Exits with 1 if
memory is not flat or anything else grew.
"""

import argparse
import contextlib
import gc
import io
import itertools
import json
import logging
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from tst_lightning.files import write_atomically

EVERY_STEPS = 40
"""Between two validations, evaluations and checkpoints."""
FLAT_MB_PER_HOUR = 10.0
BLOCKS = 24
LOOK_SECONDS = 5.0
COUNTS = ("open_files", "threads", "children", "temporary_files", "shared_memory_files")

Sample = dict[str, Any]


def prepare_corpus(folder: Path) -> Path:
    """A prepared corpus of 400 documents of made-up words, with items of the bundled tasks."""
    from tst_lightning.data.prepare import Bytes, JsonLines, prepare

    choose = random.Random(0)
    words = ["".join(choose.choices("abcdefghijklmnopqrstuvwxyz", k=choose.randint(2, 9))) for _ in range(300)]
    with (folder / "text.jsonl").open("w") as file:
        for _ in range(400):
            sentences = (" ".join(choose.choices(words, k=12)).capitalize() + "." for _ in range(30))
            file.write(json.dumps({"text": " ".join(sentences)}) + "\n")
    prepare(
        JsonLines([str(folder / "text.jsonl")]),
        str(folder / "prepared"),
        Bytes(),
        validation_fraction=0.1,
        evaluation_items=20,
        workers=1,
    )
    return folder / "prepared"


def write_config(path: Path, prepared: Path, steps: int) -> Path:
    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    callbacks = {
        "SuperpositionCallback": {"bag_size": 4, "recovery_step": steps // 3},
        "StepCheckpoint": {"every_n_steps": EVERY_STEPS, "keep_all": True},
        "DownstreamEvaluation": {"tasks": ["heldout"], "every_n_steps": EVERY_STEPS, "limit": 10},
        "Throughput": {"every_n_seconds": 0.1},
    }
    trainer = {
        "accelerator": "cpu", "devices": 1, "max_steps": steps, "max_epochs": -1, "gradient_clip_val": 1.0,
        "check_val_every_n_epoch": None, "val_check_interval": 2 * EVERY_STEPS, "num_sanity_val_steps": 0,
        "log_every_n_steps": 5, "accumulate_grad_batches": 2, "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": f"callbacks.{name}", "init_args": args} for name, args in callbacks.items()],
    }  # fmt: skip
    data = {"data_dir": str(prepared), "sequence_length": 64, "batch_size": 8, "validation_windows": 32, "epochs": 1000}
    values = {"model": {"config": {"class_path": "transformers.LlamaConfig", "init_args": sizes}}}
    path.write_text(yaml.safe_dump(values | {"data": data | {"num_workers": 1}, "trainer": trainer}))
    return path


def train_and_evaluate(config: Path, run: Path, middle: int) -> dict[str, Any]:
    """Fit, resume from the middle, evaluate; the weights at the end. The run's folder is removed."""
    import torch

    fit = ["fit", "--config", str(config), "--trainer.default_root_dir", str(run)]
    last = run / "checkpoints" / "last.ckpt"
    command(*fit)
    whole = torch.load(last, weights_only=True)["state_dict"]
    command(*fit, "--ckpt_path", str(run / "checkpoints" / f"step={middle}.ckpt"))
    resumed = torch.load(last, weights_only=True)["state_dict"]
    require_equal(whole, resumed, "a resumed run ended with other weights")
    command("evaluate", "--ckpt_path", str(last), "--tasks", "heldout", "--limit", "10", "--device", "cpu")
    shutil.rmtree(run)
    return resumed


def command(*arguments: str) -> None:
    """``tst-lightning ...`` in this process, with its output kept for the case that it fails."""
    from tst_lightning.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(arguments)
    gc.collect()  # a Trainer, its data and their open files are a cycle, which Python may keep for many fits
    if status:
        sys.exit(f"tst-lightning {' '.join(arguments)} ended with status {status}\n{out.getvalue()}{err.getvalue()}")


def require_equal(before: dict[str, Any], now: dict[str, Any], message: str) -> None:
    import torch

    if not all(torch.equal(tensor, now[name]) for name, tensor in before.items()):
        sys.exit(message)


class Watch:
    """Writes a sample of what this process holds every few seconds.

    Args:
        path: JSON lines to append to.
        temporary: where the process puts its temporary files.
    """

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path, self._temporary = path, temporary
        self._process = psutil.Process()
        self._stop, self._error = threading.Event(), None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.started = time.monotonic()
        self.rounds = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def require_going_on(self) -> None:
        """End the soak if nobody looks any more."""
        if not self._thread.is_alive():
            sys.exit(f"the thread that looks has ended: {self._error!r}")

    @property
    def hours(self) -> float:
        return (time.monotonic() - self.started) / 3600

    def _run(self) -> None:
        try:
            self._look_again_and_again()
        except Exception as error:  # whose traceback a command's redirected output would swallow
            self._error = error

    def _look_again_and_again(self) -> None:
        with self._path.open("a") as file:
            while not self._stop.wait(LOOK_SECONDS):
                # A folder that is removed, or a process that ends, in the midst of being counted.
                with contextlib.suppress(OSError, psutil.Error):
                    file.write(json.dumps({"hours": self.hours, "rounds": self.rounds} | self._look()) + "\n")
                    file.flush()

    def _look(self) -> Sample:
        shared, children, children_bytes = Path("/dev/shm"), self._process.children(recursive=True), 0
        for child in children:
            with contextlib.suppress(psutil.Error):  # it may be gone by now
                children_bytes += own_bytes(child)
        return {
            "process_mb": own_bytes(self._process) / 1e6,
            "with_children_mb": (own_bytes(self._process) + children_bytes) / 1e6,
            "open_files": self._process.num_fds(),
            "threads": self._process.num_threads(),
            "children": len(children),
            "temporary_files": sum(1 for _ in self._temporary.rglob("*")),
            # Those of torch have its process' number in their names.
            "shared_memory_files": len(list(shared.glob(f"torch_{os.getpid()}_*"))) if shared.is_dir() else 0,
        }


def own_bytes(process: psutil.Process) -> int:
    """Resident memory that is neither a file's nor shared, where the system tells."""
    memory = process.memory_info()
    return memory.rss - getattr(memory, "shared", 0)


def soak(minutes: float, steps: int, output_dir: Path) -> None:
    """Train and evaluate again and again for so long, and write ``samples.jsonl``."""
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "samples.jsonl").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        temporary = scratch / "tmp"
        temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        config = write_config(scratch / "fit.yaml", prepare_corpus(scratch), steps)
        first, middle = None, steps // 2 // EVERY_STEPS * EVERY_STEPS
        with Watch(output_dir / "samples.jsonl", temporary) as watch:
            while watch.hours < minutes / 60:
                weights = train_and_evaluate(config, scratch / "run", middle)
                first = weights if first is None else first
                require_equal(first, weights, f"round {watch.rounds} ended with other weights than the first")
                watch.rounds += 1
                watch.require_going_on()
                report(output_dir)
        tempfile.tempdir = None


def slope(samples: list[Sample], name: str) -> tuple[float, float]:
    """Least-squares slope of a quantity per hour and the half-width of its 95 % interval, of means over spans."""
    from scipy import stats

    size = max(1, -(-len(samples) // BLOCKS))
    blocks = [samples[start : start + size] for start in range(0, len(samples) - size + 1, size)]
    hours, values = ([statistics.fmean(sample[key] for sample in block) for block in blocks] for key in ("hours", name))
    if len(blocks) < 3:
        return float("nan"), float("inf")
    fitted = stats.linregress(hours, values)
    return float(fitted.slope), float(stats.t.ppf(0.975, len(blocks) - 2) * fitted.stderr)


def verdict(samples: list[Sample], warm: list[Sample]) -> dict[str, Any]:
    """Numbers of the report, and what they say; ``warm`` are the samples after the warm-up."""
    parts = ("mb_per_hour", "half_width")
    # Between two commands there is no child: how often a look falls there says nothing of memory.
    looks = {"process_mb": warm, "with_children_mb": [sample for sample in warm if sample["children"]]}
    slopes = {name: dict(zip(parts, slope(those, name), strict=True)) for name, those in looks.items()}
    quarter = max(1, len(warm) // 4)
    medians = {
        name: [statistics.median(sample[name] for sample in part) for part in (warm[:quarter], warm[-quarter:])]
        for name in COUNTS
    }
    grown = [name for name, (before, after) in medians.items() if after > before]
    process = slopes["process_mb"]
    lower, upper = (process["mb_per_hour"] + sign * process["half_width"] for sign in (-1, 1))
    if upper < FLAT_MB_PER_HOUR:
        memory = "memory is flat"
    else:
        memory = "MEMORY GROWS" if lower > 0 else "too short to tell whether memory is flat"
    return {
        "hours": samples[-1]["hours"], "looks": len(samples), "after_warm_up": len(warm),
        "rounds": samples[-1]["rounds"], "slopes": slopes, "first_and_last_quarter": medians,
        "first": samples[0], "last": samples[-1], "flat": upper < FLAT_MB_PER_HOUR, "grown": grown,
        "verdict": memory + (f"; GREW: {', '.join(grown)}" if grown else "; nothing else grew"),
    }  # fmt: skip


def report(output_dir: Path) -> bool:
    """Write ``soak.json``, ``soak.txt`` and ``memory.png`` from the samples and print it; whether all is well."""
    samples = [json.loads(text) for text in (output_dir / "samples.jsonl").read_text().splitlines()]
    total = samples[-1]["hours"]
    warm_up = min(20 / 60, total / 4)
    numbers = verdict(samples, [sample for sample in samples if sample["hours"] >= warm_up])
    texts = [
        f"{numbers['rounds']} rounds of fit, resumed fit and evaluation in {60 * total:.0f} minutes, each ended with "
        f"the same weights; {len(samples)} looks, at most {_longest_gap(samples):.0f} s apart, those of the first "
        f"{60 * warm_up:.0f} minutes as warm-up"
    ]
    for name, meaning in (
        ("process_mb", "memory of the process"),
        ("with_children_mb", "with its children, while there are some"),
    ):
        values = numbers["slopes"][name]
        first, last = (numbers[end][name] for end in ("first", "last"))
        texts.append(
            f"{meaning}: {first:.0f} MB at first, {last:.0f} MB at last, slope {values['mb_per_hour']:+.2f} +- "
            f"{values['half_width']:.2f} MB/h (95 %)"
        )
    for name, (before, after) in numbers["first_and_last_quarter"].items():
        texts.append(f"{name.replace('_', ' ')}: median {before:g} in the first quarter, {after:g} in the last")
    texts.append(numbers["verdict"])
    write_atomically(output_dir / "soak.json", json.dumps(numbers, indent=1) + "\n")
    write_atomically(output_dir / "soak.txt", "\n".join(texts) + "\n")
    draw(samples, warm_up, output_dir / "memory.png")
    print("\n".join(texts), flush=True)
    return numbers["flat"] and not numbers["grown"]


def _longest_gap(samples: list[Sample]) -> float:
    return 3600 * max(
        after["hours"] - before["hours"] for before, after in itertools.pairwise([{"hours": 0}, *samples])
    )


def draw(samples: list[Sample], warm_up: float, path: Path) -> None:
    import matplotlib

    from tst_lightning.drawing import COLOURS, STYLE, empty_figure, png

    with matplotlib.rc_context(STYLE):
        figure, (panel,) = empty_figure(1, 1, (7, 3.5))
        minutes = [60 * sample["hours"] for sample in samples]
        labels = {"process_mb": "the process", "with_children_mb": "with its children"}
        for (name, label), colour in zip(labels.items(), COLOURS[:2], strict=True):
            panel.plot(minutes, [sample[name] for sample in samples], color=colour, label=label, linewidth=1)
        panel.axvspan(0, 60 * warm_up, color="#eeeeee", zorder=0)
        panel.set(xlabel="minutes (grey: warm-up)", ylabel="memory (MB)", ylim=(0, None))
        panel.legend()
        write_atomically(path, png(figure))


def main(arguments: list[str] | None = None) -> int:
    """Soak, or only report; 0 if memory is flat and nothing grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="how long (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps of a fit (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=Path("results/soak"), help="default: %(default)s")
    parser.add_argument("--report_only", action="store_true", help="from the samples that are there")
    options = parser.parse_args(arguments)
    if not options.report_only:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        soak(options.minutes, options.steps, options.output_dir)
    return 0 if report(options.output_dir) else 1


if __name__ == "__main__":
    sys.exit(main())
