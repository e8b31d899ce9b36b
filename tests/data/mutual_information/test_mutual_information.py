"""``tst-lightning mutual-information`` as its users meet it."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from object_storage import upload_folder
from pseudo_corpus import write_prepared

from tst_lightning.cli import main
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.mutual_information import command, figure, weights
from tst_lightning.data.reading.prepared import open_corpora

END = 256


def run(*arguments):
    return main(["mutual-information", *map(str, arguments)])


def checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_a_corpus_gives_a_fit_and_weights_and_stays_as_it_is(prepared_dir, capsys):
    before = checksums(prepared_dir)
    assert run(prepared_dir, "--max_distance", 32) == 0
    printed = capsys.readouterr()
    path = prepared_dir / "mutual_information" / "mutual_information.json"
    record = json.loads(path.read_text())
    manifest = Manifest.load(prepared_dir)
    assert record["corpus_hash"] == open_corpora(str(prepared_dir), None)[0].hash
    assert record["tokenizer_hash"] == manifest.tokenizer.hash
    assert record["tokens"] == manifest.train.tokens
    assert record["distances"] == list(range(1, 33))
    np.testing.assert_allclose(np.add(record["plugin"], record["correction"]), record["value"])
    fit = record["fit"]
    np.testing.assert_allclose(
        record["fitted"], fit["c0"] + fit["a"] * np.array(record["distances"], float) ** fit["k"], rtol=1e-9
    )
    assert record["value"][0] > 1
    assert record["independent"]["mean"] < 0.2 * record["value"][0]
    assert record["versions"].keys() == {"python", "tst-lightning", "numpy", "scipy"}
    assert (path.parent / "mutual_information.png").read_bytes().startswith(b"\x89PNG")
    bag = weights.fitted_bag_weights(path, 4)
    assert list(bag) == pytest.approx(np.array(record["fitted"][:4]) / sum(record["fitted"][:4]))
    assert "weights of a bag of 4: " + ", ".join(f"{each:.3f}" for each in bag) in printed.out
    assert str(path) in printed.out
    assert "counting pairs" in printed.err
    after = checksums(prepared_dir)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"mutual_information.json", "mutual_information.png"}
    assert main(["verify", str(prepared_dir)]) == 0


def test_the_same_seed_gives_the_same_numbers(prepared_dir, tmp_path):
    found = []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        options = ("--max_distance", 16, "--max_tokens", 40_000, "--seed", seed, "--output_dir", folder)
        assert run(prepared_dir, *options) == 0
        record = json.loads((folder / "mutual_information.json").read_text())
        assert record["seed"] == seed
        assert record["tokens"] <= 40_000
        found.append({name: value for name, value in record.items() if name not in ("command", "seed")})
    assert found[0] == found[1] != found[2]


def test_a_remote_corpus(prepared_dir, bucket_url, monkeypatch, tmp_path):
    upload_folder(prepared_dir, bucket_url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run(prepared_dir, "--max_distance", 16, "--output_dir", "local") == 0
    assert run(bucket_url, "--max_distance", 16) == 0
    (path,) = (tmp_path / "mutual_information").glob("*/mutual_information.json")
    local, remote = (json.loads(each.read_text()) for each in (tmp_path / "local" / path.name, path))
    for name in ("value", "fit", "corpus_hash", "tokens"):
        assert local[name] == remote[name]


def independent_corpus(folder, document_tokens=400):
    ids = np.random.default_rng(0).integers(0, 200, 60_000).astype(np.uint16)
    ids[document_tokens - 1 :: document_tokens] = END
    return write_prepared(folder, [ids], [ids[:1000]])


REFUSED = {
    "distance": (["--max_distance", 4], "max_distance is 4, and must be from 8 to 4096"),
    "long distance": (["--max_distance", 5000], "max_distance is 5000, and must be from 8 to 4096"),
    "tokens": (["--max_tokens", 100], "max_tokens is 100, and must be at least 10000"),
    "seed": (["--seed", -1], "seed is -1"),
    "number": (["--max_distance", "far"], "max_distance"),
    "documents too short": (["--max_distance", 390], "only 1,500 pairs of tokens in the 60,000 that were read are 390"),
    "no information": (["--max_distance", 16], "there is nothing to fit"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_requests_leave_nothing_behind(tmp_path, capsys, options, message):
    corpus = independent_corpus(tmp_path / "corpus")
    assert run(corpus, "--output_dir", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("**/*"))
    assert not (corpus / "mutual_information").exists()


def test_the_remedy_for_short_documents_works(tmp_path, capsys):
    corpus = independent_corpus(tmp_path / "corpus")
    assert run(corpus, "--max_distance", 390) == 2
    error = capsys.readouterr().err
    assert "lower max_distance to 333 or less" in error  # 150 documents of 400: 150 * 67 pairs
    assert "raise max_tokens" not in error
    assert run(corpus, "--max_distance", 390, "--max_tokens", 20_000) == 2
    assert "or raise max_tokens" in capsys.readouterr().err


def test_what_is_no_corpus_is_refused(tmp_path, capsys, prepared_dir):
    assert run(tmp_path / "none") == 2
    assert "no prepared corpus at" in capsys.readouterr().err
    next((prepared_dir / "train").glob("*.bin")).unlink()
    assert run(prepared_dir) == 2
    assert "lacks 1 of 4 shards" in capsys.readouterr().err
    assert not (prepared_dir / "mutual_information").exists()


def test_a_failure_at_the_end_leaves_the_old_result(prepared_dir, tmp_path, monkeypatch):
    options = (prepared_dir, "--max_distance", 16, "--output_dir", tmp_path / "out")
    assert run(*options) == 0
    before = checksums(tmp_path / "out")

    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(figure, "information_figure", fail)
    with pytest.raises(RuntimeError, match="no font"):
        run(*options, "--seed", 1, "--max_tokens", 30_000)
    assert checksums(tmp_path / "out") == before


def test_help_is_quick_and_names_the_command():
    code = (
        "import sys; from tst_lightning.cli import main\n"
        "try: main(['mutual-information', '--help'])\n"
        "except SystemExit: pass\n"
        "print('HEAVY', [name for name in ('torch', 'scipy', 'matplotlib', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "usage: tst-lightning mutual-information" in done.stdout
    assert "HEAVY []" in done.stdout


def test_the_record_has_the_version_that_is_read():
    assert command.FORMAT_VERSION == weights.FORMAT_VERSION
