"""Messages on lines of their own while a progress bar is drawn, which ends no line until it is done."""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class OwnLines:
    """In the place of standard error, also for loggers that hold it: the bar's line ends before something is written.

    Args:
        end_line: ends the line that the bar is drawn on, if there is one; the bar draws itself anew below.
    """

    _stream: TextIO | None = None  # of the class too: a copy that is not filled yet is asked for its methods

    def __init__(self, end_line: Callable[[], None]) -> None:
        self._end_line = end_line

    def begin(self) -> None:
        """Take the place of standard error, if that is not done."""
        if self._stream is None:
            self._stream, sys.stderr = sys.stderr, self
            self._move(self._stream, self)

    def end(self) -> None:
        """Give it back, unless someone else has taken it meanwhile."""
        if self._stream is not None:
            self._move(self, self._stream)
            if sys.stderr is self:
                sys.stderr = self._stream
            self._stream = None

    def write(self, text: str) -> int:
        if text.strip():
            self._end_line()
        return self._there.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    @property
    def _there(self) -> TextIO:
        return sys.__stderr__ if self._stream is None else self._stream

    @staticmethod
    def _move(before: Any, after: Any) -> None:
        for handler in _stream_handlers():
            if vars(handler).get("stream") is before:  # some look it up whenever they write
                handler.setStream(after)


def _stream_handlers() -> Iterator[logging.StreamHandler]:
    for logger in (logging.getLogger(), *list(logging.Logger.manager.loggerDict.values())):
        yield from (each for each in getattr(logger, "handlers", ()) if isinstance(each, logging.StreamHandler))
