"""What is compared: arms, and what each lays over the `fit` command that all share."""

from dataclasses import dataclass, field

Value = bool | int | float | str | list | dict | None
"""What YAML can say. Not ``Any``: for that the argument parser would build the object that a ``class_path``
names, which is for `fit` to do."""

Factor = bool | int | float | str
"""A value of a grid."""


@dataclass(frozen=True)
class Overlay:
    """A part of a `fit` command: config files and values laid over what comes before."""

    configs: list[str] = field(default_factory=list)
    """YAML files given to `fit` as `--config`, in this order; later ones win."""
    overrides: dict[str, Value] = field(default_factory=dict)
    """Dotted keys of `fit` and their values, for example `trainer.max_steps: 3500`; they win over files."""


@dataclass(frozen=True)
class ArmSpec(Overlay):
    """A method, or a grid of them, as an experiment's file describes it."""

    grid: dict[str, list[Factor]] = field(default_factory=dict)
    """One arm per combination of these values, the last name's changing fastest. `{name}` stands for a value: in
    the arm's name, in `configs`, in `overrides` and in `equal_..._with`. An override that is exactly `"{name}"`
    becomes the value itself, with its type. `{{name}}` means the text `{name}`."""
    lengths: list[int] | None = None
    """The experiment's lengths that this arm is trained at; all by default."""
    equal_data_with: str | None = None
    """Another arm, with superposition: this one is trained, without, for as many steps as read that arm's data tokens,
    at each of its lengths, and is a second baseline for it."""
    equal_flops_with: str | None = None
    """Another arm, usually the baseline: this one is trained for as many steps as cost the same FLOPs, at each of its
    lengths, in whole intervals of validation. For methods whose steps cost more or less: patch-level training,
    heads for further tokens."""
    compare_with: list[str] = field(default_factory=list)
    """Other arms that this one is compared with, beside the baseline, at the same length: does it help on top of
    another method?"""


@dataclass(frozen=True)
class Arm:
    """One thing that is trained with every seed: a method, at one length, of one variant.

    The name, which is also the folder's, is ``[variant-]method[-steps]``.
    """

    name: str
    method: str
    """What is compared: `baseline`, `tst_s4_r0.3`. The same in every length and variant, and so is its colour."""
    overlay: Overlay
    """All that the arm lays over the experiment's base: its variant, its method, its length."""
    factors: dict[str, Factor] = field(default_factory=dict)
    """The values of the arm's grid, for example ``{"s": 4, "r": 0.3}``."""
    variant: str = ""
    """Arms of different variants (another tokenizer, another model) are never compared with each other."""
    steps: int | None = None
    """The length of the run, where the experiment has several."""
    references: tuple[str, ...] = ()
    """Names of the arms that this one is compared with: the baseline of its variant and length, and a baseline
    that reads as much data. Empty for those themselves."""
    trunk: str | None = None
    """Name of the arm whose run this one branches off: the same method's longest."""
    branch_step: int | None = None
    """The optimizer step at which it does: where its own learning-rate decay begins."""
    length: int | None = None
    """Which of the experiment's lengths it belongs to. Its steps are others if it has equal_data_with or
    equal_flops_with."""

    @property
    def nominal_length(self) -> int | None:
        """What arms that are compared with each other have in common; experiments saved earlier say their steps."""
        return self.steps if self.length is None else self.length
