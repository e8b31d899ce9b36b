"""tst_lightning.precision: every precision of the Trainer under one name, against Lightning's own table."""

from typing import get_args

from lightning.fabric.connector import _PRECISION_INPUT_STR, _PRECISION_INPUT_STR_ALIAS_CONVERSION

from tst_lightning.plan.rehearsal import AUTOCAST, WEIGHTS
from tst_lightning.precision import ARITHMETIC, precision_name


def test_names_are_lightnings():
    for short, whole in _PRECISION_INPUT_STR_ALIAS_CONVERSION.items():
        assert precision_name(short) == whole
    assert [precision_name(value) for value in (None, 16, 32, 64)] == ["32-true", "16-mixed", "32-true", "64-true"]
    known = {name for name in get_args(_PRECISION_INPUT_STR) if not name.startswith("transformer-engine")}
    assert known == set(ARITHMETIC)
    assert {*AUTOCAST, *WEIGHTS, "32-true"} == set(ARITHMETIC)


def test_what_is_no_precision_stays_what_it_is():
    assert precision_name("transformer-engine") == "transformer-engine"
