"""A preparation's progress bar: share done, rate of text, time left."""

import sys

from tqdm import tqdm

from tst_lightning.data.preparing.routing import Batch, Corpus

SECONDS_BETWEEN_LINES = 10
"""Where the output is a file rather than a terminal."""


class Progress:
    """Shows progress on stderr.

    The bar measures input bytes as stored (compressed where the files are), because that is what is known
    beforehand; it measures text where a limit on text is set, or where the input's size is not known.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._sources = [corpus.source]
        if corpus.validation_source is not None:
            self._sources.append(corpus.validation_source)
        sizes = [source.size_bytes() for source in self._sources]
        limited = corpus.max_bytes is not None or corpus.max_documents is not None
        self._measures_text = limited or None in sizes
        self._text_bytes = 0
        self._bar = tqdm(
            desc="preparing",
            total=corpus.max_bytes if self._measures_text else sum(sizes),
            unit="B",
            unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, batch: Batch) -> None:
        """Count a batch that has been written."""
        self._text_bytes += sum(len(document.data) for document in batch.documents)
        seconds = self._bar.format_dict["elapsed"]
        if seconds:
            rate = f"{self._text_bytes / 1e6:.0f} MB, {self._text_bytes / 1e6 / seconds:.1f} MB/s"
            self._bar.set_postfix_str(f"text {rate}", refresh=False)
        done = self._text_bytes if self._measures_text else sum(s.bytes_read for s in self._sources)
        self._bar.update(done - self._bar.n)
