"""Long runs of molecular dynamics that never leave the device.

Positions and velocities are float64; forces are sums in float64; the network is float32 unless it
was made otherwise. Between two builds of the neighbor table a step is two captured graphs, replayed
without a word from the host, which looks at the flags of :mod:`kdlib.hipnn.device.motion` only when
a build is about due.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
import xarray as xr
from ase import Atoms
from torch import Tensor

from kdlib import units
from kdlib.errors import MAX_TEMPERATURE, DynamicsError, InputError
from kdlib.geometry import freedom
from kdlib.geometry.cells import half_open
from kdlib.geometry.freedom import Freedom
from kdlib.geometry.neighbors import spans
from kdlib.hipnn.device import captured, motion
from kdlib.hipnn.device.cells import ATOMS, WARPS, Box, Cells
from kdlib.hipnn.device.field import DeviceField

#: Range of the neighbor table beyond the cutoff, Angstrom.
SKIN = 0.6
#: Steps after which the first table is looked at; later ones when the last did not hold longer.
FIRST_LOOK = 8
#: Fraction of the last table's life after which the flags are looked at again, and how often then.
LOOK_AFTER, LOOKS_LEFT = 0.75, 8
_LEFT, _HALTED, _STEP = 0, 1, 2


@dataclass(frozen=True)
class Langevin:
    """A thermostat."""

    temperature: float
    """In K."""
    friction: float = 0.01
    """In 1/fs."""
    seed: int = 0
    """Of the random forces."""


class DeviceDynamics:
    """Molecular dynamics of one configuration on a device.

    Parameters
    ----------
    module
        A :class:`kdlib.hipnn.HipnnModule`; its weights are copied.
    atoms
        Where to start: positions, cell, velocities. Not changed before :meth:`store`. ASE's
        constraints are refused.
    timestep
        In fs.
    thermostat
        None: constant energy.
    skin
        Range of the neighbor table beyond the cutoff, Angstrom.
    device
        CUDA, or the CPU under Triton's interpreter.

    Attributes
    ----------
    n_builds
        Builds of the neighbor table.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        atoms: Atoms,
        timestep: float = 1.0,
        thermostat: Langevin | None = None,
        skin: float = SKIN,
        device: torch.device | str = "cuda",
    ) -> None:
        self.device, self.timestep, self.n_builds = torch.device(device), timestep, 0
        self.field = DeviceField(module, self.device)
        module.check_species(atoms.numbers, "device dynamics")
        if reason := unfit(atoms, self.field.cutoff, skin):
            raise InputError(f"device dynamics: {reason}")
        self._skin, self._thermostat, self._freedom = skin, thermostat, Freedom.of(atoms)
        box = _box(atoms, self.field.cutoff, skin)
        self._cells = Cells(box, len(atoms), self.field.dtype, self.device)
        self._load(atoms)
        self._motion = self._motion_tensor()
        self._flags = torch.zeros(3, dtype=torch.int32, device=self.device)
        self._graphs: tuple[Callable[[], None], Callable[[], None]] | None = None
        self._life, self._since = FIRST_LOOK, 0
        self.field.reserve(len(atoms))
        self.rebuild()
        self._start()

    def _load(self, atoms: Atoms) -> None:
        def tensor(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(np.asarray(array), dtype=dtype, device=self.device)

        self._x, self._v = tensor(atoms.positions), tensor(atoms.get_velocities())
        self._mass = tensor(atoms.get_masses())
        self._species = self.field.channels(tensor(atoms.numbers, torch.int64))
        #: Index of each atom in the configuration.
        self._identity = torch.arange(len(atoms), dtype=torch.int32, device=self.device)

    def _motion_tensor(self) -> Tensor:
        dt, bath = self.timestep * units.FS, self._thermostat
        keep = 1.0 if bath is None else np.exp(-bath.friction * self.timestep)
        width = 0.0 if bath is None else np.sqrt(units.KB * bath.temperature * (1 - keep**2))
        numbers = [dt, dt / 2, keep, width, (self._skin / 2) ** 2]
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self._cells.n

    def run(
        self, n_steps: int, sample_every: int = 0, max_temperature: float = MAX_TEMPERATURE
    ) -> xr.Dataset:
        """Take steps.

        Parameters
        ----------
        n_steps
            Number of steps.
        sample_every
            Steps between samples of the series; 0: only at the end.
        max_temperature
            A hotter run (K) has exploded and ends with :class:`kdlib.errors.DynamicsError`.

        Returns
        -------
        xarray.Dataset
            The series of :func:`kdlib.md.dynamics.nve`, and the seconds that the steps took.
        """
        every = sample_every or n_steps
        if n_steps < 1 or every < 1:
            raise InputError(f"{n_steps} steps sampled every {every} are not a run")
        first, samples, began = int(self._flags[_STEP]), [], perf_counter()
        for target in range(every, n_steps + 1, every):
            self._advance(first + target)
            samples.append((target, *self._sample(max_temperature)))
        if n_steps % every:
            self._advance(first + n_steps)
        return self._dataset(n_steps, samples, perf_counter() - began)

    def store(self, atoms: Atoms) -> None:
        """Write positions, not wrapped, and velocities into the configuration."""
        back = torch.argsort(self._identity)
        atoms.positions = self._x[back].cpu().numpy()
        atoms.set_velocities(self._v[back].cpu().numpy())

    def results(self) -> dict[str, np.ndarray]:
        """Energies (eV) and forces (eV/Angstrom) of the present step, in the atoms' own order."""
        back = torch.argsort(self._identity)
        return {
            "energies": self.field.atomic_energies(self._species)[back].cpu().numpy(),
            "forces": self.field.forces[back].cpu().numpy(),
        }

    def _advance(self, target: int) -> None:
        """Take steps until ``target`` of them are completed."""
        step = int(self._flags[_STEP])
        while step < target:
            self._queue(min(self._look(), target - step))
            left, _, now = self._flags.tolist()
            self._since += now - step
            step = now
            if left:
                self._life = max(self._since, 1)
                self.rebuild()
                self._flags[:2] = 0
                self._step()[1]()
                step += 1

    def _look(self) -> int:
        """How many steps to take before the next look at the flags."""
        return max(int(LOOK_AFTER * self._life) - self._since, self._life // LOOKS_LEFT, 1)

    def _queue(self, n_steps: int) -> None:
        to_places, to_velocities = self._step()
        for _ in range(n_steps):
            to_places()
            to_velocities()

    def _step(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Both halves of a step: up to the new places, and from there to the new velocities."""
        if self.device.type != "cuda":
            return self._to_places, self._to_velocities
        if self._graphs is None:
            flags = self._flags.clone()
            self._flags[:2] = 1  # nothing moves while the kernels are compiled
            self._graphs = (
                captured(self._to_places).replay,
                captured(self._to_velocities).replay,
            )
            self._flags.copy_(flags)
        return self._graphs

    def _to_places(self) -> None:
        bath, cells = self._thermostat, self._cells
        motion.drift[cells.grid()](
            self._x, self._v, self.field.forces, self._mass, self._identity,
            cells.inverse, cells.box_tensor, cells.q, cells.q_built, self._motion, self._flags,
            bath.seed if bath else 0, cells.n,
            NOISE=bath is not None, ATOMS=ATOMS, num_warps=WARPS,
        )  # fmt: skip

    def _to_velocities(self) -> None:
        cells = self._cells
        self.field.evaluate(cells, self._species)
        motion.kick[cells.grid()](
            self._v, self.field.forces, self._mass, self._motion, self._flags, cells.n,
            ATOMS=ATOMS, num_warps=WARPS,
        )  # fmt: skip
        motion.finish[(1,)](self._flags)

    def rebuild(self) -> None:
        """Sort the atoms and make a new table."""
        order, bins = self._cells.order(self._x)
        for tensor in (self._x, self._v, self._mass, self._species, self._identity):
            tensor.copy_(tensor[order])
        if self._cells.build(self._x, bins):
            self._graphs = None
        self._since = 0
        self.n_builds += 1

    def _start(self) -> None:
        """Forces of the start, without moving anything."""
        self._flags[:2] = 1
        self._step()[1]()
        self._flags[:2] = 0

    def _sample(self, max_temperature: float) -> tuple[float, float, float]:
        """Temperature (K), potential and kinetic energy (eV) of the present step."""
        potential = float(self.field.atomic_energies(self._species).sum())
        kinetic = float(torch.einsum("i,ic,ic->", self._mass, self._v, self._v)) / 2
        momentum = torch.einsum("i,ic->c", self._mass, self._v).cpu().numpy()
        temperature = self._freedom.temperature(kinetic, momentum, float(self._mass.sum()))
        if not (np.isfinite(potential) and temperature <= max_temperature):
            raise DynamicsError(
                f"device dynamics: step {int(self._flags[_STEP])}: the temperature is "
                f"{temperature:.4g} K (limit {max_temperature:g} K), the energy {potential:.6g} eV"
            )
        return temperature, potential, kinetic

    def _dataset(self, n_steps: int, samples: list, seconds: float) -> xr.Dataset:
        step, temperature, potential, kinetic = np.reshape(samples, (-1, 4)).T
        ds = xr.Dataset(
            coords={"time": ("time", step * self.timestep, {"units": "fs"})},
            attrs={"n_steps": n_steps, "timestep": self.timestep, "n_atoms": self.n_atoms},
        )
        ds["temperature"] = "time", temperature, {"units": "K"}
        series = {"potential": potential, "kinetic": kinetic, "total": potential + kinetic}
        for name, energy in series.items():
            ds[f"{name}_energy"] = "time", energy / self.n_atoms, {"units": "eV/atom"}
        ds["seconds"] = xr.Variable("component", [seconds], {"units": "s"})
        ds = ds.assign_coords(component=["total"]).assign_attrs(n_builds=self.n_builds)
        several = ds.sizes["time"] > 1
        drift = np.polyfit(ds.time / 1000, ds.total_energy, 1)[0] if several else np.nan
        ds["energy_drift"] = (), drift, {"units": "eV/atom/ps"}
        return ds


def unfit(atoms: Atoms, cutoff: float, skin: float = SKIN) -> str | None:
    """Say what keeps a configuration from running here, or None; ranges in Angstrom."""
    if atoms.constraints:
        return f"{freedom.names(atoms)} cannot hold atoms there"
    if rule := half_open(atoms):
        return f"the configuration {rule}"
    if not spans(atoms.cell.array, atoms.pbc):
        return "the cell vectors span no volume"
    if not atoms.pbc.all() or max(_box(atoms, cutoff, skin).repeats) > 1:
        return (
            f"a cell must be periodic and {2 * (cutoff + skin):g} Angstrom wide in every "
            "direction; repeat it"
        )
    return None


def _box(atoms: Atoms, cutoff: float, skin: float) -> Box:
    return Box.around(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, cutoff + skin)
