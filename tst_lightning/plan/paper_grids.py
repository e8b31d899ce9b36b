"""Final validation losses that the paper gives for its grids over bag size and step ratio, uniform target weights.

Numbers of Peng, Gigant, Quesnelle, *Efficient Pre-Training with Token Superposition*, arXiv 2605.06546 (2026): its
grids at 270M and 600M parameters, one seed each. Kept are the cells that all three grids have, up to the step ratio
from which all get worse.
"""

from dataclasses import dataclass

BAG_SIZES = tuple(range(2, 14))


@dataclass(frozen=True)
class Grid:
    """One grid: the same model and number of steps in every cell."""

    name: str
    parameters: int
    """As our configs of these models count them."""
    baseline_tokens: int
    """Tokens that the baseline reads; its steps have 2**21 positions."""
    baseline_loss: float
    losses: dict[float, tuple[float, ...]]
    """By step ratio, one for each of ``BAG_SIZES``."""

    @property
    def tokens_per_parameter(self) -> float:
        return self.baseline_tokens / self.parameters

    def gain(self, bag_size: int, step_ratio: float) -> float:
        """Nats by which superposition ended below the baseline."""
        return self.baseline_loss - self.losses[step_ratio][BAG_SIZES.index(bag_size)]


GRIDS = (
    Grid(
        "600M, 20,000 steps", 600_208_320, 20_000 * 2**21, 3.0186,
        {
            0.1: (2.9876, 2.9697, 2.9597, 2.9541, 2.9522, 2.9525, 2.9499, 2.9517, 2.9507, 2.9503, 2.9498, 2.9514),
            0.2: (2.9782, 2.9595, 2.9508, 2.9461, 2.9440, 2.9447, 2.9434, 2.9450, 2.9450, 2.9437, 2.9457, 2.9465),
            0.3: (2.9757, 2.9569, 2.9492, 2.9461, 2.9439, 2.9445, 2.9439, 2.9458, 2.9464, 2.9467, 2.9488, 2.9501),
            0.4: (2.9757, 2.9576, 2.9507, 2.9480, 2.9465, 2.9466, 2.9477, 2.9497, 2.9508, 2.9523, 2.9549, 2.9558),
            0.5: (2.9770, 2.9601, 2.9547, 2.9523, 2.9517, 2.9518, 2.9544, 2.9563, 2.9583, 2.9607, 2.9636, 2.9647),
        },
    ),
    Grid(
        "270M, 20,000 steps", 267_225_408, 20_000 * 2**21, 3.2124,
        {
            0.1: (3.1847, 3.1646, 3.1549, 3.1539, 3.1496, 3.1480, 3.1495, 3.1487, 3.1498, 3.1489, 3.1495, 3.1505),
            0.2: (3.1751, 3.1555, 3.1480, 3.1461, 3.1425, 3.1393, 3.1419, 3.1417, 3.1434, 3.1439, 3.1437, 3.1450),
            0.3: (3.1723, 3.1517, 3.1457, 3.1434, 3.1423, 3.1392, 3.1425, 3.1417, 3.1438, 3.1450, 3.1454, 3.1464),
            0.4: (3.1720, 3.1510, 3.1467, 3.1434, 3.1444, 3.1409, 3.1452, 3.1454, 3.1481, 3.1489, 3.1488, 3.1504),
            0.5: (3.1729, 3.1527, 3.1496, 3.1461, 3.1485, 3.1450, 3.1506, 3.1502, 3.1544, 3.1546, 3.1550, 3.1574),
        },
    ),
    Grid(
        "270M, 100,000 steps", 267_225_408, 100_000 * 2**21, 3.0921,
        {
            0.1: (3.0844, 3.0711, 3.0603, 3.0553, 3.0512, 3.0488, 3.0488, 3.0508, 3.0506, 3.0510, 3.0511, 3.0525),
            0.2: (3.0812, 3.0662, 3.0534, 3.0472, 3.0486, 3.0465, 3.0479, 3.0501, 3.0503, 3.0502, 3.0517, 3.0524),
            0.3: (3.0783, 3.0652, 3.0519, 3.0459, 3.0480, 3.0463, 3.0485, 3.0510, 3.0515, 3.0514, 3.0538, 3.0551),
            0.4: (3.0772, 3.0639, 3.0517, 3.0474, 3.0493, 3.0475, 3.0506, 3.0527, 3.0540, 3.0535, 3.0571, 3.0588),
            0.5: (3.0771, 3.0652, 3.0533, 3.0496, 3.0513, 3.0497, 3.0534, 3.0556, 3.0575, 3.0570, 3.0611, 3.0627),
        },
    ),
)  # fmt: skip
"""In order of tokens per parameter."""

SMALLEST_PARAMETERS = min(grid.parameters for grid in GRIDS)
LARGEST_PARAMETERS = max(grid.parameters for grid in GRIDS)


@dataclass(frozen=True)
class SingleRun:
    """A run of the paper with one bag size and ratio; it ended below its baseline."""

    name: str
    active_parameters: int
    """As our config of this model counts them."""
    positions: int
    """Of the run with superposition."""
    bag_size: int
    step_ratio: float

    @property
    def tokens_per_parameter(self) -> float:
        return self.positions / self.active_parameters


SINGLE_RUNS = (
    SingleRun("3B at 20,000 steps", 3_337_766_912, 20_000 * 2**21, 6, 0.3),
    SingleRun("a mixture of 10B at 49,983 steps", 995_679_232, 49_983 * 2**23, 16, 0.25),
)
