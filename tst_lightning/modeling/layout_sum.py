"""What lies beside the shards of a sharded checkpoint, and the checksum of its table of contents.

That one is no archive with checksums of its own; its SHA-256 lies beside it, in a file that ``sha256sum -c`` reads.
"""

import hashlib
from pathlib import Path

LAYOUT_FILE = ".metadata"
RUN_FILE = "meta.pt"
SUMS_FILE = "SHA256SUMS"


def write_sum(file: Path) -> Path:
    """Write ``SHA256SUMS`` beside ``file``, of it alone, and return its path; raises ``OSError``."""
    sums = file.with_name(SUMS_FILE)
    sums.write_text(_sum_line(file))
    return sums


def same_sum(file: Path) -> bool:
    """Whether ``file`` is as ``SHA256SUMS`` beside it says; True if there is none, as of older releases."""
    try:
        lines = (file.parent / SUMS_FILE).read_text().splitlines()
    except FileNotFoundError:
        return True
    except ValueError:  # no text
        return False
    return _sum_line(file).strip() in lines


def _sum_line(file: Path) -> str:
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
