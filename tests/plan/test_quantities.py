"""tst_lightning.plan.quantities: numbers as people write them."""

import pytest

from tst_lightning.errors import UserError
from tst_lightning.plan import quantities


@pytest.mark.parametrize(
    ("text", "number"),
    [("5B", 5e9), ("1.5 T", 1.5e12), ("100M", 1e8), ("300k", 3e5), ("1e20", 1e20), ("1E+20", 1e20), (7, 7), (2e9, 2e9)],
)  # fmt: skip
def test_counts(text, number):
    assert quantities.count("token_budget", text) == pytest.approx(number)


@pytest.mark.parametrize(
    "text", ["", "much", "1e25x", "5m", "5,000", "5BB", "-3", "0", "nan", "inf", "1e999", "0x10", True]
)
def test_what_is_no_count_is_refused(text):
    with pytest.raises(UserError) as caught:
        quantities.count("flops_budget", text)
    assert str(caught.value) == f"flops_budget={text}: give a number of at least 1, such as 5B, 100M, 300000 or 1e20"


@pytest.mark.parametrize("text", ["abc", "3", "40%", "0", "-0.1", "nan", "0.4k"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UserError, match=r"above 0 and at most 1, such as 0\.4"):
        quantities.share("mfu", text)


def test_others():
    assert quantities.share("mfu", "0.35") == 0.35
    assert quantities.amount("memory_gb", "80", "80") == 80
    assert [quantities.count("a", None), quantities.share("a", None), quantities.amount("a", None, "")] == [None] * 3
    with pytest.raises(UserError, match="memory_gb=80GB: give a number above 0 without a unit, such as 80"):
        quantities.amount("memory_gb", "80GB", "80")
