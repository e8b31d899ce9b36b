import pytest

from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.selection import selected
from tst_lightning.errors import UserError


def arm(name: str, method: str, references: tuple[str, ...] = (), trunk: str | None = None) -> Arm:
    return Arm(name, method, Overlay(), references=references, trunk=trunk)


ARMS = {
    one.name: one
    for one in (
        arm("base-60", "base"),
        arm("base-30", "base", trunk="base-60"),
        arm("tst_s4-30", "tst_s4", ("base-30", "data-50")),
        arm("data-50", "data"),
        arm("tst_s4-60", "tst_s4", ("base-60",)),
        arm("tst_s8-60", "tst_s8", ("base-60",)),
    )
}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["tst_s4"], ["base-60", "base-30", "tst_s4-30", "data-50", "tst_s4-60"]),
        (["tst_s4-30"], ["base-60", "base-30", "tst_s4-30", "data-50"]),
        (["tst_*-60"], ["base-60", "tst_s4-60", "tst_s8-60"]),
        (["tst_s8", "data"], ["base-60", "data-50", "tst_s8-60"]),
        (["base-30"], ["base-60", "base-30"]),
        (["*"], list(ARMS)),
    ],
)
def test_what_selected_arms_need_is_selected_too(patterns: list[str], names: list[str]) -> None:
    assert selected(ARMS, patterns) == names


def test_a_pattern_that_matches_nothing_names_what_there_is() -> None:
    with pytest.raises(UserError, match=r"like 'TST\*', 'x': there are base, tst_s4, data, tst_s8, base-60, base-30"):
        selected(ARMS, ["TST*", "tst_s4", "x"])
