"""Energies, forces and stress for molecular dynamics, without autograd over pairs.

A chunk of atoms goes through three steps before the next chunk starts, so that memory holds the
neighbour table and one chunk: (a) environments by a pass over neighbours, (b) the rest of the
network, dense per atom, in torch, whose autograd gives g = dE/d(environment), (c) a second pass
over neighbours that turns g into forces on both atoms of every pair.
"""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from ase import Atoms
from hippynn.layers.transform import ResNetWrapper
from torch import Tensor

from kdlib.errors import InputError
from kdlib.fused import mdloops
from kdlib.fused.layer import accelerate, supports
from kdlib.fused.threads import torch_threads
from kdlib.fused.verlet import VerletList


class ForceField:
    """A HIP-NN for molecular dynamics on the CPU.

    Parameters
    ----------
    module
        A :class:`kdlib.hipnn.HipnnModule`; its weights are copied.
    chunk
        Atoms that go through the network at a time. Bounds the memory; sums over a matrix product
        may differ in the last bits between chunk sizes.
    """

    def __init__(self, module: torch.nn.Module, chunk: int = 4096) -> None:
        if reason := supports(module):
            raise InputError(f"fused.ForceField: {reason}")
        self._module = accelerate(copy.deepcopy(module)).requires_grad_(False).eval()
        self._chunk = chunk
        self._interaction = self._module.network.interaction_layers[0]
        radial = self._interaction.radial()
        self._m, self._sigma = radial.m.numpy().copy(), radial.sigma.numpy().copy()
        self._dtype = radial.m.dtype
        self._cutoff = self._m.dtype.type(self._interaction.sensitivity.hard_max_dist)

    def __call__(
        self,
        atoms: Atoms,
        neighbor_list: VerletList,
        properties: Iterable[str] = ("energy", "forces"),
    ) -> dict[str, np.ndarray]:
        """Compute what ``properties`` asks for.

        Parameters
        ----------
        atoms
            Configuration.
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
        table, cell = neighbor_list.table, atoms.cell.array
        channels = self._module._species_index[torch.from_numpy(atoms.numbers.astype(np.int64))]
        derive = bool({"forces", "stress"} & set(properties))
        strained = "stress" in properties
        energies = np.empty(len(atoms))
        with torch_threads() as n_threads:
            placed = table.place(atoms.positions, cell)
            species = channels.numpy().astype(np.int32)
            species = np.concatenate([species, species[table.owner]])
            forces = np.zeros((n_threads if derive else 0, len(placed), 3))
            virials = np.zeros((n_threads, 3, 3))
            pairs = (placed, table.row, table.index, table.longest, species)
            for start in range(0, len(atoms), self._chunk):
                part = slice(start, min(start + self._chunk, len(atoms)))
                where = (*pairs, part.start, part.stop, self._cutoff, self._m, self._sigma)
                env = self._environment(where, part.stop - part.start)
                energies[part], g = self._dense(env, channels[part], derive)
                if derive:
                    mdloops.chunk_forces(*where, g.numpy(), forces, virials, strained)
            results = {"energy": energies.sum(), "energies": energies}
            if "forces" in properties:
                results["forces"] = mdloops.total_forces(forces, table.owner)
        if strained:
            results["stress"] = virials.sum(axis=0) / abs(np.linalg.det(cell))
        return results

    def _environment(self, where: tuple, n_atoms: int) -> Tensor:
        shape = (n_atoms, 4, self._interaction.nf_in, len(self._m))
        env = torch.empty(shape, dtype=self._dtype)
        mdloops.chunk_environment(*where, env.numpy())
        return env

    def _dense(self, env: Tensor, channels: Tensor, derive: bool) -> tuple[np.ndarray, Tensor]:
        """Atomic energies, eV, and their derivative by the environment."""
        one_hot = torch.nn.functional.one_hot(channels, self._interaction.nf_in).to(self._dtype)
        with torch.set_grad_enabled(derive):
            env.requires_grad_(derive)
            energies = self._atomic_energies(one_hot, env.flatten(2))
            g = torch.autograd.grad(energies.sum(), env)[0] if derive else env
        return energies.detach().numpy(), g

    def _atomic_energies(self, one_hot: Tensor, env: Tensor) -> Tensor:
        """As the network and the energy head, from the environment on."""
        network, head = self._module.network, self._module.henergy
        wrapper, *atom_layers = network.blocks[0]
        features = self._interaction.dense(one_hot, env)
        if isinstance(wrapper, ResNetWrapper):
            residual = wrapper.adjust_layer(one_hot) if wrapper.needs_size_adjust else one_hot
            features = wrapper.res_layer(wrapper.activation(features)) + residual
        else:
            features = network.activation(features)
        for layer in atom_layers:
            features = layer(features)
            if not network.resnet:
                features = network.activation(features)
        terms = [one_hot, features][int(head.first_is_interacting) :]
        return sum(layer(x) for layer, x in zip(head.layers, terms, strict=True))[:, 0]
