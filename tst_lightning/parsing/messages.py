"""What jsonargparse says of a value, read as the tree that it is, and said in one line: value, constraint, remedy.

jsonargparse nests its messages by indentation: a key, the alternatives of its type with the reason against each, for a
class the key in it, and so on. Of the alternatives one is what the user meant: the one that goes deepest into what was
given. Text of any other form comes out as it is, in one line.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tst_lightning.parsing.remedies import A_CLASS, refused_by_class, refused_otherwise, refused_value

_KEY = re.compile(r'Parser key "([^"]+)"(?: element \d+)?:(.*)', re.DOTALL)
_PATH = re.compile(r"- Expected a path but .*? either not accessible or invalid\n- (.*)", re.DOTALL)
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\nSubtypes: \[(.*)\]\nErrors:\n(.*?)"
    r"\nGiven value type: ([^\n]*)\nGiven value: (.*)",
    re.DOTALL,
)
_CLASS = re.compile(r"Problem with given class_path '([^']+)':(.*)", re.DOTALL)
_CALLABLE = re.compile(r"Type .*? expects a function or a callable class: (.*)", re.DOTALL)
_OF_CALLABLE = re.compile(r"\. Got value: Namespace\(class_path='([^']+)'.*$", re.DOTALL)
_NESTED = re.compile(r"NestedArg\(key='([^']*)', val=.*\)", re.DOTALL)
_EXPECTED = re.compile(r"Expected an? (?:(<class '[\w.]+'>|typing\.[\w.]+|[\w.]+)(\[.*\])?)", re.DOTALL)
_KINDS = {
    "int": "an integer", "float": "a number", "str": "a text", "bool": "true or false", "list": "a list",
    "tuple": "a list", "set": "a list", "Iterable": "a list", "Sequence": "a list", "dict": "a mapping",
}  # fmt: skip
_LONGEST_VALUE = 120
"""Characters of a value that are repeated; of a whole configuration the beginning is enough."""


@dataclass(frozen=True)
class _Complaint:
    """One reason against a value.

    Args:
        place: keys, and the classes that they are of, outermost first; classes are marked by a colon at their end.
        value: as the parser repeats it; None where it does not.
        wanted: what may be given instead.
        choices: values of which one may be given instead.
        reason: anything else that is said.
        nested: key on the command line that goes into the value, such as step_ratio into trainer.callbacks.
        in_list: the value is one of a list of such.
        is_implied: the class was not given: it is that of the type.
    """

    place: tuple[str, ...] = ()
    value: str | None = None
    wanted: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    reason: str = ""
    nested: str = ""
    in_list: bool = False
    is_implied: bool = False

    def within(self, place: str) -> "_Complaint":
        return replace(self, place=(place, *self.place))

    @property
    def is_empty(self) -> bool:
        return not (self.wanted or self.choices or self.reason)


def in_one_line(text: str) -> str:
    """The parser's message about a value as ``place=value: constraint``; any other text without its line breaks."""
    complaints = list(dict.fromkeys(_read(text)))
    if not any(complaint.place for complaint in complaints):
        return refused_otherwise(_flat(text))
    return "; or ".join(_said(complaint) for complaint in complaints)


def _read(text: str, subtype: str = "") -> list[_Complaint]:
    """The complaints in a message about a value of a type, which is given where the parser tells it."""
    text = textwrap.dedent(text.strip("\n")).strip()
    if match := _PATH.fullmatch(text):
        return _read(match[1], subtype)
    if match := _KEY.fullmatch(text):
        return [complaint.within(match[1]) for complaint in _read(match[2])]
    if match := _CLASS.fullmatch(text):
        return [complaint.within(f"{match[1]}:") for complaint in _read(match[2])]
    if match := _CALLABLE.fullmatch(text):
        name = _OF_CALLABLE.search(match[1])
        inner = _read(_OF_CALLABLE.sub("", match[1]))
        return [complaint.within(f"{name[1]}:") for complaint in inner] if name else inner
    if match := _UNION.fullmatch(text):
        return _read_union(*match.groups())
    return [_leaf(text, subtype)]


def _read_union(subtypes: str, errors: str, kind: str, value: str) -> list[_Complaint]:
    types = list(_split(subtypes))
    reasons = re.split(r"^- ", textwrap.dedent(errors), flags=re.MULTILINE)[1:]
    types = types if len(types) == len(reasons) else [""] * len(reasons)
    if not reasons:
        return [_Complaint(value=value, reason=_flat(errors))]
    # The first line of a reason stands behind its dash, the others as far to the right.
    found = [
        complaint
        for reason, subtype in zip(reasons, types, strict=True)
        for complaint in _read(re.sub(r"^  ", "", reason, flags=re.MULTILINE), subtype)
    ]
    found = [one for one in found if not one.is_empty] or found
    nested = _NESTED.fullmatch(value)
    in_list = any(one.startswith("list[") for one in types)
    bases = {f"{one.rpartition('.')[2].strip(chr(39) + '>')}:" for one in types if one.startswith("<class")}
    # Of a value that is no class the parser repeats the one that was there before.
    deep = [one for one in found if one.place or (one.value not in (None, value) and not _is_of_class(one))]
    # The class of the type itself is tried where no other is given.
    implied = [one for one in deep if one.place and one.place[0].rpartition(".")[2] in bases]
    if chosen := [one for one in deep if one not in implied] or implied:
        common = {"nested": nested[1] if nested else "", "is_implied": chosen is implied}
        return [replace(one, **common, in_list=one.in_list or in_list) for one in chosen]
    return [_merged(found, None if nested else value, nested[1] if nested else "")]


def _is_of_class(complaint: _Complaint) -> bool:
    return any(wanted.startswith(A_CLASS) for wanted in complaint.wanted)


def _merged(found: Sequence[_Complaint], value: str | None, nested: str) -> _Complaint:
    """Several reasons against the same value as one."""
    return _Complaint(
        value=value,
        wanted=tuple(dict.fromkeys(one for complaint in found for one in complaint.wanted)),
        choices=tuple(dict.fromkeys(one for complaint in found for one in complaint.choices)),
        reason="; ".join(dict.fromkeys(complaint.reason for complaint in found if complaint.reason)),
        nested=nested,
    )


def _leaf(text: str, subtype: str) -> _Complaint:
    """A message about a type that has no further ones in it."""
    said, is_repeated, value = text.partition(". Got value: ")
    if said.startswith("Not a valid subclass of"):
        value = value.partition("\n")[0]  # what a class may be given as follows
    complaint = _Complaint(value=value if is_repeated else None)
    if subtype == "<class 'NoneType'>" or said == "Expected a <class 'NoneType'>":
        return complaint
    # Of an int among the values of a Literal the parser says only that it has to be an int.
    literal = subtype if subtype.startswith("typing.Literal[") else said.removeprefix("Expected a ")
    if literal.startswith("typing.Literal["):
        return replace(complaint, choices=_choices(literal.removeprefix("typing.Literal")))
    if said.startswith(("Expected a dot import path", "Not a valid subclass of", "Import path ")):
        name = re.search(r"subclass of (\w+)", said) or re.search(r"(\w+)'>$", subtype)
        given = re.match(r"Expected a dot import path string: (.+)|Import path (\S+) does not", said)
        value = complaint.value or (given[1] or given[2] if given else None)
        return replace(complaint, value=value, wanted=(f"{A_CLASS}{name[1] if name else 'class'}",))
    match = _EXPECTED.fullmatch(said)
    name = match[1].removeprefix("<class '").removesuffix("'>").rpartition(".")[2] if match else ""
    if name in _KINDS:
        return replace(complaint, wanted=(_KINDS[name],))
    return replace(complaint, reason=_flat(said))


def _choices(listed: str) -> tuple[str, ...]:
    try:
        return tuple(str(value) for value in ast.literal_eval(listed))
    except (ValueError, SyntaxError):  # members of an Enum
        return tuple(_split(listed[1:-1]))


def _split(listed: str) -> Iterator[str]:
    """The entries of a list in writing, whose own brackets may hold commas."""
    depth, entry = 0, ""
    for character in listed:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            yield entry.strip()
            entry = ""
        else:
            entry += character
    if entry.strip():
        yield entry.strip()


def _said(complaint: _Complaint) -> str:
    place = _written(complaint.place)
    last = complaint.place[-1] if place else ""
    if complaint.nested and complaint.value is None and len(complaint.place) == 1:
        return (
            f"{place} has no class yet whose option {complaint.nested} could be set: give the class_path for {place} "
            "first"
        )
    if last.endswith(":"):
        key = complaint.place[0] if complaint.in_list and complaint.nested else ""
        reason = refused_by_class(complaint.reason, last[:-1], key, complaint.is_implied)
    else:
        reason = refused_otherwise(complaint.reason)
    if complaint.is_empty:
        reason = "null is the only value"
    remedy = refused_value(complaint.value, complaint.wanted, complaint.choices)
    value = "" if complaint.value is None else _short(complaint.value)
    given = f"{place}={value}" if place and value else place or value
    return ": ".join(part for part in (given, "; ".join(filter(None, (remedy, reason)))) if part)


def _written(place: Sequence[str]) -> str:
    """``trainer.callbacks, callbacks.Throughput: every_n_seconds``."""
    written = ""
    for one in place:
        joint = "" if not written else ", " if one.endswith(":") else " " if written.endswith(":") else "."
        written += joint + one
    return written.removesuffix(":")


def _short(value: str) -> str:
    value = _flat(value)
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."


def _flat(text: str) -> str:
    return " ".join(text.split())
