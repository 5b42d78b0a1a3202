r"""Reference energies of the species: taken off before a student learns, put back afterwards.

A teacher's energies hold a constant for each species: of its pseudopotentials, of isolated atoms,
or of nothing in particular. Forces do not know it, and a loss on energies should not spend its
digits on it. What a student learns is the interaction energy

.. math:: E - \sum_i E_0(s_i), \qquad E_i - E_0(s_i).

With atomic energies :math:`E_0` of a species is the mean of its atomic energies over the frames:
adding any constant to a species then changes no target, at any composition. Without them
:math:`E_0` is the least-squares solution of the energies over the compositions. At one fixed
stoichiometry that solution is not unique, and the one of least norm is taken: the targets are still
free of the teacher's constants, but the student is then right for that stoichiometry only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from torch import Tensor

from kdlib.datasets import identity
from kdlib.errors import InputError
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.network import HipnnModule


@dataclass(frozen=True)
class AtomReferences:
    """Energy of one atom of each species, eV."""

    energies: Mapping[str, float]
    """Chemical symbol -> eV."""

    @classmethod
    def fit(cls, frames: Sequence[Atoms]) -> "AtomReferences":
        """References of labeled frames: means of atomic energies if all frames have them.

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
            counts = [[np.sum(atoms.numbers == z) for z in species] for atoms in frames]
            energy = [_results(atoms)["energy"] for atoms in frames]
            found = least_squares(torch.tensor(counts), torch.tensor(energy)).tolist()
        return cls({chemical_symbols[z]: float(e) for z, e in zip(species, found, strict=True)})

    def of(self, atoms: Atoms) -> np.ndarray:
        """Reference of each atom, (n_atoms,), eV."""
        if strangers := sorted(set(atoms.symbols) - set(self.energies)):
            raise InputError(
                f"frame {identity(atoms)}: no reference energy of {', '.join(strangers)}; there "
                f"are those of {', '.join(self.energies)}"
            )
        return np.array([self.energies[symbol] for symbol in atoms.symbols])

    def subtract(self, frames: Sequence[Atoms]) -> list[Atoms]:
        """Copies of labeled frames with interaction energies; other labels stay as they are.

        Parameters
        ----------
        frames
            Their calculators hold ``energy`` (eV) and perhaps ``energies`` (n_atoms,) eV.

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
        """Put the references back, so that a finished student predicts the teacher's energies.

        Forces do not change. In a float32 model a reference of thousands of eV costs the energies
        their last digits (1e-7 of their size); differences of energies suffer, forces do not.

        Parameters
        ----------
        module
            Student that learned from subtracted frames, changed in place; each call adds once more.

        Raises
        ------
        InputError
            A species of the model has no reference.
        """
        if strangers := sorted(set(module.config.species) - set(self.energies)):
            raise InputError(f"no reference energy of {', '.join(strangers)}, species of the model")
        e0 = module.henergy.layers[0].weight  # (1, n_species), in the order of the configuration
        added = [[self.energies[symbol] for symbol in module.config.species]]
        with torch.no_grad():
            e0.copy_(e0.double() + torch.tensor(added, dtype=torch.float64, device=e0.device))


def _results(atoms: Atoms) -> dict:
    known = atoms.calc.results if atoms.calc is not None else {}
    if known.get("energy") is None:
        raise InputError(f"frame {identity(atoms)}: has no energy")
    return known


def least_squares(counts: Tensor, energies: Tensor) -> Tensor:
    """Energy of one atom of each species, by the compositions; the solution of least norm.

    Parameters
    ----------
    counts
        Atoms of each species in each frame, (n_frames, n_species).
    energies
        Energies of the frames, (n_frames,), eV.

    Returns
    -------
    Tensor
        (n_species,) float64, eV.
    """
    # The default driver has a complete orthogonal factorization: one stoichiometry alone, where the
    # counts are rank-deficient, still has its solution of least norm.
    return torch.linalg.lstsq(counts.double(), energies.double()[:, None]).solution[:, 0]


def fit_e0(module: HipnnModule, frames: Sequence[Batch], decay_factor: float = 1e-2) -> None:
    """Set the energy of an isolated atom of each species and freeze it.

    :func:`least_squares` over the training frames alone, as hippynn's
    ``hierarchical_energy_initialization`` does; later energy layers are damped by
    ``decay_factor**k``, so that training starts from the reference energies.

    Parameters
    ----------
    decay_factor
        Damping per interaction layer.
    """
    index = module._species_index
    counts = torch.stack(
        [torch.bincount(index[b.numbers], minlength=len(module.config.species)) for b in frames]
    )
    e0 = least_squares(counts, torch.cat([b.energy for b in frames]))
    first, *later = module.henergy.layers
    with torch.no_grad():
        first.weight.copy_(e0[None])
        for power, layer in enumerate(later, start=1):
            layer.weight.mul_(decay_factor**power)
            layer.bias.mul_(decay_factor**power)
    first.weight.requires_grad_(False)
