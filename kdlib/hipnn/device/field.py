"""Energies, forces and stress of a HIP-NN on a device.

As in :mod:`kdlib.hipnn.kernels.forcefield`: environments by a pass over neighbors, the rest of the
network per atom in torch, whose autograd gives g = dE/d(environment), and a second pass over
neighbors that turns g into forces. Environments live as long as a chunk of atoms, g as long as the
forces need it.
"""

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
import triton
from ase import Atoms
from torch import Tensor

from kdlib.errors import InputError
from kdlib.hipnn.device import obstacle, sums
from kdlib.hipnn.device.cells import ATOMS, WARPS, Box, Cells
from kdlib.hipnn.device.loops import block_of
from kdlib.hipnn.device.pairs import INTERPRETED
from kdlib.hipnn.kernels.dense import interaction_energies
from kdlib.hipnn.kernels.layer import accelerate, supports
from kdlib.hipnn.kernels.sums import SCALE

#: Most sensitivities that a program holds in registers, a quarter of them in float64. Of 40,
#: two times 20 were faster on an H100 than five times 8 or four times 10.
MOST_SENSITIVITIES = 20
#: Numbers in one layer's features of a chunk: large enough to fill a device, small for its memory.
CHUNK_NUMBERS = 2**24


class DeviceField:
    """A HIP-NN on a device, over the neighbors of :class:`~kdlib.hipnn.device.cells.Cells`.

    Parameters
    ----------
    module
        A :class:`kdlib.hipnn.HipnnModule`; its weights are copied.
    device
        CUDA, or the CPU under Triton's interpreter.
    chunk
        Atoms that go through the network at a time; by default as many as a layer's width allows.

    Attributes
    ----------
    energies, forces, virials
        Of the last evaluation: (n,) eV without E0, (n, 3) float64 eV/Angstrom, and twice the virial
        of each program, (n_programs, 3, 3) float64 eV; in the order of the table.
    """

    def __init__(
        self, module: torch.nn.Module, device: torch.device, chunk: int | None = None
    ) -> None:
        if reason := supports(module) or obstacle(device):
            raise InputError(f"fused.DeviceField: {reason}")
        module = copy.deepcopy(module).to(device)
        self.module = accelerate(module).requires_grad_(False).eval()
        self.device, self.dtype = device, module.config.torch_dtype
        layer = self.module.network.interaction_layers[0]
        radial = layer.radial()
        self.m, self.h = radial.m.contiguous(), (radial.sigma * SCALE).contiguous()
        self.sigma2 = radial.sigma.square().contiguous()
        self.n_species, self.cutoff = layer.nf_in, float(layer.sensitivity.hard_max_dist)
        most = MOST_SENSITIVITIES if self.dtype == torch.float32 else MOST_SENSITIVITIES // 4
        self.block = block_of(len(self.m), most)
        self.chunk = chunk or CHUNK_NUMBERS // module.config.n_features
        self._eye = torch.eye(self.n_species, dtype=self.dtype, device=device)
        self.energies = self.forces = self.virials = self._g = None

    @property
    def n_sensitivities(self) -> int:
        """Radial functions of the model."""
        return len(self.m)

    def channels(self, numbers: Tensor) -> Tensor:
        """Species channel of each atomic number, int32."""
        return self.module._species_index[numbers].int()

    def atomic_energies(self, species: Tensor) -> Tensor:
        """Energies of the last evaluation with E0, (n,) float64, eV, for channels (n,)."""
        return self.energies.double() + self.module.e0[species]

    def reserve(self, n: int) -> None:
        """Take the memory for ``n`` atoms, once."""
        if self.energies is not None and len(self.energies) == n:
            return
        shape = (n, 4, self.n_species, self.n_sensitivities)
        programs = triton.cdiv(n, ATOMS)
        self.energies = self.forces = self.virials = self._g = None
        self.energies = torch.zeros(n, dtype=self.dtype, device=self.device)
        self.forces = torch.zeros(n, 3, dtype=torch.float64, device=self.device)
        self.virials = torch.zeros(programs, 3, 3, dtype=torch.float64, device=self.device)
        self._g = torch.zeros(shape, dtype=self.dtype, device=self.device)

    def evaluate(
        self, cells: Cells, species: Tensor, derive: bool = True, strained: bool = False
    ) -> None:
        """Fill ``energies``, and on request ``forces`` and ``virials``.

        Parameters
        ----------
        cells
            Places and neighbors.
        species
            Channels in the order of the table, (n,) int32.
        derive, strained
            Whether forces, and virials with them, are wanted.
        """
        self.reserve(cells.n)
        for start in range(0, cells.n, self.chunk):
            stop = min(start + self.chunk, cells.n)
            env = self._environment(cells, species, start, stop)
            energies, g = self.dense(env, species[start:stop], derive)
            self.energies[start:stop] = energies
            if derive:
                self._g[start:stop] = g
        if derive:
            self._gather(cells, species, strained)

    def _environment(self, cells: Cells, species: Tensor, start: int, stop: int) -> Tensor:
        size = (stop - start, 4, self.n_species, self.n_sensitivities)
        env = torch.empty(size, dtype=self.dtype, device=self.device)
        blocks = self.n_species * self.n_sensitivities // self.block
        sums.sum_environment[(triton.cdiv(stop - start, ATOMS), blocks)](
            cells.q, species, cells.box_tensor, cells.table, cells.counts, self.m, self.h, env,
            start, stop - start, cells.stride, K=self.n_sensitivities, S=self.n_species,
            BLOCK=self.block, ATOMS=ATOMS, num_warps=WARPS,
        )  # fmt: skip
        return env

    def dense(self, env: Tensor, species: Tensor, derive: bool) -> tuple[Tensor, Tensor]:
        """Energies of the atoms without E0, eV, and their derivative by the environment."""
        one_hot = self._eye[species]
        with torch.set_grad_enabled(derive):
            env.requires_grad_(derive)
            energies = interaction_energies(self.module, one_hot, env.flatten(2))
            g = torch.autograd.grad(energies.sum(), env)[0] if derive else env
        return energies.detach(), g

    def _gather(self, cells: Cells, species: Tensor, strained: bool) -> None:
        n_sensitivities = self.n_sensitivities
        whole = self.block % 4 == 0 and self.dtype == torch.float32
        sums.gather_forces[cells.grid()](
            cells.q, species, cells.box_tensor, cells.table, cells.counts,
            self.m, self.h, self.sigma2, self._g, self.forces, self.virials,
            cells.n, cells.stride,
            K=n_sensitivities, S=self.n_species, BLOCK=self.block, ATOMS=ATOMS,
            VECTOR=whole and not INTERPRETED, STRAINED=strained, num_warps=WARPS,
        )  # fmt: skip


class DeviceList:
    """Neighbors of an ASE configuration, kept until an atom has moved half the skin.

    As :class:`kdlib.hipnn.kernels.VerletList`, on a device.

    Parameters
    ----------
    cutoff
        Range of the potential, Angstrom.
    skin
        Extra range, Angstrom; applied once.
    dtype, device
        Of the model.
    """

    def __init__(
        self, cutoff: float, skin: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.dtype, self.device = dtype, device
        self.n_builds = 0
        self.cells: Cells | None = None
        self._built_for: tuple[np.ndarray, ...] | None = None

    def update(self, atoms: Atoms, check: Callable[[Atoms], None] | None = None) -> bool:
        """Update the list as :meth:`kdlib.geometry.neighbors.NeighborList.update` does."""
        positions = torch.as_tensor(atoms.positions, device=self.device)
        fixed = (atoms.numbers, atoms.cell.array, atoms.pbc)
        if self._holds(positions, fixed):
            self.cells.place(positions[self.owner] + self._shift)
            return False
        if check is not None:
            check(atoms)
        self._build(atoms, positions)
        self._built_for = tuple(array.copy() for array in fixed)
        self._positions = positions.clone()
        self.n_builds += 1
        return True

    def closest(self, atoms: Atoms) -> tuple[int, float]:  # noqa: ARG002
        """Atom with the nearest neighbor, and its distance in Angstrom; inf without pairs."""
        i, distance = self.cells.nearest()
        return int(self.owner[i]), distance

    def _holds(self, positions: Tensor, fixed: tuple[np.ndarray, ...]) -> bool:
        if self._built_for is None:
            return False
        if not all(np.array_equal(a, b) for a, b in zip(self._built_for, fixed, strict=True)):
            return False
        way = (positions - self._positions).square().sum(1).max()
        return bool(way <= (self.skin / 2) ** 2)

    def _build(self, atoms: Atoms, positions: Tensor) -> None:
        box = Box.around(
            atoms.positions, atoms.cell.array, atoms.pbc, self.cutoff, self.cutoff + self.skin
        )
        images = torch.as_tensor(box.images, device=self.device)
        n = len(atoms) * len(images)
        if self.cells is None or self.cells.n != n:
            self.cells = Cells(box, n, self.dtype, self.device)
        self.cells.set_box(box)
        owner = torch.arange(len(atoms), device=self.device).repeat(len(images))
        shift = images.repeat_interleave(len(atoms), dim=0)
        order, bins = self.cells.order(positions[owner] + shift)
        self.owner, self._shift = owner[order], shift[order]
        #: Where the configuration's own atoms are in the table's order.
        self.own = torch.argsort(order)[: len(atoms)]
        self.cells.build(positions[self.owner] + self._shift, bins)


class DeviceForceField:
    """A HIP-NN for ASE on a device, as :class:`kdlib.hipnn.kernels.ForceField` is on the CPU."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self._field = DeviceField(module, device)

    def __call__(
        self,
        atoms: Atoms,
        neighbor_list: DeviceList,
        properties: Iterable[str] = ("energy", "forces"),
    ) -> dict[str, np.ndarray]:
        """Compute the properties, as :meth:`kdlib.hipnn.kernels.ForceField.__call__` does."""
        field, own = self._field, neighbor_list.own
        numbers = torch.as_tensor(atoms.numbers.astype(np.int64), device=field.device)
        species = field.channels(numbers)[neighbor_list.owner]
        strained = "stress" in properties
        field.evaluate(neighbor_list.cells, species, strained or "forces" in properties, strained)
        energies = field.atomic_energies(species)[own].cpu().numpy()
        results = {"energy": energies.sum(), "energies": energies}
        if "forces" in properties:
            results["forces"] = field.forces[own].cpu().numpy()
        if strained:
            volume = abs(np.linalg.det(neighbor_list.cells.box.cell))
            results["stress"] = field.virials.sum(0).cpu().numpy() / 2 / volume
        return results
