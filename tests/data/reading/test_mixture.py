"""Mixtures: exact shares, corpora of their own order, and what the data module makes of them."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import concat_corpus
from pseudo_corpus import pseudo_text_tokens, write_prepared
from recording import Recorder, fit, trainer

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.reading.mixture import BLOCK_ROWS, Mixture
from tst_lightning.data.reading.plan import Plan
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

LENGTH = 16
WEIGHTS = st.lists(st.floats(0.1, 10), min_size=1, max_size=5).map(tuple)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.integers(0, 3 * BLOCK_ROWS), st.integers(0, 5), st.integers(0, 3))
def test_shares_are_exact_and_rows_are_numbered_through(weights, rows: int, segment: int, stream: int) -> None:
    """Against walking along the stream."""
    mixture = Mixture(weights, seed=segment)
    counts = [0] * len(weights)
    for number in range(rows):
        corpus, in_corpus = mixture.locate(segment, stream, number)
        assert in_corpus == counts[corpus]
        counts[corpus] += 1
    assert mixture.counts(segment, stream, rows) == tuple(counts)
    whole = rows // BLOCK_ROWS * BLOCK_ROWS
    for count, share in zip(mixture.counts(segment, stream, whole), mixture.shares, strict=True):
        assert abs(count - whole * share) < 1


def test_shares_hold_in_the_long_run_and_any_row_is_found_at_once() -> None:
    mixture = Mixture((0.1, 0.2, 0.7))
    counts = mixture.counts(0, 0, 10**12)
    assert sum(counts) == 10**12
    assert [count / 10**12 for count in counts] == pytest.approx([0.1, 0.2, 0.7], abs=1e-9)
    corpus, number = mixture.locate(0, 0, 10**12)
    assert number == counts[corpus]


def test_corpora_alternate_at_random() -> None:
    corpora = [Mixture((1, 1), seed).locate(0, 0, number)[0] for seed in (0, 1) for number in range(BLOCK_ROWS)]
    switches = np.count_nonzero(np.diff(corpora))
    assert switches == pytest.approx(BLOCK_ROWS, rel=0.1)
    assert corpora[:BLOCK_ROWS] != corpora[BLOCK_ROWS:]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 0.0), "positive numbers"),
        ((1.0, -1.0), "positive numbers"),
        ((float("nan"),), "positive numbers"),
        ((1.0, 0.0005), "less than one row in 1024"),
    ],
)
def test_impossible_weights_are_refused(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture(weights)


def test_each_corpus_has_its_own_passes() -> None:
    """A small corpus with a large share comes around while the large one is still in its first pass."""
    small, large = concat_corpus((10,), 1, number=0), concat_corpus((1000,), 1, number=1)
    plan = Plan((small, large), mixture=Mixture((1, 1)), batch_size=8)
    rows = [span for micro in range(8) for (span,) in plan.batch(micro, 0)]
    of_small = [span.first_token for span in rows if span.corpus == 0]
    of_large = [span.first_token for span in rows if span.corpus == 1]
    assert len(set(of_large)) == len(of_large)
    for start in range(0, len(of_small) - 10, 10):
        assert len(set(of_small[start : start + 10])) == 10
    assert plan.passes_needed(8) == (len(of_small) / 10, len(of_large) / 1000)


def test_equal_corpora_are_shuffled_differently() -> None:
    plan = Plan(tuple(concat_corpus((400,), 1, number=number) for number in (0, 1)), mixture=Mixture((1, 1)))
    rows = [span for micro in range(200) for (span,) in plan.batch(micro, 0)]
    first, second = ([span.first_token for span in rows if span.corpus == number] for number in (0, 1))
    assert first[:50] != second[:50]


@pytest.fixture(scope="module")
def two_corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Corpora of other sizes; the even ids are the first one's, the odd ones the second's."""
    folders = []
    for parity in (0, 1):
        train, validation = (
            [np.minimum(pseudo_text_tokens(tokens, seed) // 2 * 2 + parity, 256 - parity) for seed in seeds]
            for tokens, seeds in ((30_000 * (1 + parity), (0, 1)), (4_000, (7,)))
        )
        folders.append(write_prepared(tmp_path_factory.mktemp("mixture") / "abcd"[parity], train, validation))
    return folders[0], folders[1]


def make_data(folders, weights, **options) -> TokenDataModule:
    data_dir = {str(folder): weight for folder, weight in zip(folders, weights, strict=True)}
    return TokenDataModule(data_dir, LENGTH, **{"batch_size": 8, "num_workers": 0, "validation_windows": 40, **options})


class Parities(Recorder):
    """Counts the rows of each corpus."""

    def training_step(self, batch: dict, batch_idx: int):
        self.parities = [*getattr(self, "parities", []), *(batch["tokens"][:, 0, 0] % 2).tolist()]
        return super().training_step(batch, batch_idx)


def test_batches_are_mixed_by_rows(two_corpora, tmp_path) -> None:
    module, data = Parities(), make_data(two_corpora, (3, 1), epochs=2)
    trainer(tmp_path, 128, Schedule.superposition(4, 60)).fit(module, data)
    assert len(module.parities) == 8 * 128
    assert sum(module.parities) == sum(data._train_plan.mixture.counts(segment, 0, rows)[1]
                                       for segment, rows in ((0, 480), (1, 544)))  # fmt: skip
    assert sum(module.parities) == pytest.approx(256, abs=40)


def test_validation_windows_follow_the_weights(two_corpora, tmp_path) -> None:
    data = make_data(two_corpora, (3, 1))
    module = Recorder()
    trainer(tmp_path, 1).validate(module, data, verbose=False)
    windows = [row.flatten() for batch in module.validation for row in batch]
    assert [int(window[0]) % 2 for window in windows] == [0] * 30 + [1] * 10
    splits = [corpus.manifest.validation for corpus in data.corpora]
    assert data.bytes_per_token == sum(n * s.bytes / s.tokens for n, s in zip((30, 10), splits, strict=True)) / 40


def test_fewer_validation_windows_keep_the_proportion(two_corpora) -> None:
    data = make_data(two_corpora, (3, 1), validation_windows=100_000)
    first, second = data._window_counts()
    assert first == 4_000 // (LENGTH + 1)
    assert Fraction(second, first) == pytest.approx(1 / 3, abs=0.01)


def test_bytes_per_token_is_weighted(two_corpora, tmp_path) -> None:
    folders = [write_prepared(tmp_path / name, [pseudo_text_tokens(500, seed)], [pseudo_text_tokens(500, 2)])
               for seed, name in enumerate("ab")]  # fmt: skip
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    manifest["validation"]["bytes"] *= 5
    (folders[1] / "manifest.json").write_text(json.dumps(manifest))
    assert make_data(folders, (3, 1), validation_windows=20).bytes_per_token == 2.0


def test_a_run_that_exhausts_one_corpus_is_refused_by_its_name(two_corpora, tmp_path) -> None:
    """30,000 x 2 tokens of the first are 3,528 rows; with 3/4 of 8 rows a step, 588 steps."""
    message = rf"1,000 steps need [\d,]+ tokens of '{two_corpora[0]}', which has [\d,]+ for "
    message += r"each of epochs=1 .*, enough for (\d+) steps: set epochs=2 to"
    with pytest.raises(UserError, match=message) as caught:
        fit(make_data(two_corpora, (3, 1)), trainer(tmp_path, 1000))
    most = int(str(caught.value).split("lower max_steps to ")[1].split(",")[0])
    assert most == pytest.approx(588, abs=60)
    data = make_data(two_corpora, (3, 1))
    data.check(most, 1, 1)
    with pytest.raises(UserError, match="enough for"):
        data.check(most + 1, 1, 1)
    make_data(two_corpora, (3, 1), epochs=2).check(1000, 1, 1)


def test_the_log_says_what_is_read(two_corpora, tmp_path, caplog) -> None:
    with caplog.at_level("INFO"):
        fit(make_data(two_corpora, (3, 1)), trainer(tmp_path, 20, Schedule.superposition(4, 3)))
    lines = "\n".join(caplog.messages)
    assert f"'{two_corpora[0]}': 60,000 tokens, 75.0% of the rows; this run makes 0." in lines
    assert f"'{two_corpora[1]}': 120,000 tokens, 25.0% of the rows" in lines
    assert "From step 0: bag size 4, 1 x 8 rows a step\n" in lines
    assert "From step 3: bag size 1" in lines


def test_other_tokenizers_are_refused(two_corpora, tmp_path) -> None:
    other = write_prepared(tmp_path / "other", [pseudo_text_tokens(500, 0)], [pseudo_text_tokens(500, 1)])
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["tokenizer"]["hash"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"'{two_corpora[0]}' and '{other}' .* different tokenizers"):
        make_data((two_corpora[0], other), (1, 1))


def test_no_corpus_is_refused() -> None:
    with pytest.raises(UserError, match="names no corpus"):
        TokenDataModule({}, LENGTH, 4)


def test_the_same_shares_in_other_numbers_go_on(two_corpora, tmp_path) -> None:
    """The binary values of 0.7 and 0.3 are not in the proportion of 70 to 30."""
    fit(make_data(two_corpora, (0.7, 0.3)), trainer(tmp_path, 4, save_every=2))
    resumed = fit(make_data(two_corpora, (70, 30)), trainer(tmp_path / "b", 4), ckpt_path=tmp_path / "step=2.ckpt")
    assert resumed.order == [2, 3]


def test_a_corpus_twice_is_refused(two_corpora, tmp_path) -> None:
    copy = shutil.copytree(two_corpora[0], tmp_path / "copy")
    for second in (f"{two_corpora[0]}/", copy):
        with pytest.raises(UserError, match=f"'{two_corpora[0]}' and '{second}' are the same corpus, .* name it once"):
            make_data((two_corpora[0], two_corpora[1], second), (1, 1, 1))


@pytest.mark.parametrize("data_dir", [["a", "b"], "{a: 0.7, b}", "[a, b]"])
def test_a_data_dir_that_is_no_mapping_is_refused(data_dir) -> None:
    with pytest.raises(UserError, match=r"is no mapping from folders to numbers, as in \{a: 0\.7, b: 0\.3\}"):
        TokenDataModule(data_dir, LENGTH, 4)


def test_a_corpus_without_a_row_is_refused_by_its_name(two_corpora, tmp_path) -> None:
    small = write_prepared(tmp_path / "small", [pseudo_text_tokens(60, 3)], [pseudo_text_tokens(500, 4)])
    message = rf"'{small}' has 60 tokens, its shards hold 0 rows of 68 \(sequence_length 16 \+ 1, .*rows_per_group 4\)"
    with pytest.raises(UserError, match=message):
        fit(make_data((two_corpora[0], small), (1, 1), rows_per_group=4), trainer(tmp_path, 2))


def test_another_mixture_is_no_resume(two_corpora, tmp_path) -> None:
    fit(make_data(two_corpora, (1, 1)), trainer(tmp_path, 4, save_every=2))
    goes_on = fit(make_data(two_corpora, (2, 2)), trainer(tmp_path / "b", 4), ckpt_path=tmp_path / "step=2.ckpt")
    assert goes_on.order == [2, 3]
    with pytest.raises(
        UserError,
        match=r"1/2, 1/2 in the checkpoint, now 7/10, 3/10\. .* data\.data_dir .* weights",
    ):
        fit(make_data(two_corpora, (0.7, 0.3)), trainer(tmp_path / "c", 4), ckpt_path=tmp_path / "step=2.ckpt")
    for folders, weights, named in (
        (two_corpora, (1, 3), "shares of the corpora: 1/2, 1/2 in the checkpoint, now 1/4, 3/4"),
        (two_corpora[::-1], (1, 1), "corpus: "),
        (two_corpora[:1], (1,), "corpus: "),
    ):
        with pytest.raises(UserError, match=named):
            fit(make_data(folders, weights), trainer(tmp_path / "c", 4), ckpt_path=tmp_path / "step=2.ckpt")
