"""Checkpoints and models that must be refused by every command that takes one."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import torch
from malformed_cases import CHECKPOINT, FIT, Case, parametrize, require_refused

RESUME = (*FIT, "--ckpt_path", "bad.ckpt")
VALIDATE = ("validate", "--config", "{world}/fit.yaml", "--ckpt_path", "bad.ckpt")
EXPORT = ("export", "--ckpt_path", "bad.ckpt", "--output_dir", "out")
EVALUATE = ("evaluate", "--ckpt_path", "bad.ckpt", "--tasks", "{world}/task.yaml", "--data_dir", "{world}/prepared")
COMMANDS = {"resume": RESUME, "validate": VALIDATE, "export": EXPORT, "evaluate": EVALUATE}


class RunsCode:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


def zip_of(**members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def saved(value: object) -> bytes:
    target = io.BytesIO()
    torch.save(value, target)
    return target.getvalue()


CONTENTS = {
    "empty": (b"", r"bad\.ckpt", "checkpoint"),
    "text": (b"these are not weights\n", r"bad\.ckpt", "checkpoint"),
    "another zip": (zip_of(readme=b"nothing"), r"bad\.ckpt", "checkpoint"),
    "zip with members elsewhere": (
        zip_of(**{"../outside": b"x", "archive/data.pkl": b"x"}),
        r"bad\.ckpt",
        "checkpoint",
    ),
    "plain pickle with code": (pickle.dumps(RunsCode()), r"bad\.ckpt", "checkpoint"),
    "zip with code": (saved({"state_dict": RunsCode()}), r"bad\.ckpt", "checkpoint"),
    "a tensor": (saved(torch.zeros(2)), r"bad\.ckpt", "checkpoint"),
    "empty dictionary": (saved({}), r"bad\.ckpt", "checkpoint"),
}
FILES = {
    f"{command}: {name}": Case(arguments, tuple(words), {"bad.ckpt": content})
    for command, arguments in COMMANDS.items()
    for name, (content, *words) in CONTENTS.items()
}


def cut(here: Path, world: Path) -> None:
    content = (world / "run/checkpoints/last.ckpt").read_bytes()
    (here / "bad.ckpt").write_bytes(content[: len(content) // 2])


def changed(change):
    """A checkpoint of a run, with something done to its values."""

    def make(here: Path, world: Path) -> None:
        values = torch.load(world / "run/checkpoints/last.ckpt", weights_only=True)
        change(values)
        torch.save(values, here / "bad.ckpt")

    return make


MADE = {
    f"{command}: {name}": Case(arguments, words, make=make)
    for command, arguments in COMMANDS.items()
    for name, words, make in (
        ("missing", (r"no checkpoint at '.*bad\.ckpt'",), None),
        ("cut", (r"bad\.ckpt", "checkpoint"), cut),
        ("a folder", (r"bad\.ckpt", "folder|checkpoint"), lambda here, world: (here / "bad.ckpt").mkdir()),
        ("without weights", (r"bad\.ckpt|parameters|state_dict",), changed(lambda v: v["state_dict"].clear())),
    )
}
OTHERS = {
    "another model": Case(
        (*FIT, "--ckpt_path", CHECKPOINT, "--model.config.init_args.hidden_size=32"), ("checkpoint", "hidden_size|size")
    ),
    "validate another model": Case(
        ("validate", *FIT[1:3], "--ckpt_path", CHECKPOINT, "--model.config.init_args.hidden_size=32"), ("checkpoint",)
    ),
    "another optimizer": Case(
        (*FIT, "--ckpt_path", CHECKPOINT, "--model.optimizer=torch.optim.SGD"), ("checkpoint", "SGD")
    ),
    "another seed of the data": Case((*FIT, "--ckpt_path", CHECKPOINT, "--data.seed=7"), ("seed", "7")),
    "another corpus": Case(
        (*FIT, "--ckpt_path", CHECKPOINT, "--data.data_dir=other"), ("checkpoint|resume", "other|corpus|text")
    ),
    "past the end": Case(
        (*FIT, "--ckpt_path", CHECKPOINT, "--trainer.max_steps=1"), ("of step 2", "max_steps=1", "raise")
    ),
    "export to a file": Case(("export", "--ckpt_path", CHECKPOINT, "--output_dir=a"), ("'a' is a file",), {"a": "x"}),
    "export over others": Case(("export", "--ckpt_path", CHECKPOINT, "--output_dir=."), ("not empty",), {"a": "x"}),
    "export below a file": Case(("export", "--ckpt_path", CHECKPOINT, "--output_dir=a/b"), ("a/b",), {"a": "x"}),
    "export dtype": Case(("export", "--ckpt_path", CHECKPOINT, "--output_dir=out", "--dtype=int8"), ("dtype", "int8")),
    "export tokenizer": Case(
        ("export", "--ckpt_path", CHECKPOINT, "--output_dir=out", "--tokenizer=nowhere"), ("nowhere", "folder")
    ),
    "evaluate an empty folder": Case(
        ("evaluate", "--ckpt_path=model", "--tasks={world}/task.yaml", "--data_dir={world}/prepared"),
        ("model", "config.json"),
        make=lambda here, world: (here / "model").mkdir(),
    ),
    "evaluate limit 0": Case(("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=heldout", "--limit=0"), ("limit is 0",)),
    "evaluate no tasks": Case(("evaluate", "--ckpt_path", CHECKPOINT, "--tasks="), ("no tasks", "heldout")),
    "evaluate device": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=heldout", "--device=tpu9"), ("tpu9", "cpu, cuda")
    ),
    "evaluate precision": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=heldout", "--precision=8"), ("precision", "8")
    ),
    "evaluate without items": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=heldout"), ("heldout_last_word", "no items", "prepare")
    ),
    "evaluate unknown task": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=arc_eassy"), ("arc_eassy", "did you mean", "arc_easy")
    ),
    "evaluate no task file": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=a.yaml"), ("no task file 'a.yaml'",)
    ),
    "evaluate a broken task file": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=a.yaml"), ("a.yaml",), {"a.yaml": "task: [\n"}
    ),
    "evaluate no task data": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=arc_easy", "--task_data_dir=nowhere"), ("nowhere", "folder")
    ),
    "evaluate broken task data": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=arc_easy", "--task_data_dir=data"),
        ("arc_easy.jsonl", "line 1"),
        {"data/arc_easy.jsonl": "{\n"},
    ),
    "evaluate other task data": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=arc_easy", "--task_data_dir=data"),
        ("arc_easy.jsonl", "field"),
        {"data/arc_easy.jsonl": '{"a": 1}\n'},
    ),
    "evaluate binary task data": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=arc_easy", "--task_data_dir=data"),
        ("arc_easy.jsonl",),
        {"data/arc_easy.jsonl": b"\xff\x00\n"},
    ),
    "evaluate into a file": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks={world}/task.yaml", "--output_dir=a"),
        ("output_dir 'a'",),
        {"a": "x"},
    ),
    "evaluate over others": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks={world}/task.yaml", "--output_dir=."),
        ("other files", "'thesis.txt'", "folder of its own"),
        {"thesis.txt": "years of work"},
    ),
    "a model with code": Case(
        ("evaluate", "--ckpt_path=model", "--tasks={world}/task.yaml", "--data_dir={world}/prepared"),
        ("model", "code"),
        {
            "model/config.json": {
                "model_type": "own",
                "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
            },
            "model/own.py": "import os\nos.mkdir('ran')\n",
        },
    ),
    "training from a model with code": Case(
        (*FIT, "--model.config=null", "--model.pretrained=model"),
        ("model", "code"),
        {
            "model/config.json": {
                "model_type": "own",
                "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
            },
            "model/own.py": "import os\nos.mkdir('ran')\n",
        },
    ),
    "a tokenizer with code": Case(
        (
            "prepare",
            "--source=JsonLines",
            "--source.paths=a.jsonl",
            "--output_dir=out",
            "--workers=1",
            "--tokenizer=Pretrained",
            "--tokenizer.name_or_path=own",
        ),
        ("own", "code"),
        {
            "a.jsonl": '{"text": "x"}\n' * 50,
            "own/own.py": "import os\nos.mkdir('ran')\n",
            "own/tokenizer_config.json": {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["own.T", None]}},
        },
    ),
    "a task with unsafe code": Case(
        ("evaluate", "--ckpt_path", CHECKPOINT, "--tasks=a.yaml"),
        ("a.yaml", "scripted|trust_remote_code|script"),
        {
            "a.yaml": {
                "task": "a",
                "dataset_path": "{here}/scripted",
                "output_type": "multiple_choice",
                "test_split": "test",
                "doc_to_text": "x",
                "doc_to_target": 0,
                "doc_to_choice": ["a", "b"],
                "dataset_kwargs": {"trust_remote_code": True},
            },
            "scripted/scripted.py": "import os\nos.mkdir('ran')\n",
        },
    ),
}


@parametrize(FILES | MADE, fast_every=4)
def test_no_checkpoint_is_read_that_is_none(case, here, world, capsys):
    require_refused(case, here, world, capsys)
    assert not (here / "ran").exists()


@parametrize(OTHERS, fast_every=3)
def test_checkpoints_and_models_of_others(case, here, world, capsys):
    if "--data.data_dir=other" in case.arguments:
        other_corpus(world, here)
    require_refused(case, here, world, capsys)
    assert not (here / "ran").exists()


def other_corpus(world: Path, here: Path) -> None:
    """The same tokenizer, other text."""
    from pseudo_corpus import pseudo_text_tokens, write_prepared

    write_prepared(here / "other", [pseudo_text_tokens(20_000, 50)], [pseudo_text_tokens(5_000, 51)])
