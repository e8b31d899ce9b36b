"""Configs and arguments of ``fit``, ``validate`` and ``test`` that must be refused."""

from malformed_cases import FIT, Case, callback, fit, parametrize, require_refused, superposition

CONFIG_FILES = {
    "unknown key": fit("hiden_size", config={"model": {"hiden_size": 3}}),
    "unknown group": fit("optimiser", config={"optimiser": {"lr": 1}}),
    "wrong type": fit("batch_size", "four", config={"data": {"batch_size": "four"}}),
    "mapping for a number": fit("batch_size", config={"data": {"batch_size": {"a": 1}}}),
    "null for a number": fit("batch_size", config={"data": {"batch_size": None}}),
    "broken YAML": fit("bad.yaml", config="trainer: {max_steps: 4\n"),
    "a tab": fit("bad.yaml", config="trainer:\n\tmax_steps: 4\n"),
    "a list": fit("bad.yaml", "a list", "key: value", config="- trainer\n- model\n"),
    "plain text": fit("bad.yaml", config="just some words\n"),
    "binary": fit("bad.yaml", config=bytes(range(256))),
    "a folder": fit("bad.yaml", more=("--config", "bad.yaml"), make=lambda here, world: (here / "bad.yaml").mkdir()),
    "a missing file": fit("nowhere.yaml", more=("--config", "nowhere.yaml")),
    "an undefined anchor": fit("bad.yaml", config="trainer: {max_steps: *missing}\n"),
    "an anchor in itself": fit("bad.yaml", config="data: &loop\n  data_dir: *loop\n"),
    "a list that does not end": fit("bad.yaml", "line 3", config="x: 1\nx: {y: [\n"),
    "a Python object": fit("bad.yaml", config="data: {data_dir: !!python/object/apply:os.getcwd []}\n"),
    "unknown class": fit("NoSuchConfig", config={"model": {"config": {"class_path": "transformers.NoSuchConfig"}}}),
    "a class of something else": fit(
        "Bytes", config={"model": {"config": {"class_path": "tst_lightning.data.tokenizer.Bytes"}}}
    ),
    "a function for a class": fit("os.system", config={"model": {"config": {"class_path": "os.system"}}}),
    "unknown argument of a class": fit("hiden_size", config={"model": {"config": {"init_args": {"hiden_size": 3}}}}),
    "no class": fit("class_path|callbacks", config={"trainer": {"callbacks": [{"init_args": {"bag_size": 4}}]}}),
    "unknown callback": fit("there is no 'Nothing' in callbacks", "LossGuard", config=callback("callbacks.Nothing")),
    "a folder of configs": fit("is a folder", "fit.yaml", more=("--config", "{world}")),
}

MODEL_AND_DATA = {
    "vocabulary": fit("257", "100", "vocab_size", more=("--model.config.init_args.vocab_size=100",)),
    "sequence": fit("500", "64", "shorten", more=("--data.sequence_length=500",)),
    "heads": fit("attention heads", more=("--model.config.init_args.num_attention_heads=3",)),
    "hidden size 0": fit("hidden_size", more=("--model.config.init_args.hidden_size=0",)),
    "hidden size -16": fit("hidden_size", more=("--model.config.init_args.hidden_size=-16",)),
    "layers -1": fit("num_hidden_layers", more=("--model.config.init_args.num_hidden_layers=-1",)),
    "misspelt option of the model": fit("hidden_size", more=("--model.config.hiden_size=3",)),
    "option of the optimizer": fit(
        "^error: model.optimizer, torch.optim.AdamW: lr=fast: give a number",
        config={"model": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": "fast"}}}},
    ),
    "neither true nor false": fit(
        "activation_checkpointing=maybe: give true or false", more=("--model.activation_checkpointing=maybe",)
    ),
    "activation": fit("no_such_act", more=("--model.config.init_args.hidden_act=no_such_act",)),
    "config and pretrained": fit("exactly one", more=("--model.pretrained=gpt2",)),
    "pretrained missing": fit("nowhere", more=("--model.config=null", "--model.pretrained=nowhere")),
    "loss impl": fit("loss_impl", more=("--model.loss_impl=quick",)),
    "optimizer": fit("NoSuch", config={"model": {"optimizer": {"class_path": "torch.optim.NoSuch"}}}),
    "learning rate -1": fit(
        "learning rate|lr",
        config={"model": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": -1.0}}}},
    ),
    "init seed -1": fit("init_seed", more=("--model.init_seed=-1",)),
    "init seed huge": fit("init_seed", more=("--model.init_seed=99999999999999999999999",)),
    "warmup -1": fit("warmup_steps=-1", "0 or more", more=("--model.learning_rate_schedule.warmup_steps=-1",)),
    "decay nan": fit("decay_ratio=nan", "between 0 and 1", more=("--model.learning_rate_schedule.decay_ratio=.nan",)),
    "batch 0": fit("batch_size", "at least 1", "got 0", more=("--data.batch_size=0",)),
    "sequence -1": fit("sequence_length", "at least 1", "got -1", more=("--data.sequence_length=-1",)),
    "batch 1.5": fit("batch_size", "1.5", more=("--data.batch_size=1.5",)),
    "workers -1": fit("num_workers", "at least 0", more=("--data.num_workers=-1",)),
    "seed -1": fit("seed", "at least 0", more=("--data.seed=-1",)),
    "epochs 0": fit("epochs", "at least 1", more=("--data.epochs=0",)),
    "packing": fit("packing", "tight", more=("--data.packing=tight",)),
    "no corpus": fit("nowhere", "tst-lightning prepare", more=("--data.data_dir=nowhere",)),
    "empty corpus name": fit("no prepared corpus|data_dir", more=("--data.data_dir=",)),
    "mixture of nothing": fit("data_dir", config={"data": {"data_dir": {}}}),
    "mixture weight 0": fit("0", "weight", config={"data": {"data_dir": {"{world}/prepared": 0.0}}}),
    "mixture weight nan": fit("nan", "weight", config={"data": {"data_dir": {"{world}/prepared": float("nan")}}}),
    "mixture weight text": fit("data_dir", config={"data": {"data_dir": {"{world}/prepared": "x"}}}),
    "remote scheme": fit("ftp://host", "s3://BUCKET", more=("--data.data_dir=ftp://host/x",)),
    "validation windows 0": fit("validation_windows", more=("--data.validation_windows=0",)),
    "batch enormous": fit("tokens", "epochs", more=("--data.batch_size=1000000000000",)),
}

TRAINER = {
    "0 nodes": fit("trainer.num_nodes=0: give an integer of at least 1", more=("--trainer.num_nodes=0",)),
    "validation batches -1": fit("limit_val_batches=-1: give a number", more=("--trainer.limit_val_batches=-1",)),
    "5 of max_time": fit("max_time=5: give days", "DD:HH:MM:SS", more=("--trainer.max_time=5",)),
    "strategy fsdp3": fit("strategy=fsdp3", "use ddp", more=("--trainer.strategy=fsdp3",)),
    "no steps": fit("max_steps", "set trainer.max_steps", more=("--trainer.max_steps=-1",)),
    "0 steps": fit("max_steps=0", "set trainer.max_steps", more=("--trainer.max_steps=0",)),
    "-7 steps": fit("max_steps", "-7", more=("--trainer.max_steps=-7",)),
    "nan steps": fit("max_steps", "nan", more=("--trainer.max_steps=nan",)),
    "1e6 steps": fit("max_steps=1000000.0: give an integer, written 1000000$", more=("--trainer.max_steps=1e6",)),
    "1.5 steps": fit("max_steps", "1.5", more=("--trainer.max_steps=1.5",)),
    "steps as text": fit("max_steps", "many", more=("--trainer.max_steps=many",)),
    "steps beyond the data": fit("100,000 steps", "epochs", more=("--trainer.max_steps=100000",)),
    "0 devices": fit("devices", "0", more=("--trainer.devices=0",)),
    "-2 devices": fit("devices", "-2", more=("--trainer.devices=-2",)),
    "devices as text": fit("devices", "all", more=("--trainer.devices=all",)),
    "accelerator": fit("nope", "cpu", more=("--trainer.accelerator=nope",)),
    "no GPU": fit("cuda|gpu|CUDA|GPU", more=("--trainer.accelerator=cuda",)),
    "strategy by its class": fit(
        r"trainer.strategy.class_path lightning\.x\.DDPStrategy", more=("--trainer.strategy=lightning.x.DDPStrategy",)
    ),
    "fsdp": fit("FSDPStrategy is not supported", "vector", "use ddp", more=("--trainer.strategy=fsdp",)),
    "deepspeed": fit("DeepSpeedStrategy is not supported", more=("--trainer.strategy=deepspeed_stage_3",)),
    "strategy fsdp by its class": fit(
        "FSDPStrategy is not supported",
        more=("--trainer.strategy.class_path=lightning.pytorch.strategies.FSDPStrategy",),
    ),
    "strategy": fit("nope", more=("--trainer.strategy=nope",)),
    "precision": fit("precision", "12", "one of 64, 32, 16, ", "bf16-mixed", more=("--trainer.precision=12",)),
    "misspelt precision": fit(
        "^error: trainer.precision=bf17: choose one of 64, (?!.*(integer|transformer-engine)).*bf16-mixed",
        more=("--trainer.precision=bf17",),
    ),
    "plugin": fit(
        "^error: trainer.plugins, lightning.pytorch.plugins.io.Nope: there is no 'Nope' in [^:]*AsyncCheckp[^:]*$",
        more=("--trainer.plugins=lightning.pytorch.plugins.io.Nope",),
    ),
    "accumulate 0": fit("accumulate_grad_batches", more=("--trainer.accumulate_grad_batches=0",)),
    "validation interval 0": fit("val_check_interval", more=("--trainer.val_check_interval=0",)),
    "validation interval nan": fit("val_check_interval", more=("--trainer.val_check_interval=.nan",)),
    "clip -1": fit("gradient_clip_val", more=("--trainer.gradient_clip_val=-1",)),
    "part of the data": fit("limit_train_batches=0.5", more=("--trainer.limit_train_batches=0.5",)),
    "unwritable": fit(
        "default_root_dir",
        "cannot be written",
        more=("--trainer.default_root_dir={here}/file/run",),
        make=lambda here, world: (here / "file").write_text("no folder"),
    ),
    "folder of another run": fit(
        "holds the checkpoints of another run", "resume", more=("--trainer.default_root_dir={world}/run",)
    ),
    "seed_everything -1": fit("seed_everything", more=("--seed_everything=-1",)),
    "seed_everything huge": fit("seed_everything|seed", more=("--seed_everything=99999999999999",)),
    "max_time": fit("soon", "DD:HH:MM:SS", more=("--trainer.max_time=soon",)),
}

CALLBACKS = {
    "two schedules": fit(
        "2 SuperpositionCallbacks",
        "one schedule",
        config={
            "trainer": {
                "callbacks+": [
                    {"class_path": "callbacks.SuperpositionCallback", "init_args": {"bag_size": 4, "step_ratio": 0.5}}
                ]
                * 2
            }
        },
    ),
    "bag 0": fit("bag_size=0", "at least 1", config=superposition(bag_size=0, step_ratio=0.5)),
    "bag -1": fit("bag_size=-1", "at least 1", config=superposition(bag_size=-1, step_ratio=0.5)),
    "bag 1.5": fit("bag_size", "1.5", config=superposition(bag_size=1.5, step_ratio=0.5)),
    "bag true": fit("bag_size", "[Tt]rue", config=superposition(bag_size=True, step_ratio=0.5)),
    "bag enormous": fit("bag_size=10000000000", "at most 65536", config=superposition(bag_size=10**10, step_ratio=0.5)),
    "no bag": fit("bag_size", "exactly one", config=superposition(step_ratio=0.5)),
    "ratio 1": fit("step_ratio=1", "below 1", config=superposition(bag_size=4, step_ratio=1.0)),
    "ratio 2": fit("step_ratio=2", "below 1", config=superposition(bag_size=4, step_ratio=2.0)),
    "ratio nan": fit("step_ratio=nan", "below 1", config=superposition(bag_size=4, step_ratio=float("nan"))),
    "ratio text": fit("step_ratio", "x", config=superposition(bag_size=4, step_ratio="x")),
    "ratio in percent": fit(
        "^error: trainer.callbacks, callbacks.SuperpositionCallback: step_ratio=30%: give a number$",
        config=superposition(bag_size=4),
        more=("--trainer.callbacks.step_ratio=30%",),
    ),
    "ratio of a numbered callback": fit(
        "no option '0.init_args.step_ratio'",
        "the last in the list",
        "config file",
        config=superposition(bag_size=4),
        more=("--trainer.callbacks.0.init_args.step_ratio=0.3",),
    ),
    "option of another callback": fit(
        "no option 'every_n_steps'",
        "the last in the list",
        "config file",
        config=superposition(bag_size=4, step_ratio=0.5),
        more=("--trainer.callbacks.every_n_steps=2",),
    ),
    "bag 1e1": fit(
        "bag_size=10.0: give an integer, written 10$",
        config=superposition(step_ratio=0.5),
        more=("--trainer.callbacks.bag_size=1e1",),
    ),
    "ratio of no step": fit("max_steps=2", "train longer", config=superposition(bag_size=4, step_ratio=0.01)),
    "weights negative": fit("weight", "-1", config=superposition(bag_size=2, step_ratio=0.5, weights=[-1.0, 2.0])),
    "weights too many": fit("weight", "2", config=superposition(bag_size=2, step_ratio=0.5, weights=[1.0, 1.0, 1.0])),
    "weights nan": fit("weight", "nan", config=superposition(bag_size=2, step_ratio=0.5, weights=[float("nan"), 1.0])),
    "weights 0": fit("weight", config=superposition(bag_size=2, step_ratio=0.5, weights=[0.0, 0.0])),
    "weights unknown": fit("weights", "linear", config=superposition(bag_size=2, step_ratio=0.5, weights="linear")),
    "weights missing": fit(
        "nowhere.json", config=superposition(bag_size=2, step_ratio=0.5, weights_file="nowhere.json")
    ),
    "interpolate 2": fit("interpolate", "2", config=superposition(bag_size=2, step_ratio=0.5, interpolate=2.0)),
    "recovery at the end": fit("until step 2", "no recovery", config=superposition(bag_size=2, recovery_step=2)),
    "checkpoints every -1": fit("every_n_steps", "-1", more=("--trainer.callbacks.every_n_steps=-1",)),
    "throughput nan": fit("every_n_seconds", config=callback("callbacks.Throughput", every_n_seconds=float("nan"))),
    "no branch points": fit(
        "callbacks.BranchPoints: steps has no default: give it, under init_args",
        config=callback("callbacks.BranchPoints"),
    ),
    "branch points": fit("steps", "at least 1", config=callback("callbacks.BranchPoints", steps=[0])),
    "curriculum": fit("min_length=3", "powers of two", config=callback("callbacks.LengthCurriculum", min_length=3)),
    "n-gram table": fit("nowhere", "tst-lightning ngram", config=callback("callbacks.NgramTargets", table="nowhere")),
    "alpha nan": fit(
        "alpha=nan", "from 0 to 1", config=callback("callbacks.NgramTargets", table="x", alpha=float("nan"))
    ),
    "task": fit("no_such_task", config=callback("callbacks.DownstreamEvaluation", tasks=["no_such_task"])),
    "no tasks": fit("tasks", config=callback("callbacks.DownstreamEvaluation", tasks=[])),
}

ARGUMENTS = {
    "unknown option": fit("max_step", more=("--trainer.max_step=3",)),
    "missing value": fit("max_steps: give a value", more=("--trainer.max_steps",)),
    "config without a file": fit("config", more=("--config",)),
    "a bare word": fit("baseline", more=("baseline",)),
    "no config": Case(("fit",), ("data",)),
    "validate nothing": Case(("validate", *FIT[1:]), ("nothing to validate", "--ckpt_path")),
    "test nothing": Case(("test", *FIT[1:]), ("nothing to test", "--ckpt_path")),
    "resume without a checkpoint": fit("no checkpoint", "last.ckpt", more=("--ckpt_path", "last")),
}


@parametrize(CONFIG_FILES | {f"model {name}": case for name, case in MODEL_AND_DATA.items()}, fast_every=4)
def test_configs(case, here, world, capsys):
    require_refused(case, here, world, capsys)


@parametrize(TRAINER | CALLBACKS, fast_every=5)
def test_trainer_and_callbacks(case, here, world, capsys):
    require_refused(case, here, world, capsys)


@parametrize(ARGUMENTS)
def test_arguments(case, here, world, capsys):
    require_refused(case, here, world, capsys)
