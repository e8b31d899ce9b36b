import pytest

from tst_lightning.comparison.reporting.figures.paper_curves import read_paper_curves
from tst_lightning.errors import UserError

HEADER = "step_ratio,bag_size,final_loss\n"


def test_differences_are_to_the_row_of_bag_size_one(tmp_path) -> None:
    (tmp_path / "loss_grid_b.csv").write_text(HEADER + "0.1,2,2.9\n0.0,1,3.0\n0.1,4,2.75\n0.3,2,3.5\n")
    (tmp_path / "loss_grid_a.csv").write_text("final_loss,bag_size,step_ratio,note\n1.0,1,0,x\n0.5,8,0.2,y\n")
    (tmp_path / "table.csv").write_text("anything\n")
    first, second = read_paper_curves(tmp_path)
    assert (first.name, first.differences) == ("a", {0.2: {8.0: -0.5}})
    assert second.differences[0.1] == pytest.approx({2.0: -0.1, 4.0: -0.25})
    assert second.differences[0.3] == pytest.approx({2.0: 0.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step_ratio,final_loss\n0,1\n", "lacks the column bag_size"),
        (HEADER + "0.1,2,2.9\n", "no row of bag_size 1"),
        (HEADER + "0,1,3.0\n0.1,two,2.9\n", "line 3: .* must be numbers"),
        (HEADER + "0,1,3.0\n0.1,2\n", "line 3: .* must be numbers"),
    ],
)
def test_files_that_are_something_else(tmp_path, text: str, message: str) -> None:
    (tmp_path / "loss_grid_a.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_paper_curves(tmp_path)


def test_a_folder_without_curves(tmp_path) -> None:
    with pytest.raises(UserError, match="holds no loss_grid"):
        read_paper_curves(tmp_path)
    with pytest.raises(UserError, match="holds no loss_grid"):
        read_paper_curves(tmp_path / "nowhere")
