r"""ASE's embedded-atom potentials with atomic energies.

.. math:: E_i = F(\rho_i) + \tfrac12 \sum_j \varphi(r_{ij})

(DOI 10.1103/PhysRevB.29.6443): half of each pair's energy belongs to either atom, as in LAMMPS.
"""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.calculators.eam import EAM


class AtomicEAM(EAM):
    """:class:`ase.calculators.eam.EAM` with the property ``energies`` (not for ADP files)."""

    implemented_properties: ClassVar[list[str]] = [*EAM.implemented_properties, "energies"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: Iterable[str] = all_changes,
    ) -> None:
        """Fill ``results``; ``energies`` where they are asked for."""
        properties = list(properties)
        others = [name for name in properties if name != "energies"] or ["energy"]
        super().calculate(atoms, others, list(system_changes))
        if "energies" in properties and self.form != "adp":
            self.results["energies"] = self._atomic_energies()

    def _atomic_energies(self) -> np.ndarray:
        densities = zip(self.index, self.total_density, strict=True)
        energies = np.array([float(self.embedded_energy[k](rho)) for k, rho in densities])
        for i, k in enumerate(self.index):
            near, offsets = self.neighbors.get_neighbors(i)
            vectors = self.atoms.positions[near] + offsets @ self.atoms.cell.array
            r = np.linalg.norm(vectors - self.atoms.positions[i], axis=1)
            inside = r <= self.cutoff
            pairs = zip(self.index[near[inside]], r[inside], strict=True)
            energies[i] += sum(float(self.phi[k, other](d)) for other, d in pairs) / 2
        return energies
