import json
import math

from tst_lightning.comparison.reporting.plain import aligned, finite


def test_a_table_is_aligned_under_its_header() -> None:
    assert aligned([["arm", "loss"], ["baseline", "1.5"], ["t", "12.25"]]).splitlines() == [
        "arm        loss",
        "--------  -----",
        "baseline    1.5",
        "t         12.25",
    ]


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    values = {1: (math.nan, 2.5), "deep": [{"x": -math.inf}], "kept": [True, None, "nan", 0]}
    text = json.dumps(finite(values), allow_nan=False)
    assert json.loads(text) == {"1": [None, 2.5], "deep": [{"x": None}], "kept": [True, None, "nan", 0]}
