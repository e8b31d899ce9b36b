import json
import logging
import os
import random
import shutil
import socket
import time
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from pseudo_corpus import pseudo_text_tokens, write_prepared

from tst_lightning.data.preparing.heldout import CONTINUATION, LAST_WORD
from tst_lightning.errors import UserError
from tst_lightning.evaluation import task_loading
from tst_lightning.evaluation.builtin_tasks import folders_defining
from tst_lightning.evaluation.task_loading import load_tasks


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that never downloaded anything."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port on which nothing listens: refused at once, and nothing leaves this machine."""
    for variable in ("https_proxy", "HTTPS_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def test_bundled_tasks_from_any_working_directory(items_dir: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(items_dir.parent)
    loaded = load_tasks(["heldout"], items_dir.name)
    monkeypatch.chdir(tmp_path)
    assert list(loaded["tasks"]) == [LAST_WORD, CONTINUATION]
    last_word, continuation = loaded["tasks"].values()
    document = next(iter(last_word.test_docs()))
    assert last_word.doc_to_text(document) == "The river number 0 was seen near the"
    assert last_word.doc_to_target(document) == " river"
    assert continuation.doc_to_choice(next(iter(continuation.test_docs())))[0] == "river and came home 0"
    assert len(last_word.test_docs()) == len(continuation.test_docs()) == 12
    files = last_word.get_config("dataset_kwargs")["data_files"]
    assert files == {"test": str((items_dir / "evaluation" / f"{LAST_WORD}.jsonl").resolve())}
    assert list(tmp_path.iterdir()) == []  # nothing is left in the user's cache


@pytest.mark.parametrize("name", [LAST_WORD, CONTINUATION])
def test_what_is_scored_reads_as_the_text_did(items_dir: Path, name: str) -> None:
    """Context and what is scored join to running text: one space between them, none doubled."""
    task = load_tasks([name], items_dir)["tasks"][name]
    task.build_all_requests(limit=12)
    pairs = [instance.args for instance in task.instances]
    assert len(pairs) == (12 if name == LAST_WORD else 48)
    for context, continuation in pairs:
        assert not context.endswith(" ")
        assert continuation.startswith(" ")
        assert not continuation.startswith("  ")


def test_edited_items_are_not_served_from_a_cache(items_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / f"{LAST_WORD}.jsonl"
    path.parent.mkdir()
    for count in (3, 2):
        path.write_text("".join(json.dumps({"context": f"text {i}", "target": "more"}) + "\n" for i in range(count)))
        assert len(load_tasks([LAST_WORD], tmp_path)["tasks"][LAST_WORD].test_docs()) == count


@pytest.mark.parametrize(
    ("names", "data_dir", "message"),
    [
        ([LAST_WORD], None, "no data folder is known"),
        ([LAST_WORD], "nowhere", "that is no prepared corpus"),
        (["arc_eazy"], None, "did you mean 'arc_easy'"),
        (["missing.yaml"], None, "no task file"),
    ],
)
def test_mistaken_names(names: list[str], data_dir: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_tasks(names, data_dir)


def corpus_with(folder: Path, items_dir: Path, counts: dict[str, int]) -> Path:
    """A prepared corpus that has these items."""
    write_prepared(folder, [pseudo_text_tokens(500, 1)], [pseudo_text_tokens(500, 2)])
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"evaluation_items": counts}))
    (folder / "evaluation").mkdir()
    for name in (name for name, count in counts.items() if count):
        shutil.copy(items_dir / "evaluation" / f"{name}.jsonl", folder / "evaluation")
    return folder


def test_a_bundled_task_without_items_is_left_out_of_the_group(items_dir: Path, tmp_path: Path, caplog) -> None:
    data_dir = corpus_with(tmp_path / "one", items_dir, {LAST_WORD: 0, CONTINUATION: 12})
    with caplog.at_level("INFO"):
        assert list(load_tasks(["heldout"], data_dir)["tasks"]) == [CONTINUATION]
    assert f"task '{LAST_WORD}' of 'heldout' is left out: it has no items in '{data_dir}' (too little" in caplog.text
    with pytest.raises(UserError, match=rf"'{LAST_WORD}' has no items .* \(there are items of {CONTINUATION}\)"):
        load_tasks([LAST_WORD, CONTINUATION], data_dir)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({LAST_WORD: 0, CONTINUATION: 0}, "too little .* larger validation_fraction"),
        ({}, "with evaluation_items 0; pr"),
    ],
)
def test_a_corpus_without_any_items(items_dir: Path, tmp_path: Path, counts: dict[str, int], message: str) -> None:
    data_dir = corpus_with(tmp_path / "none", items_dir, counts)
    with pytest.raises(UserError, match=rf"task '{LAST_WORD}' has no items .*{message}"):
        load_tasks(["heldout"], data_dir)


def test_a_file_of_items_that_is_lost_is_no_small_corpus(items_dir: Path, tmp_path: Path) -> None:
    data_dir = corpus_with(tmp_path / "lost", items_dir, {LAST_WORD: 12, CONTINUATION: 12})
    (data_dir / "evaluation" / f"{LAST_WORD}.jsonl").unlink()
    with pytest.raises(UserError, match=rf"'{LAST_WORD}' has no items .* with 12 of them; prepare it again"):
        load_tasks(["heldout"], data_dir)


def test_broken_items(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / f"{LAST_WORD}.jsonl"
    path.parent.mkdir()
    path.write_text("not json\n")
    with pytest.raises(UserError, match="not readable as items"):
        load_tasks([LAST_WORD], tmp_path)


@pytest.mark.usefixtures("_no_hub")
@pytest.mark.parametrize(
    ("name", "source"), [("arc_easy", "allenai/ai2_arc"), ("blimp", "nyu-mll/blimp"), ("ai2_arc", "allenai/ai2_arc")]
)
def test_builtin_task_without_data_or_hub_fails_within_seconds(name: str, source: str, items_dir: Path) -> None:
    load_tasks([LAST_WORD], items_dir)  # imports are not part of the time
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_tasks([LAST_WORD, name], items_dir)
    assert time.monotonic() - start < 30  # it is seconds; the hub's own attempts and pauses take minutes
    message = str(caught.value)
    assert "\n" not in message
    for part in (f"'{name}'", f"'{source}'", "127.0.0.1", "HF_HOME", LAST_WORD):
        assert part in message
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


def test_offline_by_wish_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        load_tasks(["arc_easy"])


def test_reachable_hub_is_asked_after_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first load runs offline, the second with the flags as they were."""
    offline = []

    def load_dataset(**_):
        offline.append(datasets.config.HF_HUB_OFFLINE)
        if len(offline) == 1:
            raise ConnectionError("not cached")
        rows = [{"question": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}]
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows) for split in ("train", "validation", "test")}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(task_loading, "why_no_hub", lambda: None)
    loaded = load_tasks(["arc_easy"])
    assert offline == [True, False]
    assert loaded["tasks"]["arc_easy"].get_config("num_fewshot") == 0


def test_task_file_of_the_user(items_dir: Path, tmp_path: Path) -> None:
    items = items_dir / "evaluation" / f"{LAST_WORD}.jsonl"
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\noutput_type: loglikelihood\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: '{items}'}}}}\n"
        "doc_to_text: context\ndoc_to_target: target\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    assert list(load_tasks([str(tmp_path / "own.yaml")])["tasks"]) == ["own"]


def test_generating_task_is_refused(items_dir: Path, tmp_path: Path) -> None:
    items = items_dir / "evaluation" / f"{LAST_WORD}.jsonl"
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\noutput_type: generate_until\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: '{items}'}}}}\n"
        "doc_to_text: context\ndoc_to_target: target\ngeneration_kwargs: {until: ['.']}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(UserError, match="'own' generates text"):
        load_tasks([str(tmp_path / "own.yaml")])


def test_loading_leaves_random_states_logging_and_environment(items_dir: Path, capfd) -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    level, environment = logging.getLogger("lm_eval").level, dict(os.environ)
    load_tasks(["heldout"], items_dir)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert logging.getLogger("lm_eval").level == level
    assert dict(os.environ) == environment
    assert capfd.readouterr() == ("", "")


def test_builtin_names_are_found_as_task_group_and_tag() -> None:
    folders = {path.name for path in folders_defining(["boolq", "mmlu", "ai2_arc"])}
    assert {"boolq", "default", "arc"} <= folders
    # Some files put even the keys in quotes.
    assert ("mmlu", "default") in [path.parts[-2:] for path in folders_defining(["mmlu_anatomy"])]
