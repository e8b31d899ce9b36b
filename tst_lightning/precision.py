"""The values of ``trainer.precision``: one name for each, and the arithmetic that it is bound by."""

from typing import Any

ARITHMETIC = {
    "64-true": "fp64",
    "32-true": "fp32",
    "bf16-true": "bf16",
    "bf16-mixed": "bf16",
    "16-true": "bf16",
    "16-mixed": "bf16",
}
"""In which format a device computes the matrix products; the two of 16 bits are equally fast."""
_SHORT = {"None": "32-true", "64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""What else the Trainer takes, numbers too. Lightning's table of these is private."""


def precision_name(value: Any) -> str:
    """The key of ``ARITHMETIC`` that a ``trainer.precision`` means; one that is none of them as it is."""
    return _SHORT.get(str(value), str(value))
