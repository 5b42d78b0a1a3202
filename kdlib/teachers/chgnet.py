"""CHGNet (DOI 10.1038/s42256-023-00716-3) as an ASE calculator with ASE's units and shapes.

CHGNet's energies are per atom and its stress is in GPa; its calculator multiplies both (checked by
finite differences in our tests). Its site energies hold the element energies of its composition
model, as the total does, and add up to it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from kdlib.errors import InputError
from kdlib.teachers.packages import quiet

if TYPE_CHECKING:
    from chgnet.model.dynamics import CHGNetCalculator

#: Weights in the wheel.
VERSIONS = ("0.3.0", "0.2.0", "r2scan")


def calculator(version: str, device: str) -> "CHGNetCalculator":
    """ASE calculator of one of :data:`VERSIONS`; an atom without neighbours is an error.

    Parameters
    ----------
    version
        Of the weights.
    device
        As torch names it.
    """
    if version not in VERSIONS:
        raise InputError(f"CHGNet has no weights {version!r}; there are {', '.join(VERSIONS)}")
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    class Calculator(CHGNetCalculator):
        """CHGNet's calculator for periodic cells, in float64 and Voigt's order."""

        def calculate(self, atoms: Atoms | None = None, *args: Any, **kwargs: Any) -> None:
            if not atoms.pbc.all():
                raise InputError("CHGNet needs a cell that is periodic in three directions")
            with quiet():
                super().calculate(atoms, *args, **kwargs)
            self.results |= {
                name: np.asarray(self.results[name], dtype=float) for name in ("forces", "energies")
            }
            self.results["energy"] = self.results["free_energy"] = float(self.results["energy"])
            stress = np.asarray(self.results["stress"], dtype=float)
            self.results["stress"] = full_3x3_to_voigt_6_stress((stress + stress.T) / 2)

    Calculator.__name__ = CHGNetCalculator.__name__
    return Calculator(
        CHGNet.load(model_name=version, use_device=device, verbose=False),
        use_device=device,
        on_isolated_atoms="error",
        return_site_energies=True,
    )
