"""hippynn's own ASE calculator over our weights: the yardstick of the benchmarks."""

import copy
from collections.abc import Iterable
from time import perf_counter

from ase import Atoms

from kdlib.hipnn import kernels
from kdlib import hipnn
from kdlib.hipnn.calculator import torch_device
from kdlib.hipnn import Potential
from kdlib._hippynn import lean

with lean():
    from hippynn.interfaces.ase_interface import HippynnCalculator


class StockCalculator(HippynnCalculator):
    """hippynn's own calculator, unchanged but for a clock and an answer to ``energies``.

    It builds ASE's neighbour list and applies its skin twice, so that a skin of 1 Angstrom means
    pairs out to cutoff + 2 Angstrom; it computes the stress in every call.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.timings: dict[str, float] = {"neighbor_list": 0.0, "model": 0.0, "calls": 0}
        super().__init__(*args, **kwargs)

    def rebuild_neighbors(self) -> None:
        """Make a new neighbour list whose updates are timed."""
        super().rebuild_neighbors()
        update = self.nl.update

        def timed(atoms: Atoms) -> bool:
            start = perf_counter()
            try:
                return update(atoms)
            finally:
                self.timings["neighbor_list"] += perf_counter() - start

        self.nl.update = timed

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] | None = None,
        system_changes: object = True,
    ) -> None:
        """Time hippynn's calculation; what the neighbour list does not take is the model's."""
        start, listed = perf_counter(), self.timings["neighbor_list"]
        super().calculate(atoms, properties, system_changes)
        inside_list = self.timings["neighbor_list"] - listed
        self.timings["model"] += perf_counter() - start - inside_list
        self.timings["calls"] += 1
        # hippynn leaves an extra property as a column and under its own name.
        energies = self.results["potential_energies"].ravel()
        self.results["potential_energies"] = self.results["energies"] = energies


def stock_calculator(
    potential: Potential, device: str = "auto", skin: float = 1.0
) -> StockCalculator:
    """Return hippynn's own ASE calculator over the same weights, to compare with.

    Parameters
    ----------
    potential
        Model; its weights are copied.
    device
        As for :class:`kdlib.hipnn.calculator.HipnnCalculator`.
    skin
        hippynn's skin, Angstrom; the pairs reach to cutoff + 2 skin.
    """
    module = kernels.restore(copy.deepcopy(potential.module)).eval()
    energy = hipnn.hippynn_graph(module)
    calculator = StockCalculator(
        energy,
        skin=skin,
        extra_properties={"potential_energies": energy.atom_energies},
        en_unit=1.0,
    )
    return calculator.to(device=torch_device(device), dtype=potential.config.torch_dtype)
