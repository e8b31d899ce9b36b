"""Read TensorBoard's event files, as far as they are whole."""

import struct
from collections.abc import Collection, Iterator
from pathlib import Path

_HEADER_BYTES = 12
"""Length of a record (8 bytes) and a checksum of it."""
_FOOTER_BYTES = 4
"""Checksum of the record."""


def scalar_events(path: Path, tags: Collection[str]) -> Iterator[tuple[str, int, float, float]]:
    """Scalars of one event file, in the order of writing: tag, step, value, wall time.

    TensorBoard's own readers compute a checksum of every byte in Python, which takes eight times as long as all
    the rest. Here a record that is cut off, or that is none, ends the file.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    wanted = [tag.encode() for tag in tags]
    for record in _records(path):
        # Training logs many more values than are asked for: most records need not be parsed.
        if not any(tag in record for tag in wanted):
            continue
        try:
            event = Event.FromString(record)
        except DecodeError:
            return
        for value in event.summary.value:
            if value.tag in tags:
                yield value.tag, event.step, _number(value), event.wall_time


def _records(path: Path) -> Iterator[bytes]:
    try:
        content = path.read_bytes()
    except OSError:
        return
    place = 0
    while place + _HEADER_BYTES <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        start = place + _HEADER_BYTES
        if start + length > len(content):
            return
        yield content[start : start + length]
        place = start + length + _FOOTER_BYTES


def _number(value) -> float:
    """A scalar is a plain number, or a tensor of one in files of newer writers."""
    if value.WhichOneof("value") == "tensor" and len(value.tensor.float_val) == 1:
        return value.tensor.float_val[0]
    return value.simple_value
