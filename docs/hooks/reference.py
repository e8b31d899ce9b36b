"""Writes the reference from signatures and docstrings when the site is built, so that it cannot fall behind them.

A line ``<!-- reference: NAME -->`` becomes an entry for each of

- ``commands``: the functions behind `tst-lightning`;
- ``package.module.*``: the classes that the module has in ``__all__``;
- ``package.module.Class``: that class.

A parameter without a word of documentation is a warning, which ends a strict build.
"""

import dataclasses
import importlib
import inspect
import logging
import re
import types
import typing
from typing import Any

import docstring_parser

from tst_lightning import cli

MARKER = re.compile(r"^<!-- reference: (?P<name>[\w.*]+) -->$", re.M)
_CODE = re.compile(r"(``.+?``|`[^`]+?`)", re.S)

log = logging.getLogger("mkdocs.hooks.reference")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs' event: a page's text before it is turned into HTML."""
    return MARKER.sub(lambda found: "\n\n".join(map(entry, subjects(found["name"]))), markdown)


def subjects(name: str) -> list[Any]:
    """The classes and functions that a marker stands for."""
    if name == "commands":
        modules = {command.replace("-", "_"): module for command, (module, _) in cli.COMMANDS.items()}
        return [getattr(importlib.import_module(module), function) for function, module in modules.items()]
    module_name, _, attribute = name.rpartition(".")
    module = importlib.import_module(module_name)
    if attribute != "*":
        return [getattr(module, attribute)]
    return [found for found in (getattr(module, each) for each in module.__all__) if inspect.isclass(found)]


def entry(subject: Any) -> str:
    """Markdown for a class or function: what it is, its parameters, what it raises."""
    name, documented = subject.__name__, docstring_parser.parse(inspect.getdoc(subject) or "")
    title = f"`tst-lightning {name.replace('_', '-')}`" if inspect.isfunction(subject) else f"`{name}`"
    parts = [f"### {title} {{ #{name} }}"]
    if inspect.isclass(subject):
        parts.append(f"`{class_path(subject)}`")
    parts += [escaped(text) for text in (documented.short_description, documented.long_description) if text]
    texts = parameter_texts(subject)
    for parameter, (kind, default) in parameters(subject).items():
        if not texts.get(parameter):
            log.warning(f"{name}: the parameter '{parameter}' has no documentation")
        facts = [f"`{parameter}`{{ #{name}-{parameter} }}", f"`{kind}`", default]
        if name in cli.BARE_PARAMETER and inspect.isfunction(subject) and default == "required":
            facts.append("*bare*: without a flag")
        parts.append(f"{' · '.join(facts)}\n:   {indented(escaped(texts.get(parameter, '')))}")
    for raised in documented.raises:
        parts.append(f"Raises `{raised.type_name}`: {escaped(raised.description or '')}")
    return "\n\n".join(parts)


def class_path(kind: type) -> str:
    """What to write as ``class_path``: the shortest package that has the class."""
    packages = kind.__module__.split(".")
    paths = (".".join(packages[:count]) for count in range(1, len(packages) + 1))
    return next(f"{path}.{kind.__name__}" for path in paths if hasattr(importlib.import_module(path), kind.__name__))


def parameters(subject: Any) -> dict[str, tuple[str, str]]:
    """Parameter -> its type and its default, as text."""
    function = subject.__init__ if inspect.isclass(subject) else subject
    hints = typing.get_type_hints(function)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: (type_text(hints.get(name, Any)), default_text(subject, parameter))
        for name, parameter in inspect.signature(subject).parameters.items()
        if parameter.kind not in kinds
    }


def parameter_texts(subject: Any) -> dict[str, str]:
    """Parameter -> its documentation: under ``Args`` of the class or of ``__init__``, or below a dataclass' field."""
    if not inspect.isclass(subject):
        return _texts(docstring_parser.parse(inspect.getdoc(subject) or ""))
    texts: dict[str, str] = {}
    for kind in reversed(subject.__mro__[:-1]):
        if dataclasses.is_dataclass(kind):
            texts |= _texts(docstring_parser.parse_from_object(kind))
        texts |= _texts(docstring_parser.parse(inspect.cleandoc(kind.__dict__.get("__doc__") or "")))
        if "__init__" in kind.__dict__ and kind.__init__.__doc__:
            # The parser wants a sentence before the first section.
            texts |= _texts(docstring_parser.parse(f"Makes one.\n\n{inspect.cleandoc(kind.__init__.__doc__)}"))
    return texts


def _texts(documented: docstring_parser.Docstring) -> dict[str, str]:
    return {found.arg_name: inspect.cleandoc(found.description) for found in documented.params if found.description}


def type_text(hint: Any) -> str:
    """A type as it would be written, without the names of modules: ``"a" | "b" | list[float] | None``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is types.NoneType:
        return "None"
    if origin is typing.Literal:
        return " | ".join(map(quoted, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_text, arguments))
    if isinstance(hint, list):
        return f"[{', '.join(map(type_text, hint))}]"
    name = getattr(origin or hint, "__name__", str(hint))
    return f"{name}[{', '.join(map(type_text, arguments))}]" if arguments else name


def default_text(subject: Any, parameter: inspect.Parameter) -> str:
    """``required``, or the default as it would be written."""
    default = parameter.default
    if default is inspect.Parameter.empty:
        return "required"
    if dataclasses.is_dataclass(subject):
        # A default that is made anew for each object has no value of its own.
        field = next(field for field in dataclasses.fields(subject) if field.name == parameter.name)
        if field.default_factory is not dataclasses.MISSING:
            return f"default `{quoted(field.default_factory())}`"
    return f"default `{quoted(default)}`"


def quoted(value: Any) -> str:
    """A value as Python writes it, strings in the quotes that this project uses."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def escaped(text: str) -> str:
    """Docstring text as Markdown: what is not code is taken literally."""
    pieces = _CODE.split(text)
    return "".join(
        piece if number % 2 else re.sub(r"([*<\[\]])", r"\\\1", piece) for number, piece in enumerate(pieces)
    )


def indented(text: str) -> str:
    """A definition that runs over several lines."""
    return text.replace("\n", "\n    ")
