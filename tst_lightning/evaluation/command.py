"""``tst-lightning evaluate``: lm-eval tasks on a checkpoint."""

import re
from pathlib import Path
from typing import Any, Literal

from tst_lightning.errors import UserError
from tst_lightning.files import require_writable


def evaluate(
    ckpt_path: str,
    tasks: list[str] | str,
    data_dir: str | None = None,
    task_data_dir: str | None = None,
    output_dir: str | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    device: str = "auto",
    precision: Literal["32", "bf16", "16"] = "32",
    log_items: Literal["scores", "full"] = "scores",
) -> None:
    """Evaluate a checkpoint on lm-eval tasks and print the table of results.

    The tasks heldout_last_word and heldout_continuation (together: heldout) come with every prepared data
    folder and need no network. Tasks of lm-eval, such as arc_easy, are downloaded once, or read from task_data_dir.

    Args:
        ckpt_path: A .ckpt of a fit run (a file, or a sharded folder), or a Hugging Face model folder.
        tasks: Names of tasks, groups or tags, or paths of task YAML files, such as heldout,arc_easy.
        data_dir: The prepared data folder, or its URL: its tokenizer, and its items of the bundled tasks. Default:
            the one that a .ckpt was trained on; for a model folder, the tokenizer in that folder.
        task_data_dir: Folder of local copies of the data of lm-eval's own tasks: arc_easy.jsonl, or for the subtasks
            of a group blimp/causative.jsonl, with the data set's own fields. Nothing is downloaded then. (Not
            data_dir, which is the corpus.)
        output_dir: Where to write lm-eval's results and samples files: a folder of its own, which is replaced if it
            holds an earlier evaluation. Default: nowhere.
        limit: Evaluate only the first items of each task.
        max_length: Longest input in tokens; longer contexts lose their beginning. Default: the length that a
            .ckpt was trained with, at most the model's positions.
        batch_tokens: Padded tokens per forward pass: lower it if memory runs out. Default: 2048 on a CPU, 32768
            on a GPU.
        device: Such as cpu, cuda or cuda:1; auto takes a GPU if there is one.
        precision: 32, or autocast to bf16 or 16 in the forward pass. The log-softmax is always 32-bit.
        log_items: What the samples files keep of each item. scores: its number, hash, metrics and the choices'
            log-likelihoods, which paired tests need; full: the texts too, at five times the size.
    """
    tasks = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else tasks
    _check(tasks, limit, max_length, batch_tokens)
    if output_dir is not None:
        _require_replaceable(Path(output_dir))
    import torch

    from tst_lightning.data.tokenizer import load_tokenizer
    from tst_lightning.modeling.checkpoint import load_model, read_checkpoint
    from tst_lightning.modeling.sharded_checkpoint import is_sharded_checkpoint

    hosting = _check_device(device)
    is_model_folder = Path(ckpt_path).is_dir() and not is_sharded_checkpoint(ckpt_path)
    checkpoint = {} if is_model_folder else read_checkpoint(ckpt_path)
    data_dir = data_dir or checkpoint.get("data_dir") or None
    tokenizer = load_tokenizer(data_dir, fallback=ckpt_path)
    from tst_lightning.evaluation.run import evaluate_tasks, longest_input
    from tst_lightning.evaluation.saving import save_results
    from tst_lightning.evaluation.task_loading import load_tasks

    loaded = load_tasks(tasks, data_dir, task_data_dir)
    model, step = load_model(ckpt_path)
    results = evaluate_tasks(
        model.to(hosting),
        tokenizer,
        loaded,
        source=ckpt_path,
        limit=limit,
        # The state of a LightningDataModule lies under the name of its class.
        max_length=longest_input(model, max_length or checkpoint.get("TokenDataModule", {}).get("sequence_length")),
        batch_tokens=batch_tokens,
        forward_context=lambda: torch.autocast(
            hosting.type, {"bf16": torch.bfloat16, "16": torch.float16}.get(precision), precision != "32"
        ),
        progress=True,
    )
    results["config"]["step"] = step
    results["config"]["precision"] = precision
    if output_dir is not None:
        save_results(results, output_dir, log_items)
    _print_tables(results)


def _check(tasks: list[str], limit: int | None, max_length: int | None, batch_tokens: int | None) -> None:
    if not tasks or not all(tasks):
        raise UserError("no tasks given, or an empty name: name at least one, for example --tasks heldout")
    for name, value in (("limit", limit), ("max_length", max_length), ("batch_tokens", batch_tokens)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}, and must be at least 1")


def _require_replaceable(folder: Path) -> None:
    """Refuse an ``output_dir`` that holds anything but an earlier evaluation: it is replaced as a whole."""
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
        others = sorted(name for name in names if not re.fullmatch(r"(results|samples)_.*\.jsonl?", name))
        if others:
            raise UserError(
                f"output_dir '{folder}' holds other files than an evaluation's ('{others[0]}'), and would be replaced: "
                "choose a folder of its own"
            )
    elif folder.exists():
        raise UserError(f"output_dir '{folder}' is a file: choose a folder that does not exist yet")
    require_writable(folder, "output_dir")


def _check_device(device: str) -> Any:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        hosting = torch.device(device)
        torch.empty(1, device=hosting)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"device '{device}' cannot be used ({reason}): give auto, cpu, cuda or cuda:N") from error
    return hosting


def _print_tables(results: dict[str, Any]) -> None:
    from lm_eval.utils import make_table

    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
