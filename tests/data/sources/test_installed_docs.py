"""The embedded corpus against docstrings found by importing, and against hand-written trees."""

import inspect
import json.decoder
import multiprocessing
import sysconfig
from pathlib import Path

import pytest

from tst_lightning.data.sources.base import WHOLE
from tst_lightning.data.sources.installed_docs import InstalledDocs, module_docstrings
from tst_lightning.errors import UserError

MODULE = '''
"""Module docstring.

    Indented example.
Flush.
"""
raise RuntimeError("imported!")
class A(object):
    """Class A."""
    "not a docstring"
    def method(self):
        """Method.

            More.
        Flush.
        """
        def inner():
            "Inner."
    async def other(self): "Other."
if True:
    def conditional():
        """Conditional."""
else:
    def conditional(): """Alternative."""
try:
    pass
except ImportError:
    def fallback(): """Fallback."""
finally:
    class B: """  """
def duplicate(): """Class A."""
x = """a value, not documentation"""
'''
EXPECTED = [
    "Module docstring.\n\n    Indented example.\nFlush.",
    "Class A.",
    "Method.\n\n    More.\nFlush.",
    "Inner.",
    "Other.",
    "Conditional.",
    "Alternative.",
    "Fallback.",
]


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """Two empty roots that stand for the standard library and the installed packages."""
    paths = {name: str(tmp_path / name) for name in ("stdlib", "purelib")}
    paths["platlib"] = paths["purelib"]
    for path in paths.values():
        (tmp_path / path).mkdir(exist_ok=True)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_docstrings_in_source_order_without_importing(installation):
    write(installation / "purelib" / "pack" / "mod.py", MODULE)
    assert list(InstalledDocs().documents()) == ["\n\n".join(EXPECTED)]


def test_docstrings_are_those_that_importing_finds():
    found = module_docstrings(Path(json.decoder.__file__))
    imported = [json.decoder.JSONDecodeError, json.decoder.JSONDecoder, json.decoder.py_scanstring]
    imported += [json.decoder.JSONDecoder.__init__, json.decoder.JSONDecoder.decode]
    assert {inspect.getdoc(json.decoder), *map(inspect.getdoc, imported)} <= set(found)


def test_order_duplicates_tests_and_invalid_sources(installation):
    write(installation / "stdlib" / "zlast.py", '"""Z of the library."""')
    write(installation / "stdlib" / "site-packages" / "hidden.py", '"""Hidden."""')
    write(installation / "purelib" / "b" / "tests" / "test_b.py", '"""Test."""')
    write(installation / "purelib" / "b" / "__init__.py", '"""B."""\ndef f(): """Z of the library."""')
    write(installation / "purelib" / "a.py", '"""A."""')
    write(installation / "purelib" / "only_duplicates.py", '"""A."""')
    write(installation / "purelib" / "invalid.py", "def (:")
    write(installation / "purelib" / "surrogate.py", '"""\\ud800"""\ndef f(): """Fine \\\\d."""')
    source = InstalledDocs()
    expected = ["Z of the library.", "A.", "B.", "Fine \\d."]
    assert list(source.documents()) == expected
    assert source.skipped == {"sources that are not valid Python": 1}
    assert source.bytes_read == source.size_bytes()
    assert list(source.documents()) == expected
    assert list(InstalledDocs(packages=["b", "a"]).documents()) == ["A.", "B.\n\nZ of the library."]
    assert list(InstalledDocs(max_bytes=20).documents()) == expected[:2]


def test_many_sources_are_parsed_in_parallel_in_the_same_order(installation):
    for number in range(230):
        write(installation / "purelib" / f"m{number:03}.py", f'"""Module {number}."""')
    assert list(InstalledDocs().documents()) == [f"Module {number}." for number in range(230)]


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="packages names no_such_package, which is not installed"):
        list(InstalledDocs(packages=["json", "no_such_package"]).documents())
    with pytest.raises(UserError, match="max_bytes is 0: it has to be at least 1"):
        InstalledDocs(max_bytes=0)


def test_this_environment_is_recorded_but_may_change():
    content = InstalledDocs().content()
    assert content["packages"] > 10
    assert len(content["package_versions_sha256"]) == 64
    assert not InstalledDocs.content_must_match


def read_in_this_process():
    return list(InstalledDocs().documents())


def test_a_daemonic_process_parses_without_children(installation):
    """Such as a worker of multiprocessing.Pool, which must not have any."""
    for number in range(230):
        write(installation / "purelib" / f"m{number:03}.py", f'"""Module {number}."""')
    with multiprocessing.get_context("fork").Pool(1) as pool:  # forked: it has the roots of this test
        assert pool.apply(read_in_this_process) == [f"Module {number}." for number in range(230)]


def test_it_is_one_part(installation):
    write(installation / "purelib" / "a.py", '"""A."""')
    assert InstalledDocs().parts(1) == [WHOLE]
    assert list(InstalledDocs().documents(WHOLE)) == ["A."]
