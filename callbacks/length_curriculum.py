"""LengthCurriculum: dataset decomposition with a curriculum from short rows to long ones, in one callback.

Documents are cut into chunks whose lengths are powers of two, each a training row by itself; every optimizer step
reads rows of one length, as many as hold the run's tokens per step. So rows need neither mask nor padding, no
document sees another one, and short documents do not cost the attention of long rows.

Pouransari et al., *Dataset Decomposition: Faster LLM Training with Variable Sequence Length Curriculum*, arXiv
2405.13226. Where the text of the paper leaves a choice, this follows its authors' program
(github.com/apple/ml-dataset-decomposition): ``data.reading.decomposition`` and ``data.reading.curriculum`` say how.

The callback needs of the datamodule:

- ``decompose(min_length, long_documents)`` (called in ``setup``, before loaders are built): from then on training
  rows are chunks; returns the tokens there are in rows of each length;
- ``set_schedule(schedule)``, whose stages have a ``sequence_length``; ``seed``;
- ``check(max_steps, accumulate, world_size)``, if there is one: refuses a run that the data cannot serve.

The module has to take batches of any shape, and to count its FLOPs by ``datamodule.positions_by_length``.
"""

from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer

from callbacks.resuming import SameRunCallback
from tst_lightning.data.reading.curriculum import Curriculum, length_schedule
from tst_lightning.data.reading.decomposition import CURRICULUM, LongDocuments
from tst_lightning.data.reading.options import replicas
from tst_lightning.data.reading.order import MIXTURE, generator
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

STATE_VERSION = 1


class LengthCurriculum(SameRunCallback):
    """Trains on rows of ``min_length`` to ``data.sequence_length`` positions; remove it and you have the baseline.

    Validation keeps its windows of ``sequence_length``. Each length has steps in proportion to its text, so the run
    reads the corpus as evenly as the baseline does, short of what is left out: the end of each document, when it is
    too short for a row. ``batch_size`` counts rows of ``sequence_length``; a step of rows of half that length has
    twice as many.

    Args:
        min_length: positions of the shortest rows, a power of two as is ``sequence_length``. The paper's lengths are
            256 to 8192.
        curriculum: how lengths are drawn. ``grow_p2``: a row has twice the odds of one twice as long, until the rows
            of its length are used up; ``uniform``: all have the same odds.
        cycles: how often the run goes from short to long, each time with an equal part of every length. The
            authors' runs have 8.
        long_documents: how documents of two rows and more of ``sequence_length`` are cut: into rows of ``random``
            lengths, each length with as many tokens, as the authors' program does by default; or of the ``longest``,
            which leaves a corpus of books hardly a short row.

    Raises:
        UserError: a value out of range (at construction); or superposition, packing, isolated documents, a mixture
            or several streams beside it, or too little text (in ``setup``, before any work).
    """

    trained_with = "a length curriculum of"

    def __init__(
        self,
        min_length: int = 256,
        curriculum: Curriculum = "grow_p2",
        cycles: int = 8,
        long_documents: LongDocuments = "random",
    ) -> None:
        super().__init__()
        if isinstance(min_length, bool) or not isinstance(min_length, int) or min_length < 1:
            raise UserError(f"min_length={min_length!r}: give a power of two, such as 256")
        if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
            raise UserError(f"cycles={cycles!r}: give an integer of at least 1 (the authors' runs have 8)")
        for name, value, kind in (
            ("curriculum", curriculum, Curriculum),
            ("long_documents", long_documents, LongDocuments),
        ):
            if value not in get_args(kind):
                raise UserError(f"{name}={value!r}: choose {' or '.join(get_args(kind))}")
        self.min_length = min_length
        self.curriculum = curriculum
        self.cycles = cycles
        self.long_documents = long_documents
        self.schedule = Schedule()
        self._max_steps = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        data = trainer.datamodule
        missing = [name for name in ("decompose", "set_schedule") if not callable(getattr(data, name, None))]
        if missing:
            raise UserError(
                f"LengthCurriculum needs {' and '.join(missing)} on the datamodule ({type(data).__name__}): see the "
                "protocol in callbacks/length_curriculum.py"
            )
        if trainer.max_steps is None or trainer.max_steps < 1:
            raise UserError(
                f"a length curriculum needs the run's length in steps, got trainer.max_steps={trainer.max_steps}: set "
                "trainer.max_steps"
            )
        if getattr(data, "schedule", Schedule()) != Schedule():
            raise UserError(
                "LengthCurriculum does not go with another callback that sets a schedule (SuperpositionCallback): use "
                "one of them"
            )
        self._max_steps = trainer.max_steps
        tokens = data.decompose(self.min_length, self.long_documents)
        random = generator(data.seed, 0, MIXTURE, CURRICULUM)
        self.schedule = length_schedule(tokens, trainer.max_steps, self.curriculum, self.cycles, random)
        data.set_schedule(self.schedule)
        if callable(getattr(data, "check", None)):
            data.check(trainer.max_steps, trainer.accumulate_grad_batches, replicas(trainer)[0])

    def state_dict(self) -> dict[str, Any]:
        names = ("min_length", "curriculum", "cycles", "long_documents")
        return {"version": STATE_VERSION, "max_steps": self._max_steps} | {name: getattr(self, name) for name in names}

    def remedy(self, name: str, saved: Any) -> str:
        return super().remedy(name, saved) + " (the curriculum is laid out over all of it)" * (name == "max_steps")
