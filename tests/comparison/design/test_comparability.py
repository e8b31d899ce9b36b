import pytest
import yaml

from tst_lightning.comparison.design.comparability import differing_keys, require_comparable
from tst_lightning.errors import UserError

LLAMA = {"vocab_size": 257, "hidden_size": 64, "head_dim": None, "tie_word_embeddings": False}


def config(data: dict | None = None, trainer: dict | None = None, model: dict | None = None) -> dict:
    """What `fit` keeps of a run."""
    standard = {"data_dir": "data/x", "sequence_length": 512, "validation_windows": 64, "seed": 1, "batch_size": 8}
    llama = {"class_path": "transformers.LlamaConfig", "init_args": LLAMA}
    return {
        "seed_everything": 1,
        "trainer": {"max_steps": 5, "precision": "bf16-mixed", "callbacks": None} | (trainer or {}),
        "model": {"config": llama, "pretrained": None, "init_seed": 1} | (model or {}),
        "data": standard | (data or {}),
    }


def difference(ours: dict, theirs: dict | None = None) -> list[str]:
    return differing_keys(yaml.safe_dump(ours, sort_keys=False), yaml.safe_dump(theirs or config(), sort_keys=False))


def llama(class_path: str = "transformers.LlamaConfig", **changes: object) -> dict:
    return {"config": {"class_path": class_path, "init_args": LLAMA | changes}}


def evaluated(**changes: object) -> dict:
    options = {"tasks": ["heldout"], "limit": None, "max_length": None, "data_dir": None}
    callback = {"class_path": "callbacks.DownstreamEvaluation", "init_args": options | changes}
    return {"callbacks": [{"class_path": "callbacks.Throughput"}, callback]}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("data/x", "data/x/"),
        ("data/x", "./data//x"),
        ("s3://bucket/x/", "s3://bucket/x"),
        ("data/x", {"data/x": 3.0}),
        ({"a": 0.7, "b": 0.3}, {"a/": 70, "b": 30}),
        ({"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 1, "b": 2, "c": 3}),
        ({"a": 0.001, "b": 0.002}, {"a": "1e-3", "b": "2e-3"}),
    ],
)
def test_the_same_text_in_another_form(ours: object, theirs: object) -> None:
    assert difference(config({"data_dir": ours}), config({"data_dir": theirs})) == []


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (config({"data_dir": "data/y"}), ["data.data_dir: data/y against data/x"]),
        (config({"data_dir": {"data/x": 1, "y": 1}}), ["data.data_dir: {data/x: 1, y: 1} against data/x"]),
        (config({"data_dir": {"a": "many", "b": 1}}), ["data.data_dir: {a: many, b: 1} against data/x"]),
        (
            config({"sequence_length": 256, "validation_windows": 128}),
            ["data.sequence_length: 256 against 512", "data.validation_windows: 128 against 64"],
        ),
        (config(trainer={"precision": "32-true"}), ["trainer.precision: 32-true against bf16-mixed"]),
        (config(model=llama(hidden_size=65)), ["model.config.init_args.hidden_size: 65 against 64"]),
        (config(model=llama(head_dim=32)), ["model.config.init_args.head_dim: 32 against None"]),
        (
            config(model=llama("transformers.Qwen3Config", qk_norm=True)),
            [
                "model.config.class_path: transformers.Qwen3Config against transformers.LlamaConfig",
                "model.config.init_args.qk_norm: True against nothing",
            ],
        ),
        (config(trainer=evaluated()), ["trainer.callbacks: 1 DownstreamEvaluation against 0"]),
    ],
)
def test_what_differs_is_named_key_by_key(ours: dict, said: list[str]) -> None:
    assert difference(ours) == said
    assert difference(config(), ours) == [
        f"{key}: {' against '.join(reversed(values.split(' against ')))}"
        if "1 Down" not in values
        else "trainer.callbacks: 0 DownstreamEvaluation against 1"
        for key, values in (found.split(": ", 1) for found in said)
    ]


def test_another_model_to_start_from() -> None:
    from_a, from_b = (config(model={"config": None, "pretrained": name}) for name in "ab")
    assert difference(from_a, from_b) == ["model.pretrained: a against b"]
    keys = difference(from_a)
    assert keys[0].startswith(
        "model.config: None against {class_path: transformers.LlamaConfig, init_args: {vocab_size:"
    )
    assert keys[1:] == ["model.pretrained: a against None"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": ["piqa"]}, ["DownstreamEvaluation.tasks: ['piqa'] against ['heldout']"]),
        ({"limit": 10}, ["DownstreamEvaluation.limit: 10 against None"]),
    ],
)
def test_other_evaluation_settings(changes: dict, said: list[str]) -> None:
    assert difference(config(trainer=evaluated(**changes)), config(trainer=evaluated())) == said


def test_the_order_of_a_mixture_counts() -> None:
    ours, theirs = config({"data_dir": {"a": 1, "b": 1}}), config({"data_dir": {"b": 1, "a": 1}})
    assert len(difference(ours, theirs)) == 1


def test_what_may_differ() -> None:
    superposed = [{"class_path": "callbacks.SuperpositionCallback", "init_args": {"bag_size": 4}}]
    data = {"seed": 2, "batch_size": 4, "packing": "best_fit", "epochs": 3}
    model = {"init_seed": 2, "optimizer": {"lr": 1}, "learning_rate_schedule": {"decay_ratio": 0.3}}
    assert difference(config(data, {"max_steps": 9, "callbacks": superposed}, model)) == []


@pytest.mark.parametrize(("short", "long"), [(None, "32-true"), (32, "32-true"), ("bf16", "bf16-mixed")])
def test_precision_in_short_form(short: object, long: str) -> None:
    assert difference(config(trainer={"precision": short}), config(trainer={"precision": long})) == []


@pytest.mark.parametrize("text", ["", "trainer: {max_steps: 5}", "data: {data_dir: [cut", "data:", "just text", "- 1"])
def test_a_run_without_a_whole_config_says_nothing(text: str) -> None:
    other = yaml.safe_dump(config())
    assert differing_keys(text, other) == differing_keys(other, text) == []


def test_pairs_are_refused_before_any_run() -> None:
    configs = {"a": config(), "b": config(model=llama(hidden_size=65)), "c": config({"data_dir": "data/y"})}
    require_comparable(configs, [("a", "a")])
    with pytest.raises(UserError) as caught:
        require_comparable(configs, [("b", "a"), ("c", "a"), ("a", "a")])
    assert str(caught.value) == (
        "'b' cannot be compared with 'a': model.config.init_args.hidden_size: 65 against 64\n"
        "  'c' cannot be compared with 'a': data.data_dir: data/y against data/x\n"
        "give both arms the same, or, to train with each, put these settings into `variants`: comparisons stay "
        "within a variant"
    )


@pytest.mark.parametrize(("ours", "theirs"), [(None, 1.0), (1.0, None), (4, 4), (0.5, 0.5)])
def test_as_much_of_the_validation_text(ours: object, theirs: object) -> None:
    assert difference(config(trainer={"limit_val_batches": ours}), config(trainer={"limit_val_batches": theirs})) == []


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1.0), (1, None), (4, 8), (0.5, 1.0)])
def test_less_of_the_validation_text(ours: object, theirs: object) -> None:
    values = [config(trainer={"limit_val_batches": value}) for value in (ours, theirs)]
    assert difference(*values) == [f"trainer.limit_val_batches: {ours} against {theirs}"]


@pytest.mark.parametrize("limit", [4, 0.5])
def test_a_part_of_batches_of_another_size_is_other_text(limit: object) -> None:
    def limited(**data: object) -> dict:
        return config(data, {"limit_val_batches": limit})

    said = ["data.validation_batch_size: 4 against 8, of which trainer.limit_val_batches takes a part"]
    assert difference(limited(batch_size=4), limited()) == said
    assert difference(limited(validation_batch_size=4), limited(validation_batch_size=None)) == said
    assert difference(limited(batch_size=4, validation_batch_size=8), limited()) == []
    for whole in (None, 1.0):
        trainer = {"limit_val_batches": whole}
        assert difference(config({"batch_size": 4}, trainer), config(trainer=trainer)) == []


def test_how_a_model_is_computed_is_no_other_model() -> None:
    eager = llama(attn_implementation="eager", output_router_logits=True, router_aux_loss_coef=0.01)
    assert difference(config(model=eager)) == []
    by_name = llama()
    by_name["config"]["dict_kwargs"] = {"attn_implementation": "sdpa"}
    empty = llama()
    empty["config"]["dict_kwargs"] = {}
    assert difference(config(model=by_name), config(model=empty)) == []
    assert difference(config(model=by_name)) == []
    assert len(difference(config(model=llama(rope_theta=1e6, attn_implementation="eager")))) == 1
