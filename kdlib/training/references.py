r"""Reference energies of the species: subtracted before a student learns, added back afterwards.

A teacher's energies contain a constant for each species: from its pseudopotentials, from isolated
atoms, or from nothing in particular. Forces do not depend on it, and a loss on energies should not
spend its digits on it. A student learns the interaction energy

.. math:: E - \sum_i E_0(s_i), \qquad E_i - E_0(s_i).

With atomic energies :math:`E_0` of a species is the mean of its atomic energies over the frames:
then no constant of a species changes a target, at any composition. Without them, :math:`E_0` is the
least-squares solution of the energies over the compositions. At one fixed stoichiometry that is not
unique, and the solution of least norm is used: the targets are still free of the teacher's
constants, but the student is right for that stoichiometry only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from kdlib.datasets import identity
from kdlib.errors import InputError
from kdlib.hipnn.network import HipnnModule


@dataclass(frozen=True)
class AtomReferences:
    """Energy of one atom of each species, eV."""

    energies: Mapping[str, float]
    """Chemical symbol -> eV."""

    @classmethod
    def fit(cls, frames: Sequence[Atoms]) -> "AtomReferences":
        """References of labeled frames: means of atomic energies (eV) if all frames have them.

        Raises
        ------
        InputError
            There are no frames, or one has no energy.
        """
        if not frames:
            raise InputError("atom references: there are no frames")
        numbers = np.concatenate([atoms.numbers for atoms in frames])
        species = np.unique(numbers)
        parts = [_results(atoms).get("energies") for atoms in frames]
        if all(part is not None for part in parts):
            atomic = np.concatenate(parts)
            found = [atomic[numbers == z].mean() for z in species]
        else:
            found = least_squares(frames, species).tolist()
        return cls({chemical_symbols[z]: float(e) for z, e in zip(species, found, strict=True)})

    def of(self, atoms: Atoms) -> np.ndarray:
        """Reference of each atom, (n_atoms,), eV."""
        if strangers := sorted(set(atoms.symbols) - set(self.energies)):
            raise InputError(
                f"frame {identity(atoms)}: no reference energy of {', '.join(strangers)}, "
                f"only of {', '.join(self.energies)}"
            )
        return np.array([self.energies[symbol] for symbol in atoms.symbols])

    def subtract(self, frames: Sequence[Atoms]) -> list[Atoms]:
        """Copies of labeled frames with interaction energies (total and atomic) as labels.

        Raises
        ------
        InputError
            A species has no reference, or a frame no energy.
        """
        return [self._reduced(atoms) for atoms in frames]

    def _reduced(self, atoms: Atoms) -> Atoms:
        references, results = self.of(atoms), dict(_results(atoms))
        for name in {"energy", "free_energy"} & set(results):
            results[name] = float(results[name] - references.sum())
        if results.get("energies") is not None:
            results["energies"] = results["energies"] - references
        frame = atoms.copy()
        frame.calc = SinglePointCalculator(frame, **results)
        return frame

    def add_to(self, module: HipnnModule) -> None:
        """Add the references to a finished student, in place: it predicts the teacher's energies.

        Forces do not change.

        Raises
        ------
        InputError
            A species of the model has no reference.
        """
        if strangers := sorted(set(module.config.species) - set(self.energies)):
            raise InputError(f"no reference energy of {', '.join(strangers)}, species of the model")
        added = [self.energies[symbol] for symbol in module.config.species]
        module.e0.add_(module.e0.new_tensor(added))


def _results(atoms: Atoms) -> dict:
    known = atoms.calc.results if atoms.calc is not None else {}
    if known.get("energy") is None:
        raise InputError(f"frame {identity(atoms)}: has no energy")
    return known


def least_squares(frames: Sequence[Atoms], species: Sequence[int]) -> np.ndarray:
    """Energy of one atom of each species, (n_species,) float64, eV; the solution of least norm.

    Parameters
    ----------
    frames
        Frames with energies, eV.
    species
        Atomic numbers.
    """
    counts = [[np.sum(atoms.numbers == z) for z in species] for atoms in frames]
    energies = [_results(atoms)["energy"] for atoms in frames]
    # Not torch's: its default driver reads memory that nobody has set, so that last bits, and the
    # rank of one stoichiometry's counts, depend on what ran before (PyTorch issue 187411).
    return np.linalg.lstsq(np.array(counts, float), np.array(energies, float), rcond=None)[0]


def fit_e0(module: HipnnModule, frames: Sequence[Atoms], decay_factor: float = 1e-2) -> None:
    """Set the energy of an isolated atom of each species, in place.

    Like hippynn's ``hierarchical_energy_initialization``, it is :func:`least_squares` over the
    training frames; energy layer k is damped by ``decay_factor**k``, so that training starts from
    these energies.
    """
    module.e0.copy_(torch.from_numpy(least_squares(frames, module.config.numbers)))
    _, *later = module.henergy.layers
    with torch.no_grad():
        for power, layer in enumerate(later, start=1):
            layer.weight.mul_(decay_factor**power)
            layer.bias.mul_(decay_factor**power)
