"""Weights of a bag from ``mutual_information.json``. Imports nothing heavy: callbacks read it before a run."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tst_lightning.errors import UserError

FILE_NAME = "mutual_information.json"
FORMAT_VERSION = 1
_REMEDY = "make it with `tst-lightning mutual-information DATA_DIR`"


class HasHash(Protocol):
    """What a manifest says of its tokenizer."""

    hash: str


@dataclass(frozen=True)
class FittedPowerLaw:
    """``C0 + a * d^k`` nats between tokens at distance ``d``, and what it was measured on."""

    tokenizer_hash: str
    corpus_hash: str
    c0: float
    a: float
    k: float

    def value(self, distance: int) -> float:
        """The fitted information in nats at a distance of at least 1."""
        return self.c0 + self.a * distance**self.k


def fitted_bag_weights(path: str | Path, bag_size: int) -> tuple[float, ...]:
    """Weights of the tokens ``i = 1 .. bag_size`` of a target bag, proportional to ``C0 + a * i^k``; they sum to 1.

    Args:
        path: ``mutual_information.json``, or the folder that it is in.
        bag_size: at least 1.

    Raises:
        UserError: the file is missing or damaged, or the fit is not above zero at all of these distances.
    """
    if not isinstance(bag_size, int) or bag_size < 1:
        raise UserError(f"bag_size={bag_size} must be a whole number, at least 1")
    fit = read_fit(path)
    values = [fit.value(i) for i in range(1, bag_size + 1)]
    if min(values) <= 0:
        first = next(i for i, value in enumerate(values, 1) if value <= 0)
        raise UserError(
            f"the fit in '{path}', {fit.c0:.4g} + {fit.a:.4g} * i^{fit.k:.4g}, is not above zero at distance {first}, "
            f"and a bag of {bag_size} tokens needs a weight there: use a bag_size below {first}, or weights=power_law"
        )
    total = math.fsum(values)
    return tuple(value / total for value in values)


def read_fit(path: str | Path) -> FittedPowerLaw:
    """The fit in a file of ``tst-lightning mutual-information``.

    Args:
        path: ``mutual_information.json``, or the folder that it is in.

    Raises:
        UserError: the file is missing, damaged, or of another format version.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no file '{path}': {_REMEDY}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as JSON ({error}): {_REMEDY}") from error
    try:
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"'{path}' has format version {version}, and this release reads {FORMAT_VERSION}: {_REMEDY} of it"
            )
        fit = FittedPowerLaw(
            _text(values["tokenizer_hash"]), _text(values["corpus_hash"]),
            *(_number(values["fit"][name]) for name in ("c0", "a", "k")),
        )  # fmt: skip
        if not fit.a > 0 > fit.k:
            raise TypeError(f"a={fit.a}, k={fit.k} is no falling curve")
    except (KeyError, TypeError) as error:
        raise UserError(f"'{path}' holds no fitted mutual information ({error!r}): {_REMEDY}") from error
    return fit


def require_tokenizer(path: str | Path, tokenizer: HasHash | None) -> None:
    """Refuse a fit for other tokens than those of a run.

    Args:
        path: as for ``read_fit``.
        tokenizer: the run's, as in the manifest of its corpus; None where it is not known, and nothing is compared.

    Raises:
        UserError: the file was made with another tokenizer, or cannot be read.
    """
    fit = read_fit(path)
    if tokenizer is not None and tokenizer.hash != fit.tokenizer_hash:
        raise UserError(
            f"'{path}' was measured with another tokenizer ({fit.tokenizer_hash[:12]}) than the run's corpus has "
            f"({tokenizer.hash[:12]}), and distances in its tokens are none in the run's: {_REMEDY} of the run"
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no finite number")
    return float(value)
