"""Bags that respect documents, in rows of documents that are concatenated and not isolated."""

from pathlib import Path

import numpy as np
import pytest
from recording import Recorder, fit, trainer

from tst_lightning.bags import IGNORE
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

BAG, END_OF_TEXT = 4, 256
SCHEDULE = Schedule.superposition(BAG, 40)


def make_data(folder: Path, **options) -> TokenDataModule:
    return TokenDataModule(str(folder), 16, **{"batch_size": 4, "num_workers": 0, "validation_windows": 4} | options)


def batches_of(folder: Path, root: Path, **options) -> list[dict[str, np.ndarray]]:
    """Those of 40 superposed steps and 4 of single tokens."""
    module, batches = Recorder(), []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: batches.append(batch) or step(batch, batch_idx)
    data = make_data(folder, **options)
    trainer(root, 44, SCHEDULE).fit(module, data)
    assert data.data_tokens(44) == sum(
        int((batch.get("targets", batch["tokens"][:, 1:]) != IGNORE).sum()) for batch in batches
    )
    return [{name: value.numpy() for name, value in batch.items() if name != "micro"} for batch in batches]


def mixed_bags(tokens: np.ndarray) -> int:
    """Bags with a token after the end of a text that is neither another end nor padding."""
    bags = tokens.reshape(-1, BAG)
    after_an_end = np.cumsum(bags == END_OF_TEXT, axis=1) - (bags == END_OF_TEXT) > 0
    return int((after_an_end & (bags != END_OF_TEXT)).any(1).sum())


def test_by_default_bags_mix_documents_and_folded_by_document_none_does(prepared_source: Path, tmp_path: Path) -> None:
    plain = batches_of(prepared_source, tmp_path)
    folded = batches_of(prepared_source, tmp_path, fold_by_document=True)
    assert set(plain[0]) == {"tokens"}
    assert set(folded[0]) == {"tokens", "targets"}  # no positions: attention crosses documents
    superposed = [np.concatenate([batch["tokens"] for batch in batches[:40]]) for batches in (plain, folded)]
    assert mixed_bags(superposed[0]) > 5
    assert mixed_bags(superposed[1]) == 0

    # Targets cross documents: the bag after one that ends a text is a target as any other.
    tokens = superposed[1]
    targets = np.concatenate([batch["targets"] for batch in folded[:40]])
    ends = (tokens[:, :-1] == END_OF_TEXT).any(-1) & (tokens[:, 1:] != END_OF_TEXT).all(-1)
    assert ends.sum() > 5
    assert (targets[ends] == tokens[:, 1:][ends]).all()
    # Only padding is none: where a target differs from the token that follows.
    assert (tokens[:, 1:][targets == IGNORE] == END_OF_TEXT).all()
    assert (targets == IGNORE).any()


def test_it_belongs_to_the_order_of_the_data(prepared_source: Path, tmp_path: Path) -> None:
    fit(make_data(prepared_source), trainer(tmp_path, 2, save_every=2))
    data, run = make_data(prepared_source, fold_by_document=True), trainer(tmp_path / "b", 4)
    with pytest.raises(UserError, match="fold_by_document: False in the checkpoint, now True"):
        fit(data, run, ckpt_path=tmp_path / "step=2.ckpt")
    with pytest.raises(UserError, match=r"streams=2 does not go with packed rows .*fold_by_document=True"):
        make_data(prepared_source, fold_by_document=True, streams=2)
