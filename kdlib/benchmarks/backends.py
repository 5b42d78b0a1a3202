"""The implementations of one potential that the benchmarks compare in MD.

All run the same weights under ASE:

- ``"stock"``: hippynn's own calculator, as in the paper;
- ``"hippynn"``: our calculator over hippynn's layers;
- ``"fused"``: our calculator over our kernels.
"""

from collections.abc import Iterable, Mapping, Sequence

import xarray as xr
from ase.calculators.calculator import BaseCalculator

from kdlib.errors import InputError
from kdlib.hipnn import Potential
from kdlib.hipnn.calculator import HipnnCalculator, stock_calculator
from kdlib.results.schema import BACKENDS

#: Backend -> numbers of atoms that it runs.
Sizes = Mapping[str, Sequence[int]]


def contestant(
    potential: Potential, backend: str, device: str = "auto", skin: float = 1.0
) -> BaseCalculator:
    """Return the calculator of a backend, with a copy of the weights.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    skin
        Skin of the neighbor list, Angstrom (the stock calculator applies it twice).

    Raises
    ------
    InputError
        When the backend is unknown or cannot run this model: a benchmark does not fall back.
    """
    check_backends([backend])
    if backend == "stock":
        return stock_calculator(potential, device, skin)
    calculator = HipnnCalculator(potential, device, backend, skin)
    if calculator.backend != backend:
        raise InputError(f"backend {backend!r} cannot run the model {potential.config.label}")
    return calculator


def check_backends(backends: Iterable[str]) -> None:
    """Raise InputError for a backend that is not among :data:`BACKENDS`."""
    if unknown := [name for name in backends if name not in BACKENDS]:
        raise InputError(f"unknown backend {unknown[0]!r}; there are {', '.join(BACKENDS)}")


def grid(potentials: Sequence[Potential], sizes: Sizes) -> xr.Dataset:
    """Return the coordinates of a benchmark: architectures with their counts, backends, sizes."""
    labels = [potential.config.label for potential in potentials]
    if len(set(labels)) < len(labels):
        raise InputError(f"a benchmark takes one model per architecture, got {', '.join(labels)}")
    check_backends(sizes)
    counts = [potential.counts for potential in potentials]
    return xr.Dataset(
        coords={
            "architecture": labels,
            **{name: ("architecture", [each[name] for each in counts]) for name in counts[0]},
            "backend": [name for name in BACKENDS if name in sizes],
            "n_atoms": sorted({n for numbers in sizes.values() for n in numbers}),
        }
    )
