from unittest.mock import patch

import pytest
from lm_eval.utils import apply_template, env

from tst_lightning.evaluation.templates import compiled_once


def test_each_template_is_compiled_once_and_renders_as_before() -> None:
    items = [{"a": "x", "b": [1, 2]}, {"a": "{{a}}", "b": []}]
    templates = ["{{a}} and {{b}}", "{{b|length}}"]
    expected = [apply_template(template, item) for template in templates for item in items]
    with patch.object(type(env), "compile", autospec=True, side_effect=type(env).compile) as compiled, compiled_once():
        for _ in range(3):
            assert [apply_template(template, item) for template in templates for item in items] == expected
    assert compiled.call_count == 2


def test_lm_eval_is_as_before_afterwards() -> None:
    with pytest.raises(ZeroDivisionError), compiled_once():
        raise ZeroDivisionError
    assert "from_string" not in vars(env)
