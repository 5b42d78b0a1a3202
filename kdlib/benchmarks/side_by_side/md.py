"""MD of every contestant, each run in its own process: time, memory, energy conservation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import xarray as xr
from ase import Atoms
from tqdm.std import tqdm

from kdlib import hipnn, processes, progress
from kdlib.benchmarks import backends
from kdlib.benchmarks.memory import MemoryProtocol, free_memory, peak, peak_bytes, reset_peak
from kdlib.benchmarks.side_by_side import lammps
from kdlib.benchmarks.side_by_side.lammps import Lammps, LammpsError
from kdlib.benchmarks.side_by_side.plan import (
    CONTESTANTS,
    LAYERED,
    BenchProtocol,
    record,
)
from kdlib.benchmarks.speed import timed_blocks
from kdlib.errors import DynamicsError
from kdlib.geometry.cells import bare
from kdlib.hipnn.calculator import HipnnCalculator, StockCalculator
from kdlib.md import dynamics, liquid
from kdlib.md.lammps import pairstyle
from kdlib.results.schema import COMPONENTS

#: Steps of the small liquid to compile everything; TorchScript recompiles in its first calls.
SMALL_STEPS = 10
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class MdJob:
    """NVE of one contestant at one size."""

    run_dir: Path
    """Folder of the saved potential."""
    backend: str
    """A name in :data:`kdlib.benchmarks.backends.BACKENDS`."""
    start: Atoms
    """Small liquid that is repeated."""
    n_atoms: int
    skin: float
    """Skin of the neighbor list, Angstrom (the stock calculator applies it twice)."""
    n_steps: int
    """Steps of each block."""
    repeats: int
    """Largest number of blocks."""
    warmup_steps: int
    """Steps at this size before the timing; 0 times the first call, with its neighbor list."""
    budget: float
    """No block starts after this many seconds of blocks."""
    temperature: float
    """Temperature of the velocities at the start, K."""
    timestep: float
    """Time step, fs."""


@dataclass(frozen=True)
class MdResult:
    """Measurements of one process."""

    seconds: np.ndarray
    """Seconds of each block, (component, repeat)."""
    builds: int
    """Builds of the neighbor list in all blocks."""
    peak: float
    """Peak memory of the process, bytes."""


def timed(job: MdJob) -> MdResult:
    """Run NVE in blocks, after a short run of the small liquid to compile and load everything."""
    potential = hipnn.load(job.run_dir)
    small = liquid.enlarged(job.start, len(job.start), job.temperature)
    small.calc = backends.contestant(potential, job.backend, "cpu", job.skin)
    dynamics.nve(small, SMALL_STEPS, job.timestep)
    del small
    reset_peak(_CPU)
    atoms = liquid.enlarged(job.start, job.n_atoms, job.temperature)
    atoms.calc = backends.contestant(potential, job.backend, "cpu", job.skin)
    if job.warmup_steps == 0:
        return MdResult(_first_call(atoms), 1, peak(_CPU))
    dynamics.nve(atoms, job.warmup_steps, job.timestep)
    before = _builds(atoms.calc)
    seconds = timed_blocks(atoms, job.n_steps, job.timestep, job.repeats, job.budget)
    return MdResult(seconds, _builds(atoms.calc) - before, peak(_CPU))


def _first_call(atoms: Atoms) -> np.ndarray:
    """Seconds of one force call with its neighbor list, (component, 1)."""
    started = perf_counter()
    atoms.get_forces()
    total = perf_counter() - started
    timings = atoms.calc.timings
    return np.array([[total], [timings["neighbor_list"]], [timings["model"]], [0.0]])


def _builds(calculator: HipnnCalculator | StockCalculator) -> int:
    if isinstance(calculator, HipnnCalculator):
        return calculator.neighbor_list.n_builds
    return calculator.nl.nupdates


@dataclass
class _Bench:
    """A running benchmark, which writes its measurements into the Dataset."""

    protocol: BenchProtocol
    start: Atoms
    ds: xr.Dataset
    bar: tqdm
    keep: Callable[[xr.Dataset], None] = field(default=lambda ds: None)
    """Called with the Dataset after each contestant."""

    def architecture(self, label: str, run_dir: Path) -> None:
        """Measure all contestants with one potential that were not measured before."""
        for contestant in CONTESTANTS[:4]:
            where = {"architecture": label, "contestant": contestant}
            if not self._ran(where):
                self.bar.set_description_str(f"{label} {contestant}")
                self._contestant(where, run_dir, contestant)
                self.keep(self.ds)
            self.bar.update()

    def _ran(self, where: dict[str, str | list[str]]) -> bool:
        return bool((self.ds.status.sel(where) != "not run").all())

    def _contestant(self, where: dict[str, str], run_dir: Path, contestant: str) -> None:
        """Memory and all sizes of one contestant."""
        default = self.protocol.skin
        skin = self._best_skin(run_dir) if contestant == "stock_best" else default
        self.ds["skin"].loc[where] = skin
        if contestant == "stock_best" and skin == default:
            self._copy_stock(where)
            return
        job = self._job(run_dir, contestant, skin)
        fixed, slope = self._memory(job, contestant)
        self.ds["memory_per_atom"].loc[where] = slope / 1e3
        self._sizes(where, job, fixed, slope)
        progress.line(self._said(where, slope))

    def _copy_stock(self, where: dict[str, str]) -> None:
        """Copy stock hippynn's results where its default skin is the best one."""
        for array in self.ds.data_vars.values():
            if "contestant" in array.dims:
                array.loc[where] = array.sel({**where, "contestant": "stock"})

    def _job(self, run_dir: Path, contestant: str, skin: float) -> MdJob:
        p = self.protocol
        backend = "stock" if contestant.startswith("stock") else contestant
        return MdJob(
            run_dir, backend, self.start, min(p.sizes), skin, p.n_steps, p.repeats,
            p.warmup_steps, p.budget, p.temperature, p.timestep,
        )  # fmt: skip

    def _said(self, where: dict[str, str], slope: float) -> str:
        times = self.ds.step_time.sel({**where, "component": "total"}).median("repeat").values
        said = ", ".join(f"{time:.3g}" for time in times)
        return f"{' '.join(where.values())}: {said} us/atom/step, {slope / 1e3:.3g} kB/atom"

    def _best_skin(self, run_dir: Path) -> float:
        def seconds(skin: float) -> float:
            job = replace(self._job(run_dir, "stock", skin), budget=self.protocol.budget / 4)
            return float(np.mean(self._call(job).seconds[0]))

        skins = self.protocol.stock_skins
        return min(skins, key=seconds) if len(skins) > 1 else skins[0]

    def _call(self, job: MdJob) -> MdResult:
        return processes.call(timed, job, threads=self.protocol.n_threads)

    def _memory(self, job: MdJob, contestant: str) -> tuple[float, float]:
        """Constant memory, and memory per atom, bytes."""
        p = self.protocol
        sizes = p.layered_memory_sizes if contestant in LAYERED else p.memory_sizes
        how = MemoryProtocol(2, p.timestep, p.temperature, job.skin, "cpu")
        # The first process compiles what is not in the cache, so its memory is ignored.
        sizes = (min(sizes), *sizes)
        run = job.run_dir, job.backend, bare(self.start)
        peaks = [processes.call(peak_bytes, *run, [n], how, threads=p.n_threads)[0] for n in sizes]
        slope, fixed = np.polyfit(sizes[1:], peaks[1:], 1)
        return fixed, slope

    def _sizes(self, where: dict[str, str], job: MdJob, fixed: float, slope: float) -> None:
        """Run every size that is not too large; the others copy the times of the last one.

        A single call at the first of the others, or the largest size that fits, checks this.
        """
        ran, per_atom = 0, 0.0
        for n in sorted(self.protocol.sizes):
            here = {**where, "n_atoms": n}
            fits = fixed + slope * n <= self.protocol.memory_share * free_memory()
            if ran and (not fits or per_atom * n * job.n_steps > self.protocol.longest_block):
                self.ds["step_time"].loc[here] = self.ds.step_time.sel({**where, "n_atoms": ran})
                self.ds["status"].loc[here] = f"extrapolated from {ran}"
                self._first_call(where, replace(job, n_atoms=n), fixed, slope)
                continue
            try:
                found = self._call(replace(job, n_atoms=n))
            except (DynamicsError, MemoryError) as error:
                self.ds["status"].loc[here] = f"failed: {error}"
                progress.line(f"{' '.join(where.values())} {n} atoms: {error}")
                continue
            record(self.ds, here, found.seconds, found.builds, job.n_steps)
            ran, per_atom = n, float(np.mean(found.seconds[0])) / (n * job.n_steps)

    def _first_call(self, where: dict[str, str], job: MdJob, fixed: float, slope: float) -> None:
        """Time one force call at the job's size, or the largest that fits."""
        room = self.protocol.memory_share * free_memory() - fixed
        n = min(job.n_atoms, int(room / slope)) // len(self.start) * len(self.start)
        known = float(self.ds["first_call_n_atoms"].sel(where))
        if n <= min(self.protocol.sizes) or np.isfinite(known):
            return
        try:
            found = self._call(replace(job, n_atoms=n, warmup_steps=0))
        except (DynamicsError, MemoryError) as error:
            progress.line(f"{' '.join(where.values())}: one call of {n} atoms: {error}")
            return
        self.ds["first_call_n_atoms"].loc[where] = n
        model = found.seconds[COMPONENTS.index("model"), 0]
        self.ds["first_call_time"].loc[where] = model * 1e6 / n

    def classical(self, program: Lammps, labels: list[str]) -> None:
        """Run LAMMPS's potential once for all architectures."""
        n = self.protocol.n_threads
        self._in_lammps(program, labels, "lammps", {"threads": n})
        if program.mpiexec is not None:
            self._in_lammps(program, labels, "lammps_ranks", {"ranks": n})

    def pair_style(self, program: Lammps, plugin: Path, label: str, run_dir: Path) -> None:
        """Run our pair style on one rank, and on one per core."""
        ranks = {"pair_style_1": 1}
        if program.mpiexec is not None:
            ranks["pair_style"] = self.protocol.n_threads
        model = lammps.PairStyle(plugin, run_dir)
        for contestant, n in ranks.items():
            self._in_lammps(program, [label], contestant, {"ranks": n, "model": model})

    def _in_lammps(self, program: Lammps, labels: list[str], contestant: str, used: dict) -> None:
        """Time and memory of one way to use LAMMPS, if they were not measured before."""
        p, everywhere = self.protocol, {"architecture": labels, "contestant": contestant}
        if self._ran(everywhere):
            return
        self.ds["skin"].loc[everywhere] = p.lammps_skin

        def run(n: int, n_steps: int, repeats: int) -> lammps.LammpsRun:
            atoms = liquid.enlarged(self.start, n, p.temperature)
            return lammps.run(
                program, atoms, n_steps, repeats, p.warmup_steps, timestep=p.timestep,
                skin=p.lammps_skin, **used,
            )  # fmt: skip

        per_atom = 0.0  # seconds of a block
        for n in sorted(p.sizes):
            fitting = p.budget / (per_atom * n) if per_atom else p.repeats
            found = run(n, p.n_steps, int(np.clip(fitting, 2, p.repeats)))
            per_atom = float(np.median(found.seconds[0])) / n
            self.ds.attrs["lammps_version"] = found.version
            here = {**everywhere, "n_atoms": n}
            record(self.ds, here, found.seconds, found.builds, p.n_steps)
        if used.get("ranks", 1) == 1:  # the memory of several processes is not known
            peaks = [run(n, 2, 1).peak for n in p.memory_sizes]
            slope = np.polyfit(p.memory_sizes, peaks, 1)[0]
            self.ds["memory_per_atom"].loc[everywhere] = slope / 1e3
        self.keep(self.ds)


def side_by_side(
    ds: xr.Dataset,
    run_dirs: dict[str, Path],
    start: Atoms,
    protocol: BenchProtocol,
    program: Lammps | None,
    keep: Callable[[xr.Dataset], None],
) -> None:
    """Fill in time per step and memory of all contestants that ``ds`` lacks.

    The attribute ``lammps_version`` is LAMMPS's version or error.

    Parameters
    ----------
    ds
        From :func:`empty`; changed in place.
    run_dirs
        Architecture -> folder of a saved potential.
    start
        Small equilibrated liquid.
    program
        None skips LAMMPS.
    keep
        Called with ``ds`` after each contestant.
    """
    ds.attrs.setdefault("lammps_version", "not installed")
    with progress.bar(total=4 * len(run_dirs) + 1, desc="benchmark", unit="contestant") as bar:
        bench = _Bench(protocol, start, ds, bar, keep)
        if program is not None:
            bar.set_description_str("LAMMPS")
            try:
                _in_lammps(bench, program, run_dirs)
            except LammpsError as error:
                ds.attrs["lammps_version"] = str(error)
                progress.line(str(error))
        bar.update()
        for label, run_dir in run_dirs.items():
            bench.architecture(label, run_dir)


def _in_lammps(bench: _Bench, program: Lammps, run_dirs: dict[str, Path]) -> None:
    """Everything that runs in LAMMPS."""
    bench.classical(program, list(run_dirs))
    plugin = pairstyle.built(program)
    if plugin is None:
        progress.line("left out: pair_style hipnn, which kdlib lammps build compiles")
        return
    for label, run_dir in run_dirs.items():
        try:
            bench.pair_style(program, plugin, label, run_dir)
        except LammpsError as error:  # what was measured before stays
            progress.line(f"pair_style hipnn, {label}: {error}")


@dataclass(frozen=True)
class NveJob:
    """NVE of one potential, after some time in a thermostat."""

    run_dir: Path
    """Folder of the saved potential."""
    start: Atoms
    """Small liquid."""
    rest_steps: int
    """Steps of Langevin dynamics first, because the liquid comes from another potential."""
    n_steps: int
    """Steps of NVE."""
    temperature: float
    """Temperature of the thermostat, K."""
    timestep: float
    """Time step, fs."""


def nve(job: NveJob) -> xr.Dataset:
    """:func:`kdlib.md.dynamics.conservation` of the small liquid, on the fused kernels."""
    atoms = liquid.enlarged(job.start, len(job.start), job.temperature)
    atoms.calc = hipnn.load(job.run_dir).calculator(device="cpu", backend="fused")
    dynamics.nvt(
        atoms, job.temperature, job.rest_steps, job.timestep, thermostat="langevin", relaxation=100
    )
    return dynamics.conservation(atoms, job.n_steps, job.timestep, n_samples=1000)


def along_nve(
    run_dirs: dict[str, Path],
    start: Atoms,
    protocol: BenchProtocol,
) -> xr.Dataset:
    """Conservation of energy by the saved potential of every architecture.

    Returns
    -------
    xr.Dataset
        ``total_energy(architecture, time)``, its change, eV/atom, and
        ``energy_drift(architecture)``, eV/atom/ps.
    """
    p, found = protocol, {}
    with progress.bar(total=len(run_dirs), desc="energy conservation", unit="run") as bar:
        for label, run_dir in run_dirs.items():
            bar.set_description_str(f"{label}, NVE of {len(start)} atoms")
            job = NveJob(run_dir, start, p.rest_steps, p.nve_steps, p.temperature, p.timestep)
            ds = processes.call(nve, job, threads=p.n_threads)
            kept = ds[["energy_change", "energy_drift"]]
            found[label] = kept.rename(energy_change="total_energy")
            progress.line(f"{label}: {float(ds.energy_drift):.2g} eV/atom/ps")
            bar.update()
    architecture = xr.Variable("architecture", list(found))
    return xr.concat(found.values(), architecture, combine_attrs="override")
