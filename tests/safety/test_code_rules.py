"""Rules that hold everywhere in the source, read off its syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("tst_lightning", "callbacks", "benchmarks", "docs")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput"}
UNPACKERS = {"extractall", "extract", "unpack_archive"}
UNPICKLERS = {"pickle.load", "torch.jit.load", "dill.load", "dill.loads", "joblib.load", "shelve.open", "marshal.loads"}
EVALUATORS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Dotted names of what is called, with the call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def problems(source: str) -> list[str]:
    """What breaks a rule."""
    found = []
    for name, call in calls(source):
        options = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if options.get("shell", "False") != "False" or name in SHELLS:
            found.append(f"{name}: a shell")
        if name.rpartition(".")[2] in UNPACKERS:
            found.append(f"{name}: an archive is unpacked")
        # Of a constant: which class it is, the file says elsewhere.
        safe = name == "yaml.load" and "Loader" in options and "SafeLoader" in source and "UnsafeLoader" not in source
        if (name in UNPICKLERS or name in EVALUATORS) and not safe:
            found.append(f"{name}: may run code")
        if name in ("torch.load", "load_checkpoint") and options.get("weights_only") != "True":
            found.append(f"{name} without weights_only=True")
        if options.get("weights_only") == "False":
            found.append(f"{name} with weights_only=False")
        if options.get("trust_remote_code", "False") != "False":
            found.append(f"{name} with trust_remote_code")
        if name.startswith("subprocess.") and call.args and isinstance(call.args[0], ast.JoinedStr | ast.Constant):
            found.append(f"{name}: a command in one string")
    return found


def test_no_file_breaks_a_rule():
    assert len(FILES) > 100
    found = {str(path.relative_to(ROOT)): problems(path.read_text()) for path in FILES}
    assert {name: broken for name, broken in found.items() if broken} == {}


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run(command, shell=True)", "os.system(f'ls {name}')", "subprocess.run(f'ls {name}')",
        "tarfile.open(p).extractall()",
        "shutil.unpack_archive(p)", "torch.load(p)", "torch.load(p, weights_only=False)",
        "pickle.load(f)",
        "eval(text)", "yaml.load(text)", "AutoModel.from_pretrained(p, trust_remote_code=True)",
        "load_dataset(p, trust_remote_code=trusted)", "trainer.fit(m, ckpt_path=p, weights_only=False)",
    ],
)  # fmt: skip
def test_the_rules_find_what_they_are_for(line):
    assert problems(line)


def test_a_value_that_is_unpickled_comes_from_this_process():
    """``pickle.loads`` is there once: to see whether an error could be sent to another process."""
    users = [path for path in FILES if "pickle.loads" in path.read_text()]
    assert [path.name for path in users] == ["engines.py"]
    assert "pickle.loads(pickle.dumps(error))" in users[0].read_text()


def test_no_config_trusts_remote_code():
    assert [path for path in (ROOT / "configs").rglob("*.yaml") if "trust_remote_code" in path.read_text()] == []
