"""How much of each corpus a run reads: refused before it starts if it is too much, and told when it starts."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from tst_lightning.data.reading.concat import MICRO_BATCHES_PER_BLOCK
from tst_lightning.data.reading.decomposed import DecomposedPlan
from tst_lightning.data.reading.packed import PackedRows
from tst_lightning.data.reading.plan import Plan, Segment
from tst_lightning.errors import UserError

NEARLY_NO_STEPS = 64
"""Runs this short may have no step for one of their stages, while some that are shorter still have."""


def require_enough_text(plan: Plan | DecomposedPlan, names: Sequence[str], max_steps: int, epochs: int) -> None:
    """Refuse a run that would read a corpus more often than allowed.

    Args:
        plan: of the run.
        names: of the corpora, for the message.
        max_steps: optimizer steps of the run.
        epochs: how often a corpus may be read.

    Raises:
        UserError: it would (names the corpus that falls short most, and what would help), or no ``max_steps``.
    """
    if max_steps is None or max_steps < 1:
        raise UserError(
            f"the order of the data is planned by step, and the Trainer has max_steps={max_steps}: "
            "set trainer.max_steps to the number of optimizer steps"
        )
    passes = plan.passes_needed(max_steps)
    shortest = max(range(len(passes)), key=passes.__getitem__)
    if passes[shortest] <= epochs:
        return
    corpus = plan.corpora[shortest]
    name = names[0 if isinstance(plan, DecomposedPlan) else shortest]
    needed_epochs = math.ceil(passes[shortest])
    groups = plan.groups_needed(max_steps)[shortest] // plan.streams
    steps = most_steps(plan, epochs, max_steps)
    fewer = _shorter(plan, steps)
    shorter = f"lower max_steps {fewer}, " if fewer else ""
    raise UserError(
        f"{max_steps:,} steps need {corpus.group_span_tokens(0, groups) * plan.streams:,} tokens of "
        f"'{name}', which has {corpus.tokens_per_pass:,} for each of epochs={epochs} "
        f"({corpus.group_description()}), enough for {steps:,} steps: set epochs={needed_epochs} to "
        f"repeat the text, {shorter}or prepare more text"
    )


def most_steps(plan: Plan | DecomposedPlan, epochs: int, below: int) -> int:
    """The length of the longest run with the same options for which the text suffices, with a switch of its own.

    A switch that is a share of the steps comes earlier in a shorter run, which then reads other text than the first
    steps of the longer one. A run that goes on with another number of devices keeps its switch.

    Args:
        plan: of a run of ``below`` steps.
        epochs: how often a corpus may be read.
        below: the run has fewer steps.

    Returns:
        Optimizer steps; 0 if there is no such run.
    """
    if not _changes_with_length(plan):
        return plan.most_steps(epochs, below)

    def needed(steps: int) -> float:
        try:
            shorter = replace(plan, schedule=plan.schedule.of_length(steps))
        except UserError:  # too short for one of the stages
            return 0
        return max(shorter.passes_needed(steps))

    most = bisect_right(range(below), epochs, key=needed) - 1
    # With several stages, one may end a step earlier in a longer run, and leave a block less unread behind it.
    stages = len(plan.schedule.of_length(below).stages)
    beyond = MICRO_BATCHES_PER_BLOCK * stages if stages > 2 else 0
    near = range(min(below - 1, most + beyond), max(0, most - NEARLY_NO_STEPS), -1)
    return next((steps for steps in near if 0 < needed(steps) <= epochs), 0)


def _shorter(plan: Plan | DecomposedPlan, steps: int) -> str:
    """To what ``max_steps`` can be lowered, for a message; empty if to nothing."""
    if not steps:
        return ""
    schedule = plan.schedule
    if len(schedule.stages) == 1:
        return f"to {steps}"
    if schedule.of_length is None:
        return "(and with it the schedule's stages)"
    if not _changes_with_length(plan):
        return ""  # a run that goes on cannot switch elsewhere
    before, now = schedule.last_switch, schedule.of_length(steps).last_switch
    moved = f" (and the switch with it, from step {before} to {now})"
    return f"to {steps}" + (moved if schedule.stages[0].superposed and now != before else "")


def _changes_with_length(plan: Plan | DecomposedPlan) -> bool:
    """Whether a run that is to be shorter is another run from its first step on."""
    return plan.schedule.of_length is not None and len(plan.parts) == 1


def tokens_left_unread(plan: Plan, segment: Segment, micros: int) -> int:
    """Tokens of groups that a segment has touched when it ends after ``micros`` micro-batches, and has not read."""
    left = 0
    for corpus, rows in enumerate(plan.rows_of_streams(segment, micros)):
        reader, stretch = plan.corpora[corpus], segment.stretches[corpus]
        groups = reader.groups_reached(stretch, max(rows))
        left += plan.streams * reader.group_span_tokens(stretch.first_group, groups)
        left -= sum(reader.tokens(stretch, count) for count in rows)
    return left


def report(
    plan: Plan | DecomposedPlan, names: Sequence[str], corpus_tokens: Sequence[int], max_steps: int, epochs: int
) -> list[str]:
    """Lines that say what a run reads of each corpus, what it leaves out, and how full packed rows are.

    Args:
        plan: of the run.
        names: of the corpora.
        corpus_tokens: tokens in the training split of each.
        max_steps: optimizer steps of the run.
        epochs: how often a corpus may be read.
    """
    if isinstance(plan, DecomposedPlan):
        return _report_decomposed(plan, names[0], corpus_tokens[0], max_steps, epochs)
    passes = plan.passes_needed(max_steps)
    lines = []
    for name, tokens, share, made, corpus in zip(
        names, corpus_tokens, plan.mixture.shares, passes, plan.corpora, strict=True
    ):
        line = f"'{name}': {tokens:,} tokens, {float(share):.1%} of the rows; this run makes {made:.2f} of at most "
        line += f"{epochs} passes"
        if left := tokens - corpus.tokens_per_pass:
            line += f", each of which leaves {left:,} tokens unread"
        lines.append(line)
    segments = plan.segments_by(max_steps)
    for segment, micros in segments:
        line = f"From step {segment.first_micro // plan.accumulate}: bag size {segment.bag_size}, {plan.accumulate} x "
        line += f"{segment.global_batch} rows a step"
        fills = [c.fill_ratio(segment.bag_size) for c in plan.corpora if isinstance(c, PackedRows)]
        if fills:
            line += f", {' and '.join(f'{fill:.2%}' for fill in fills)} full of text"
        if segment is not segments[-1][0] and (left := tokens_left_unread(plan, segment, micros)):
            line += f"; {left:,} tokens of its last block stay unread"
        lines.append(line)
    return lines


def _report_decomposed(plan: DecomposedPlan, name: str, tokens: int, max_steps: int, epochs: int) -> list[str]:
    left = tokens - sum(bucket.tokens_per_pass for bucket in plan.buckets)
    shortest = plan.buckets[0].decomposition.lengths[0]
    lines = [
        f"'{name}': {tokens:,} tokens; each pass leaves {left:,} unread ({left / tokens:.2%}), in pieces of documents "
        f"of {shortest} tokens and less"
    ]
    for bucket, passes in zip(plan.buckets, plan.passes_needed(max_steps), strict=True):
        lines.append(
            f"Rows of {bucket.length}: {bucket.tokens_per_pass / tokens:.2%} of the tokens, read in "
            f"{plan.steps_of(bucket.length, max_steps):,} steps of {plan.accumulate} x "
            f"{plan.global_batch * plan.sequence_length // bucket.length} rows; this run makes {passes:.2f} of at most "
            f"{epochs} passes"
        )
    return lines
