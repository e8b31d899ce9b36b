"""What a config file may not silently take away from those before it."""

import pytest
import yaml

from tst_lightning.errors import UserError
from tst_lightning.run.overlays import require_methods_kept

TST = {"trainer": {"callbacks+": [{"class_path": "callbacks.SuperpositionCallback", "init_args": {"bag_size": 4}}]}}
CHECKPOINT = {"class_path": "callbacks.StepCheckpoint"}


@pytest.fixture
def files(tmp_path):
    def write(*contents):
        paths = [tmp_path / f"{number}.yaml" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(yaml.safe_dump(content))
        return [str(path) for path in paths]

    return write


def test_a_later_list_of_callbacks_would_make_it_the_baseline(files):
    paths = files({"trainer": {"callbacks": [CHECKPOINT]}}, TST, {"trainer": {"callbacks": [CHECKPOINT]}})
    with pytest.raises(UserError, match=r"2\.yaml' has a list .* the SuperpositionCallback of '.*1\.yaml' with it"):
        require_methods_kept(paths)


@pytest.mark.parametrize("later", [
    {"trainer": {"callbacks+": [CHECKPOINT]}},
    {"trainer": {"callbacks": [CHECKPOINT, *TST["trainer"]["callbacks+"]]}},
    {"trainer": {"max_steps": 5}},
    {"trainer": None},
    {"model": {}},
])  # fmt: skip
def test_what_keeps_it_is_no_mistake(files, later):
    require_methods_kept([*files(TST, later), "/nowhere.yaml"])


def test_a_trainer_file_may_take_the_place_of_another(files):
    require_methods_kept(files({"trainer": {"callbacks": [CHECKPOINT]}}, {"trainer": {"callbacks": "LossGuard"}}, TST))
