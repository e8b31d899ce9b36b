"""Limits against a loop over the documents, one after the other."""

import random

import pytest
from corpora import files_of, in_reading_order, prepare_small, write_files
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_folders import decoded, make_documents

from tst_lightning.data.manifest import Manifest, Split
from tst_lightning.data.preparing import in_order
from tst_lightning.data.preparing.amounts import Amounts
from tst_lightning.data.preparing.limits import Limits
from tst_lightning.data.preparing.stages import needed_tasks
from tst_lightning.data.preparing.task import Report, Task
from tst_lightning.data.sources.base import Part, TextSource
from tst_lightning.data.tokenizer import TrainedBPE
from tst_lightning.errors import UserError

DOCUMENTS = in_reading_order(make_documents(150))
SIZES = [len(text.encode()) for text in DOCUMENTS]


def kept_by(max_documents=None, max_bytes=None, max_tokens=None):
    """Byte tokens: one for each byte, and one for each end."""
    taken = Amounts()
    limits = Limits(max_documents, max_bytes, max_tokens)
    for number, size in enumerate(SIZES):
        taken += Amounts(1, size, size + 1)
        if not limits.allow(taken):
            return DOCUMENTS[:number]
    return DOCUMENTS


@pytest.mark.parametrize(
    "limits",
    [
        {"max_documents": 37},
        {"max_documents": 150},
        {"max_bytes": sum(SIZES[:50])},
        {"max_bytes": sum(SIZES[:50]) - 1},
        {"max_tokens": sum(SIZES[:71]) + 71},
        {"max_tokens": sum(SIZES[:71]) + 70},
        {"max_tokens": 10_000_000},
        {"max_documents": 60, "max_bytes": sum(SIZES[:61]), "max_tokens": sum(SIZES[:59]) + 80},
    ],
    ids=str,
)
def test_limits_are_those_of_one_reader(limits, tmp_path):
    source = write_files(tmp_path / "text")
    one = prepare_small(source, tmp_path / "one", workers=1, **limits)
    three = prepare_small(source, tmp_path / "three", workers=3, **limits)
    assert files_of(one) == files_of(three)
    taken = decoded(one, "train") + decoded(one, "validation")
    assert sorted(taken) == sorted(kept_by(**limits))
    assert Manifest.load(one).train.documents + Manifest.load(one).validation.documents == len(taken)


@pytest.mark.parametrize("batch_bytes", [500, 5_000_000])
def test_what_was_left_out_after_the_limit_does_not_count(batch_bytes, tmp_path, monkeypatch):
    """However far ahead was read."""
    monkeypatch.setattr("tst_lightning.data.preparing.batches.BATCH_BYTES", batch_bytes)
    documents = [text for document in make_documents(60) for text in (document, "", " ")]
    source = write_files(tmp_path / "text", documents, files=1)
    tokens = sum(len(text.encode()) + 1 for text in make_documents(40))
    prepare_small(source, tmp_path / "out", max_tokens=tokens, part_bytes=10_000_000, workers=1)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.train.tokens + manifest.validation.tokens == tokens
    assert manifest.skipped == {"documents without text": 80}


def test_a_restart_under_limits_takes_what_one_reader_takes(tmp_path, monkeypatch):
    source = write_files(tmp_path / "text")
    expected = prepare_small(source, tmp_path / "expected", max_documents=70, workers=1)

    def finish_and_fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tst_lightning.data.prepare.finish_corpus", finish_and_fail)
        with pytest.raises(KeyboardInterrupt):
            prepare_small(source, tmp_path / "out", max_documents=70, workers=3)
    prepare_small(source, tmp_path / "out", max_documents=70, workers=2)
    assert files_of(tmp_path / "out") == files_of(expected)


class Books(TextSource):
    def documents(self, part=None):
        choose = random.Random(0)
        for number in range(20):
            yield f"{number}. " + "".join(choose.choices("abc d\né", k=3000))


def test_a_long_document_at_the_token_limit_is_left_out_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("tst_lightning.data.preparing.batches.BATCH_BYTES", 500)
    monkeypatch.setattr("tst_lightning.data.preparing.batches.LONG_DOCUMENT_BYTES", 1000)
    out = prepare_small(Books(), tmp_path / "out", TrainedBPE(300), max_tokens=20_000, evaluation_items=0)
    texts = decoded(out, "train") + decoded(out, "validation")
    assert sorted(texts) == sorted(list(Books().documents())[: len(texts)])
    manifest = Manifest.load(out)
    assert 15_000 < manifest.train.tokens + manifest.validation.tokens <= 20_000
    assert 0 < len(texts) < 20


def test_no_more_tasks_at_a_time_than_the_limits_need():
    tasks = [Task(number, Part(size_bytes=100)) for number in range(10)]
    cases = {Limits(): 10, Limits(bytes=100): 1, Limits(bytes=101): 2, Limits(tokens=75): 3, Limits(documents=1): 10}
    cases |= {Limits(bytes=10_000): 10, Limits(bytes=450, tokens=50): 2}
    assert {limits: needed_tasks(tasks, limits) for limits in cases} == cases
    unknown = [Task(0, Part(first=0, last=1)), Task(1, Part(first=1, last=2))]
    assert [needed_tasks(unknown, limits) for limits in (Limits(), Limits(bytes=10))] == [2, 1]


EMPTY = Split(0, 0, 0, ())


def report_of(documents, limits, number):
    """What a task of these documents, given by their sizes, reports under limits."""
    taken, ended = Amounts(), False
    for size in documents:
        more = taken + Amounts(1, size, 2 * size)
        if not limits.allow(more):
            ended = True
            break
        taken = more
    return Report(number, limits, ended, Split(taken.documents, taken.bytes, taken.tokens, ()), EMPTY, {}, 0)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=8),
    st.tuples(*[st.none() | st.integers(1, 60)] * 3),
    st.integers(1, 4),
    st.integers(0, 8),
    st.randoms(use_true_random=False),
)
def test_any_order_of_finishing_gives_what_one_reader_gives(parts, limits, workers, broken, choose):
    """An engine that finishes tasks in any order; part ``broken`` fails after its documents."""
    limits = Limits(*limits)

    def run(job, task, on_advance):
        report = report_of(parts[task.number], task.limits, task.number)
        if task.number == broken and not report.ended:
            raise UserError("broken")
        return report

    class AnyOrder:
        def run(self, function, tasks, on_advance):
            running = []
            while True:
                while len(running) < workers and (task := next(tasks, None)) is not None:
                    running.append(task)
                if not running:
                    return
                task = running.pop(choose.randrange(len(running)))
                try:
                    yield task, function(task, on_advance)
                except UserError as error:
                    yield task, error

    expected, error, left = [], None, limits
    for number, documents in enumerate(parts):
        report = report_of(documents, left, number)
        if number == broken and not report.ended:
            error = "broken"
            break
        expected.append(report.amounts)
        left = left.less(report.amounts)
        if report.ended:
            break

    tasks = [Task(number, Part()) for number in range(len(parts))]
    raised, reports = None, []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(in_order, "run_task", run)
        try:
            reports = in_order.run_in_order(None, tasks, {}, limits, AnyOrder(), lambda advance: None, lambda: None)
        except UserError as user_error:
            raised = str(user_error)
    assert raised == error
    assert raised is not None or [report.amounts for report in reports] == expected
