"""What a data module owes to the plan of its run: its accounts by step, and its part of a checkpoint."""

import math
from collections.abc import Sequence
from typing import Any

import lightning

from tst_lightning.data.reading.building import RowBuilder
from tst_lightning.data.reading.coverage import require_enough_text
from tst_lightning.data.reading.decomposed import DecomposedPlan
from tst_lightning.data.reading.loading import PlannedRows
from tst_lightning.data.reading.mixture import Mixture
from tst_lightning.data.reading.options import replicas
from tst_lightning.data.reading.plan import Plan
from tst_lightning.data.reading.planning import planned
from tst_lightning.data.reading.prepared import PreparedCorpus
from tst_lightning.data.reading.resume import History, continued_history, data_state, plan_state, require_same_order
from tst_lightning.schedule import Schedule


class PlannedDataModule(lightning.LightningDataModule):
    """A data module whose batches are those of a ``reading.plan.Plan``, of which each is known by its step.

    A subclass builds the loaders. It sets the attributes below when it is made, and calls ``_begin_fit`` before a fit,
    ``check_fit`` before it builds one.
    """

    sequence_length: int
    epochs: int
    rows_per_group: int | None
    packing_rows: int
    corpora: Sequence[PreparedCorpus]
    mixture: Mixture
    _builder: RowBuilder

    def __init__(self) -> None:
        super().__init__()
        self._begin_fit()

    def _begin_fit(self, loaded_state: dict[str, Any] | None = None) -> None:
        """Know nothing of an earlier fit, but the state that this one goes on from. A callback sets its schedule after.

        Args:
            loaded_state: the ``state_dict`` of a fit that the same Trainer goes on with.
        """
        self.schedule = Schedule()
        self.decomposition: dict[str, Any] | None = None  # arguments of ``TokenDataModule.decompose``
        self._loaded_state = loaded_state or {}
        self._train_plan: Plan | DecomposedPlan | None = None
        self._train_rows: PlannedRows | None = None

    def check_fit(self) -> None:
        """Everything that must hold before the first training batch is read; raises ``UserError``."""
        trainer, (world_size, _) = self.trainer, replicas(self.trainer)
        plan = self._train_plan = self.plan_of(trainer.accumulate_grad_batches, world_size)
        if saved := self._loaded_state:
            require_same_order(saved, self.state_dict(), self.schedule, trainer.lightning_module)
            history = continued_history(saved, plan.global_batch)
            plan = self._train_plan = self.plan_of(trainer.accumulate_grad_batches, world_size, history)
        require_enough_text(plan, self._names, trainer.max_steps, self.epochs)
        if self._train_rows is not None:  # Lightning has built the loader before it read the checkpoint
            self._train_rows.plan = plan

    @property
    def _names(self) -> list[str]:
        return [corpus.data_dir for corpus in self.corpora]

    @property
    def _group_rows(self) -> int:
        return self.rows_per_group or math.lcm(*(stage.bag_size for stage in self.schedule.stages))

    # Accounting -----------------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan | DecomposedPlan:
        """Of the Trainer's fit: which rows of text each micro-batch has."""
        return self._train_plan or self.plan_of(self.trainer.accumulate_grad_batches, replicas(self.trainer)[0])

    def plan_of(self, accumulate: int, world_size: int, history: History = ()) -> Plan | DecomposedPlan:
        """That of any run, Trainer or not; see ``reading.planning.planned``. Raises ``UserError``."""
        return planned(self, self._builder, self._group_rows, accumulate, world_size, history)

    def positions(self, steps: int) -> int:
        """Positions that the model sees in ``steps`` optimizer steps, over all devices, padding included."""
        return self.plan.rows_read(steps) * self.sequence_length

    def positions_by_length(self, steps: int) -> dict[int, int]:
        """``positions``, by the number of them in a row: a position of a longer row costs more."""
        if self.decomposition is None:
            return {self.sequence_length: self.positions(steps)}
        return self.plan.positions_by_length(steps)

    def data_tokens(self, steps: int) -> int:
        """Tokens that are targets (with bag size 1: would be) in ``steps`` optimizer steps, over all devices."""
        return self.plan.data_tokens(steps)

    # Checkpoints ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What determines the order of the data, and where in it the run is."""
        if (plan := self._train_plan) is None:
            return {}
        packing_rows = self.packing_rows if self._builder.packed or self.decomposition else None
        identity = data_state(self, self._group_rows, packing_rows) | {"decomposition": self.decomposition}
        return identity | plan_state(plan, self.trainer.global_step, self.trainer.max_steps)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state, to compare it once the schedule is known.

        Raises:
            UserError: the loaders are built already, and the checkpoint is of another run.
        """
        self._loaded_state = state_dict
        if self._train_plan is not None:
            self.check_fit()
