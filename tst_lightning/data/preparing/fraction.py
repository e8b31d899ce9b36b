"""Which ``validation_fraction`` a corpus of few documents needs, so that neither split is left without one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from tst_lightning.data.preparing.routing import document_digest, validation_place
from tst_lightning.data.preparing.task import Job, Report, Task

MOST_DOCUMENTS = 100_000
"""Of more, nothing is looked up: any fraction that is not tiny holds some of them out."""
_EXPECTED = 10
"""Documents held out by what is then advised."""


def taken_digests(job: Job, tasks: list[Task], reports: Iterable[Report]) -> Iterator[bytes]:
    """Digests of the documents that a preparation took from its source, which is read once more."""
    for report in reports:
        task = replace(next(task for task in tasks if task.number == report.number), limits=report.limits)
        if not task.is_validation:
            for _, document in islice(job.selection(task), report.amounts.documents):
                yield document_digest(document.data)


def advice(documents: int, fraction: float, digests: Callable[[], Iterable[bytes]]) -> str:
    """What to set where a split has none of ``documents``, a clause.

    Args:
        documents: number of them.
        fraction: the ``validation_fraction`` that was given.
        digests: of the documents, called only if there are few.
    """
    if documents > MOST_DOCUMENTS:
        raise_it = fraction < 0.5
        return f"{'raise' if raise_it else 'lower'} it (to {_EXPECTED / documents if raise_it else 0.01:.1g}, say)"
    places = sorted({validation_place(digest) for digest in digests()})
    if len(places) < 2:
        return (
            "a corpus of one text cannot have both splits, whatever the fraction: give it as several documents (each "
            "text file is one, each line of JSON Lines), add more"
        )
    held_out = max(1, min(round(fraction * len(places)), len(places) // 2))
    shown = _shortest(places[held_out - 1], places[held_out])
    return (
        f"set validation_fraction to {shown}, which holds out {held_out} of {len(places)} texts (the split of a text "
        "follows from its hash)"
    )


def _shortest(above: int, up_to: int) -> str:
    """The fraction of fewest digits whose bound lies above the one and up to the other."""
    for digits in range(1, 20):
        shown = f"{(above * 10**digits // 2**64 + 1) / 10**digits:.{digits}f}"
        if above < int(float(shown) * 2**64) <= up_to:
            return shown
    return str(up_to / 2**64)
