"""Energies, forces and stress for molecular dynamics, without autograd over pairs.

A chunk of atoms goes through three steps before the next chunk starts, so that memory holds the
neighbor table and few chunks: (a) environments by a pass over neighbors, (b) the rest of the
network, dense per atom, in torch, whose autograd gives g = dE/d(environment), (c) a second pass
over neighbors that turns g into forces on both atoms of every pair.

With several threads, each works through the chunks of its own share of the atoms and adds up forces
in an array of its own; the arrays are added in the order of the shares. So there are no races, and
the same number of threads gives the same bits in every call.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from kdlib.errors import InputError
from kdlib.hipnn.kernels import mdloops
from kdlib.hipnn.kernels.dense import interaction_energies
from kdlib.hipnn.kernels.layer import accelerate, supports
from kdlib.hipnn.kernels.threads import Workers
from kdlib.hipnn.kernels.verlet import VerletList


@dataclass(frozen=True)
class _Task:
    """One evaluation: its geometry, and the arrays that the shares fill."""

    pairs: tuple
    channels: Tensor
    derive: bool
    strained: bool
    energies: np.ndarray
    forces: np.ndarray
    virials: np.ndarray


class ForceField:
    """A HIP-NN for molecular dynamics on the CPU.

    Parameters
    ----------
    module
        A :class:`kdlib.hipnn.HipnnModule`; its weights are copied.
    chunk
        Atoms that go through the network at a time. Bounds the memory; results may differ in the
        last bits between chunk sizes.
    least_share
        Fewest atoms that are worth a thread of their own.
    """

    def __init__(self, module: torch.nn.Module, chunk: int = 2048, least_share: int = 100) -> None:
        if reason := supports(module):
            raise InputError(f"fused.ForceField: {reason}")
        self._module = accelerate(copy.deepcopy(module)).requires_grad_(False).eval()
        self._chunk, self._least_share = chunk, least_share
        self._interaction = self._module.network.interaction_layers[0]
        radial = self._interaction.radial()
        self._m, self._sigma = radial.m.numpy().copy(), radial.sigma.numpy().copy()
        self._dtype, self._e0 = radial.m.dtype, self._module.e0.numpy().copy()
        self._cutoff = self._m.dtype.type(self._interaction.sensitivity.hard_max_dist)
        self._workers = Workers()

    def __call__(
        self,
        atoms: Atoms,
        neighbor_list: VerletList,
        properties: Iterable[str] = ("energy", "forces"),
    ) -> dict[str, np.ndarray]:
        """Compute what ``properties`` asks for.

        Parameters
        ----------
        neighbor_list
            Brought up to date with ``atoms``.
        properties
            Of ``"energy"``, ``"energies"``, ``"forces"``, ``"stress"``; energies always come.

        Returns
        -------
        dict
            float64: ``energy`` () and ``energies`` (n_atoms,), eV; on request ``forces``
            (n_atoms, 3), eV/Angstrom, and ``stress`` (3, 3), eV/Angstrom^3.
        """
        table, cell = neighbor_list.pairs, atoms.cell.array
        n_shares = max(1, min(torch.get_num_threads(), len(atoms) // self._least_share))
        task = self._task(atoms, neighbor_list, set(properties), n_shares)
        borders = [share * len(atoms) // n_shares for share in range(n_shares + 1)]
        self._workers.run(
            lambda share: self._run(task, share, borders[share], borders[share + 1]), n_shares
        )
        results = {"energy": task.energies.sum(), "energies": task.energies}
        if "forces" in properties:
            results["forces"] = mdloops.total_forces(task.forces, table.owner)
        if task.strained:
            results["stress"] = task.virials.sum(axis=0) / abs(np.linalg.det(cell))
        return results

    def _task(
        self, atoms: Atoms, neighbor_list: VerletList, properties: set[str], n_shares: int
    ) -> _Task:
        table = neighbor_list.pairs
        placed = table.place(atoms.positions, atoms.cell.array)
        channels = self._module._species_index[torch.from_numpy(atoms.numbers.astype(np.int64))]
        energies = self._e0[channels.numpy()]
        species = channels.numpy().astype(np.int32)
        species = np.concatenate([species, species[table.owner]])
        return _Task(
            pairs=(placed, table.row, table.index, table.longest, species),
            channels=channels,
            derive=bool({"forces", "stress"} & properties),
            strained="stress" in properties,
            energies=energies,
            forces=np.zeros((n_shares, len(placed), 3)),
            virials=np.zeros((n_shares, 3, 3)),
        )

    def _run(self, task: _Task, share: int, first: int, last: int) -> None:
        """Energies of the atoms of one share, and their part of the forces."""
        for start in range(first, last, self._chunk):
            stop = min(start + self._chunk, last)
            where = (*task.pairs, start, stop, self._cutoff, self._m, self._sigma)
            shape = (stop - start, 4, self._interaction.nf_in, len(self._m))
            env = torch.empty(shape, dtype=self._dtype)
            mdloops.chunk_environment(*where, env.numpy())
            energies, g = self._dense(env, task.channels[start:stop], task.derive)
            task.energies[start:stop] += energies
            if task.derive:
                forces, virial = task.forces[share], task.virials[share]
                mdloops.chunk_forces(*where, g.numpy(), forces, virial, task.strained)

    def _dense(self, env: Tensor, channels: Tensor, derive: bool) -> tuple[np.ndarray, Tensor]:
        """Energies of the atoms without E0, eV, and their derivative by the environment."""
        one_hot = torch.nn.functional.one_hot(channels, self._interaction.nf_in).to(self._dtype)
        with torch.set_grad_enabled(derive):
            env.requires_grad_(derive)
            energies = interaction_energies(self._module, one_hot, env.flatten(2))
            g = torch.autograd.grad(energies.sum(), env)[0] if derive else env
        return energies.detach().numpy(), g
