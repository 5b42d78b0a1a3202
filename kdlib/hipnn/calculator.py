"""ASE calculators of a trained potential: ours, and hippynn's own as the yardstick."""

import copy
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from kdlib._hippynn import HippynnCalculator
from kdlib.errors import InputError
from kdlib.geometry.cells import OVERLAP, half_open
from kdlib.geometry.neighbors import NeighborList, spans
from kdlib.hipnn import kernels
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.device import obstacle
from kdlib.hipnn.kernels import ForceField, VerletList
from kdlib.hipnn.kernels.threads import torch_threads
from kdlib.hipnn.network import HipnnModule, hippynn_graph

if TYPE_CHECKING:  # Potential.calculator is the way from there to here
    from kdlib.hipnn.potential import Potential

logger = logging.getLogger(__name__)

#: Implementations that :class:`HipnnCalculator` can run a network with.
BACKENDS = ("fused", "hippynn")
#: Number of neighbor-list builds between checks of the validity range.
CHECK_EVERY = 16


class UnseenWarning(UserWarning):
    """A configuration is unlike any that the model was trained on."""


class HipnnCalculator(Calculator):
    """Energy, forces, stress and atomic energies of a HIP-NN in ASE (eV, Angstrom).

    The neighbor list is rebuilt when an atom has moved by half the skin, or when the cell, the
    periodicity or the species changed. Forces come with the energy; the stress is computed on
    request.

    Relax with ASE's FIRE: where symmetry makes a vector of the l = 1 invariants vanish, as on the
    sites of a perfect crystal, the energy of a model with a small ``cusp_reg`` has a cusp, from
    which BFGS learns curvatures that it never gets rid of, above all with a variable cell.

    Parameters
    ----------
    potential
        Model; its weights are copied. :func:`kdlib.hipnn.load` reads one from its folder.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA if there is a device.
    backend
        ``"fused"`` (our kernels) or ``"hippynn"`` (hippynn's layers). If the fused kernels do not
        support the network, the calculator logs that and uses hippynn's layers.
    skin
        Range of the neighbor list beyond the cutoff, Angstrom.

    Attributes
    ----------
    backend
        The backend in use.
    timings
        Accumulated seconds in ``"neighbor_list"`` and ``"model"``, and their number of
        ``"calls"``; ``neighbor_list.n_builds`` counts the builds.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(
        self,
        potential: "Potential",
        device: str = "auto",
        backend: str = "fused",
        skin: float = 1.0,
    ) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise InputError(f"unknown backend {backend!r}; there are {', '.join(BACKENDS)}")
        if not skin >= 0:
            raise InputError(f"the skin of a neighbor list is {skin}, must not be negative")
        self.device = torch_device(device)
        self.config = potential.config
        module = kernels.restore(copy.deepcopy(potential.module)).to(self.device).eval()
        self._check_species = module.check_species
        self.backend = _supported(module, backend, self.device)
        if self.backend == "fused":
            self.neighbor_list, self._model = _fused(module, skin, self.device)
        else:
            self.neighbor_list = NeighborList(self.config.cutoff, skin)
            self._model = _Layers(module)
        self._folder = potential.saved
        self._validity, self._warned = potential.validity, set()
        self._n_checked = 0
        self.timings: dict[str, float] = {"neighbor_list": 0.0, "model": 0.0, "calls": 0}

    def saved_model(self) -> tuple[Path, str] | None:
        """Folder of the model, and its precision, for a program that computes as this does.

        Returns
        -------
        tuple or None
            Folder and ``"float"`` or ``"double"``; None for a model that was not saved or loaded,
            and where the fused kernels on the CPU were not chosen or do not cover it.
        """
        if self._folder is None or self.backend != "fused" or self.device.type != "cpu":
            return None
        return self._folder, "double" if self.config.dtype == "float64" else "float"

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: Iterable[str] = all_changes,
    ) -> None:
        """Fill ``results`` with the energies and what ``properties`` asks for beyond them.

        What has changed is found out here, whatever ``system_changes`` says.
        """
        drop_stale(self, atoms)
        super().calculate(atoms, properties, system_changes)
        try:
            self._calculate(properties)
        except InputError:
            self.reset()  # or ASE would take the configuration for known in the next call
            raise

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Names of what changed since the last calculation, by any amount, whatever ``tol`` is.

        Only what an energy depends on is compared. ASE's own comparison, which steps of MD make
        twice, takes as long as the forces on some 30 atoms.
        """
        if self.atoms is None:
            return list(all_changes)
        return [
            name
            for name in ("positions", "numbers", "cell", "pbc")
            if not np.array_equal(getattr(self.atoms, name), getattr(atoms, name))
        ]

    def _calculate(self, properties: Iterable[str]) -> None:
        start = perf_counter()
        if self.atoms is None:
            raise InputError("the calculator was given no configuration yet")
        if "stress" in properties and not self.atoms.pbc.all():
            raise InputError("a stress needs a cell that is periodic in three directions")
        self.neighbor_list.update(self.atoms, self._check)
        if self.neighbor_list.n_builds != self._n_checked:
            self._check_distances(self.atoms)
            self._check_validity(self.atoms)
            self._n_checked = self.neighbor_list.n_builds
        listed = perf_counter()
        found = self._model(self.atoms, self.neighbor_list, properties)
        self.timings["neighbor_list"] += listed - start
        self.timings["model"] += perf_counter() - listed
        self.timings["calls"] += 1
        self._store(found)

    def _store(self, found: dict[str, np.ndarray]) -> None:
        if not np.isfinite(found["energy"]):
            raise InputError("the energy of the configuration is not finite")
        results = {name: np.asarray(value, dtype=float) for name, value in found.items()}
        results["energy"] = results["free_energy"] = float(found["energy"])
        if "stress" in results:
            symmetric = (results["stress"] + results["stress"].T) / 2
            results["stress"] = full_3x3_to_voigt_6_stress(symmetric)
        self.results |= results

    def _check(self, atoms: Atoms) -> None:
        if len(atoms) == 0:
            raise InputError("a configuration without atoms has no energy")
        strays = ~np.isfinite(atoms.positions).all(axis=1)
        if strays.any():
            raise InputError(f"atom {strays.argmax()} is at a position that is not finite")
        self._check_species(atoms.numbers, "calculator")
        if rule := half_open(atoms):
            raise InputError(f"the configuration {rule}")
        if not spans(atoms.cell.array, atoms.pbc):
            raise InputError("a periodic configuration needs a cell of three independent vectors")

    def _check_distances(self, atoms: Atoms) -> None:
        i, distance = self.neighbor_list.closest(atoms)
        if not distance >= OVERLAP:
            raise InputError(
                f"atom {i} is {distance:.3g} Angstrom from another; the least allowed is "
                f"{OVERLAP} Angstrom"
            )

    def _check_validity(self, atoms: Atoms) -> None:
        """Warn once for each limit of the training set that a configuration leaves."""
        if self._validity is None or self.neighbor_list.n_builds % CHECK_EVERY != 1:
            return
        for found in self._validity.left_by(atoms):
            limit = (found.kind, found.species, found.limit)
            if limit not in self._warned:
                self._warned.add(limit)
                warnings.warn(f"outside the training set: {found}", UnseenWarning, stacklevel=2)


def drop_stale(calculator: Calculator, atoms: Atoms | None) -> None:
    """Drop results of another configuration, as ASE does not for callers of ``calculate``.

    A calculator's own ``atoms`` (also meant by None) may have been changed in place.
    """
    own = atoms is None or atoms is calculator.atoms
    if calculator.results and (own or calculator.check_state(atoms)):
        calculator.results = {}


def torch_device(name: str) -> torch.device:
    """Device by its name: ``"cpu"``, ``"cuda"`` or ``"auto"``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}; there are 'cpu', 'cuda' and 'auto'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: there is no CUDA device here")
    return device


def _supported(module: HipnnModule, backend: str, device: torch.device) -> str:
    """Return the backend that can run the module; log it if it is not the requested one."""
    if backend != "fused":
        return backend
    reason = kernels.supports(module)
    if reason is None:
        reason = obstacle(device)
    if reason is None:
        return backend
    logger.warning("no fused kernels for this model (%s): using hippynn's layers", reason)
    return "hippynn"


def _fused(module: HipnnModule, skin: float, device: torch.device) -> tuple:
    """Neighbor list and force field of our kernels, for the CPU or a device."""
    config = module.config
    if device.type == "cpu":
        return VerletList(config.cutoff, skin), ForceField(module)
    from kdlib.hipnn.device.field import DeviceForceField, DeviceList

    neighbor_list = DeviceList(config.cutoff, skin, config.torch_dtype, device)
    return neighbor_list, DeviceForceField(module, device)


class _Layers:
    """hippynn's layers over the pairs inside the cutoff, with autograd.

    Pairs stay on the device until the neighbor list is rebuilt; displacements are formed in float64
    and cast to the model's dtype afterwards.
    """

    def __init__(self, module: HipnnModule) -> None:
        self._module = module
        self._device = next(module.parameters()).device
        self._n_builds = 0

    def __call__(
        self, atoms: Atoms, neighbor_list: NeighborList, properties: Iterable[str]
    ) -> dict[str, np.ndarray]:
        if neighbor_list.n_builds != self._n_builds:
            self._load(atoms, neighbor_list)
        batch = self._batch(torch.as_tensor(atoms.positions, device=self._device))
        stress = "stress" in properties
        found = self._module(batch, forces="forces" in properties, stress=stress)
        energies = _numpy(found.atomic_energies) + self._e0
        results = {"energy": energies.sum(), "energies": energies}
        if found.forces is not None:
            results["forces"] = _numpy(found.forces)
        if found.virial is not None:
            results["stress"] = _numpy(found.virial[0]) / atoms.get_volume()
        return results

    def _load(self, atoms: Atoms, neighbor_list: NeighborList) -> None:
        def on_device(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.int64, device=self._device)

        pairs = neighbor_list.pairs
        self._numbers, self._e0 = on_device(atoms.numbers), self._module.e0_of(atoms.numbers)
        self._first, self._second = on_device(pairs.first), on_device(pairs.second)
        self._offsets = torch.as_tensor(pairs.offsets(atoms.cell.array), device=self._device)
        self._n_builds = neighbor_list.n_builds

    def _batch(self, positions: Tensor) -> Batch:
        vectors = positions[self._second] - positions[self._first] + self._offsets
        near = (vectors**2).sum(1) < self._module.config.cutoff**2
        first = self._first[near]
        counts = torch.bincount(first, minlength=len(positions))
        return Batch(
            numbers=self._numbers,
            frame=torch.zeros_like(self._numbers),
            n_frames=1,
            first=first,
            second=self._second[near],
            vectors=vectors[near].to(self._module.config.torch_dtype),
            row=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


class StockCalculator(HippynnCalculator):
    """hippynn's own calculator, with timings and the property ``energies`` added.

    It builds ASE's neighbor list and applies its skin twice, so that a skin of 1 Angstrom means
    pairs out to cutoff + 2 Angstrom; it computes the stress in every call.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.timings: dict[str, float] = {"neighbor_list": 0.0, "model": 0.0, "calls": 0}
        super().__init__(*args, **kwargs)

    def rebuild_neighbors(self) -> None:
        """Make a new neighbor list with timed updates."""
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
        """Time hippynn's calculation; all time beyond the neighbor list counts as the model's."""
        start, listed = perf_counter(), self.timings["neighbor_list"]
        with torch_threads():
            super().calculate(atoms, properties, system_changes)
        inside_list = self.timings["neighbor_list"] - listed
        self.timings["model"] += perf_counter() - start - inside_list
        self.timings["calls"] += 1
        # hippynn returns an extra property as a column under its own name.
        energies = self.results["potential_energies"].ravel()
        self.results["potential_energies"] = self.results["energies"] = energies


def stock_calculator(
    potential: "Potential", device: str = "auto", skin: float = 1.0
) -> StockCalculator:
    """Return hippynn's own ASE calculator with a copy of the weights, for comparison.

    ``skin`` is hippynn's, Angstrom: pairs reach to cutoff + 2 skin.
    """
    module = kernels.restore(copy.deepcopy(potential.module)).eval()
    energy = hippynn_graph(module)
    calculator = StockCalculator(
        energy,
        skin=skin,
        extra_properties={"potential_energies": energy.atom_energies},
        en_unit=1.0,
    )
    calculator.dtype = potential.config.torch_dtype  # of its inputs; to() would round E0 as well
    return calculator.to(device=torch_device(device))
