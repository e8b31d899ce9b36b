"""lm-eval's own tasks on local copies, against the same rows served in the hub's place."""

import json
import os
from pathlib import Path

import datasets
import pytest
import yaml
from local_copies import BLIMP, MMLU, ROWS, write_copies, write_items

from tst_lightning.errors import UserError
from tst_lightning.evaluation.local_data import leaf_tasks
from tst_lightning.evaluation.run import evaluate_tasks, scores
from tst_lightning.evaluation.task_loading import _manager, load_tasks

PAPER = yaml.safe_load(Path("configs/evaluation/paper.yaml").read_text())
PAPER_TASKS = PAPER["trainer"]["callbacks+"][0]["init_args"]["tasks"]


@pytest.fixture(scope="module")
def manager():
    return _manager(PAPER_TASKS)


@pytest.fixture(scope="module")
def copies(manager, tmp_path_factory: pytest.TempPathFactory) -> Path:
    subsets = {
        group: [manager.task_index[task].cfg["dataset_name"] for task in leaf_tasks(manager, group)]
        for group in ("blimp", "mmlu")
    }
    return write_copies(tmp_path_factory.mktemp("copies"), subsets)


@pytest.fixture
def no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither hub nor cache has anything."""

    def load_dataset(path: str, **_):
        raise ConnectionError(f"{path} was asked for")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    return cache


@pytest.mark.usefixtures("no_load")
def test_all_of_the_papers_tasks_zero_shot(copies: Path, empty_cache: Path, model, tokenizer) -> None:
    loaded = load_tasks(PAPER_TASKS, task_data_dir=copies)
    tasks = loaded["tasks"]
    assert len([name for name in tasks if name.startswith("blimp_")]) == 67
    assert len([name for name in tasks if name.startswith("mmlu_")]) == 57
    assert len(tasks) == 67 + 57 + 9
    assert {task.get_config("num_fewshot") for task in tasks.values()} == {0}
    assert {"blimp", "mmlu", "mmlu_stem"} <= loaded["groups"].keys()
    assert tasks["arc_easy"].dump_config()["dataset_kwargs"] == {
        "data_files": {"test": str((copies / "arc_easy.jsonl").resolve())}
    }
    found = scores(evaluate_tasks(model, tokenizer, loaded, limit=2))
    assert {"blimp/acc", "mmlu/acc", "hellaswag/acc_norm", "wikitext/bits_per_byte"} <= found.keys()
    assert not empty_cache.exists()


SAME = {**ROWS, "blimp_causative": BLIMP, "mmlu_anatomy": MMLU}


@pytest.mark.parametrize("name", SAME)
def test_same_requests_as_from_the_hub(name: str, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_the_hub(path: str, name: str | None = None, **_):
        splits = ("train", "dev", "validation", "test")
        return datasets.DatasetDict(dict.fromkeys(splits, datasets.Dataset.from_list(SAME[name_of_task])))

    name_of_task = name
    local = load_tasks([name], task_data_dir=copies)["tasks"][name]
    monkeypatch.setattr(datasets, "load_dataset", from_the_hub)
    hub = load_tasks([name])["tasks"][name]
    built = []
    for task in (local, hub):
        task.build_all_requests()
        built.append([(request.request_type, request.args, request.doc, request.doc_id) for request in task.instances])
    assert built[0] == built[1]
    assert len({doc_id for *_, doc_id in built[0]}) == len(SAME[name])
    documents = [request.doc for request in local.instances if request.idx == 0]
    assert [local.doc_to_target(doc) for doc in documents] == [hub.doc_to_target(doc) for doc in documents]
    settings = [task.dump_config() for task in (local, hub)]
    changed = {key for key in settings[0] | settings[1] if settings[0].get(key) != settings[1].get(key)}
    assert changed <= {"dataset_path", "dataset_name", "dataset_kwargs", "metadata"}


def test_prompts_by_hand(copies: Path) -> None:
    tasks = load_tasks(["arc_easy", "hellaswag", "winogrande"], task_data_dir=copies)["tasks"]
    for task in tasks.values():
        task.build_all_requests(limit=1)
    assert [request.args for request in tasks["arc_easy"].instances] == [
        ("Question: What bakes bread 0?\nAnswer:", f" {choice}") for choice in ("an oven", "a river", "a shoe")
    ]
    # The definition's own function: joined, capitalised, brackets removed.
    assert tasks["hellaswag"].instances[0].args == ("Baking bread: A baker kneads dough. The baker", " sings .")
    beginning = "The bread does not fit the oven because the "
    assert [request.args for request in tasks["winogrande"].instances] == [
        (beginning + option, " is too large.") for option in ("bread", "oven")
    ]


@pytest.mark.usefixtures("no_load")
def test_a_file_for_each_split(tmp_path: Path) -> None:
    write_items(tmp_path / "arc_easy" / "train.jsonl", ROWS["arc_easy"][:1])
    write_items(tmp_path / "arc_easy" / "test.jsonl", ROWS["arc_easy"])
    write_items(tmp_path / "mmlu" / "anatomy" / "test.jsonl", MMLU)
    tasks = load_tasks(["arc_easy", "mmlu_anatomy"], task_data_dir=tmp_path)["tasks"]
    assert [len(tasks["arc_easy"].dataset[split]) for split in ("train", "validation", "test")] == [1, 0, 3]
    assert len(tasks["mmlu_anatomy"].test_docs()) == 2


@pytest.mark.usefixtures("no_load")
def test_what_is_missing_is_named_with_what_is_there(copies: Path, tmp_path: Path, manager) -> None:
    with pytest.raises(UserError, match="'nowhere' is not a folder"):
        load_tasks(["arc_easy"], task_data_dir="nowhere")
    write_items(tmp_path / "arc_easy.jsonl", ROWS["arc_easy"])
    for subset in ("causative", "drop_argument"):
        write_items(tmp_path / "blimp" / f"{subset}.jsonl", BLIMP)
    with pytest.raises(UserError) as caught:
        load_tasks(["arc_easy", "piqa", "blimp"], task_data_dir=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "'piqa'",
        "'blimp_adjunct_island'",
        "and 61 more",
        f"'{tmp_path}/piqa.jsonl'",
        "arc_easy.jsonl, blimp/",
    ):
        assert part in message
    with pytest.raises(UserError, match=r"or '.*/blimp/wh_island.jsonl'; there"):
        load_tasks(["blimp_wh_island"], task_data_dir=tmp_path)


def test_a_task_without_a_copy_may_be_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = []

    def cached(**_):
        offline.append(datasets.config.HF_HUB_OFFLINE)
        return datasets.DatasetDict(dict.fromkeys(("train", "validation"), datasets.Dataset.from_list(ROWS["piqa"])))

    monkeypatch.setattr(datasets, "load_dataset", cached)
    write_items(tmp_path / "arc_easy.jsonl", ROWS["arc_easy"])
    assert list(load_tasks(["arc_easy", "piqa"], task_data_dir=tmp_path)["tasks"]) == ["arc_easy", "piqa"]
    assert offline
    assert all(offline)


def without(field: str, rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != field} for row in rows]


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("arc_easy", without("question", ROWS["arc_easy"]), "'question'"),
        ("openbookqa", without("question_stem", ROWS["openbookqa"]), "no field 'question_stem'.*answerKey, choices"),
        ("boolq", without("label", ROWS["boolq"]), "no field 'label'"),
        ("hellaswag", without("ctx_a", ROWS["hellaswag"]), "KeyError: 'ctx_a'"),
        ("winogrande", without("sentence", ROWS["winogrande"]), "KeyError: 'sentence'"),
        ("piqa", [ROWS["piqa"][0], *without("label", ROWS["piqa"])], "line 2, has the fields goal, sol1, sol2, unlike"),
        ("piqa", [], "is empty"),
    ],
)
def test_other_fields_are_refused(task: str, rows: list[dict], message: str, tmp_path: Path) -> None:
    path = tmp_path / f"{task}.jsonl"
    write_items(path, rows)
    with pytest.raises(UserError, match=message) as caught:
        load_tasks([task], task_data_dir=tmp_path)
    assert f"'{path}'" in str(caught.value)
    assert f"'{task}'" in str(caught.value)


def test_not_json(tmp_path: Path) -> None:
    (tmp_path / "piqa.jsonl").write_text(json.dumps(ROWS["piqa"][0]) + "\n<html>\n")
    with pytest.raises(UserError, match=r"piqa.jsonl', line 2, is not JSON"):
        load_tasks(["piqa"], task_data_dir=tmp_path)


@pytest.mark.skipif("TST_EVAL_DATA" not in os.environ, reason="TST_EVAL_DATA names no folder of real copies")
def test_real_copies(model, tokenizer) -> None:
    folder = Path(os.environ["TST_EVAL_DATA"])
    names = sorted(path.stem for path in folder.iterdir())
    loaded = load_tasks(names, task_data_dir=folder)
    for name, task in loaded["tasks"].items():
        lines = folder / f"{name}.jsonl" if name in names else folder / "blimp" / f"{name.removeprefix('blimp_')}.jsonl"
        assert len(task.eval_docs) == len(lines.read_text().strip().split("\n"))
    found = scores(evaluate_tasks(model, tokenizer, loaded, limit=20))
    assert all(0 <= value <= 1 for name, value in found.items() if name.endswith("/acc"))
