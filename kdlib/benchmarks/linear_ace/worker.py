"""Fits, predicts and times a linear ACE, in an environment that has ace-jax but no kdlib.

``python -I worker.py fit|predict|time job.json result.json``: the job is a JSON object with the
arguments of the function of that name, and the result is what it returns. JAX takes as many threads
as the process has cores, so a job that names ``threads`` is held on as many.
"""

import json
import os
import platform
import sys
import threading
import time as clock
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from ase.md.verlet import VelocityVerlet


def fit(
    train: str, order: int, degree: int, cutoff: float, energy_weights: list[float], models: str
) -> dict:
    """Fit one size to the frames of an extxyz file and write ``<models>/<k>.npz`` for each weight.

    The rows of the least squares are computed once. The evidence sets the regularization and the
    noise of energies (per root of the number of atoms) and of forces; a weight w then divides that
    of energies.
    """
    from ace_jax.basis.model import BasisSpec
    from ace_jax.fit.pipeline import FitConfig, load_fit_data
    from ace_jax.fit.pipeline import fit as fit_evidence
    from ace_jax.fit.pipeline.export import linear_arrays_from_mean
    from ace_jax.fit.predict import fit_posterior

    began = clock.perf_counter()
    frames = read(train, ":")
    # The package predicts some frames after a fit, in a slow way: the smallest one is enough.
    smallest = min(frames, key=len)
    spec = BasisSpec(order=order, max_degree=degree, rcut=cutoff)
    config = FitConfig(
        model=spec, arm="linear", e0="lsq", r0=None, map_steps=500, predict_train=False,
        predict_stats="auto",
    )  # fmt: skip
    found = fit_evidence(config, load_fit_data(config, train=frames, test=[smallest]))
    data, problem = found.data, found.built.prob
    statistics = found.stats(found.theta)
    for k, weight in enumerate(energy_weights):
        noise = found.theta._replace(log_sigma_E=found.theta.log_sigma_E - np.log(weight))
        mean, _ = fit_posterior(noise, statistics, problem, data.ds_train)
        arrays = linear_arrays_from_mean(data.z, data.E0, problem.cfg, mean)
        np.savez(Path(models) / f"{k}.npz", **arrays)
    return {
        "fit_time": clock.perf_counter() - began,
        "fit_processor_time": clock.process_time(),
        "n_functions": int(data.meta["n_B"]),
        "n_parameters": int(np.size(mean)),
        "noise_energy": float(np.exp(found.theta.log_sigma_E)),
        "noise_force": float(np.exp(found.theta.log_sigma_F)),
        "isolated_atom": [float(e) for e in np.ravel(arrays["E0"])],
        **_about(),
    }


def predict(model: str, frames: str) -> dict:
    """Energies (eV) and forces (eV/Angstrom) of the frames of an extxyz file, as nested lists.

    Lists of pairs are compiled for a few lengths only; the tables of neighbors that serve MD would
    be compiled anew for nearly every frame.
    """
    from ace_jax import ACECalculator

    calculator = ACECalculator(model, layout="sparse", edge_a_kind="gather")
    energies, forces = [], []
    for atoms in read(frames, ":"):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces().tolist())
    return {"energy": energies, "forces": forces}


def time(
    model: str, start: str, engine: str, n_steps: int, repeats: int, warmup_steps: int,
    budget: float, timestep: float, skin: float,
) -> dict:  # fmt: skip
    """Seconds and processor seconds of blocks of NVE under ASE; timestep in fs, skin in Angstrom.

    Blocks begin until there are ``repeats`` or ``budget`` seconds are over. Ends early, with an
    ``error``, where the temperature says that the run has exploded.
    """
    atoms = read(start)
    atoms.calc = ENGINES[engine](model, skin)
    integrator = VelocityVerlet(atoms, timestep * units.fs)
    integrator.run(warmup_steps)
    seconds: list[float] = []
    processor: list[float] = []
    while len(seconds) < repeats and sum(seconds) < budget:
        began, used = clock.perf_counter(), clock.process_time()
        integrator.run(n_steps)
        seconds.append(clock.perf_counter() - began)
        processor.append(clock.process_time() - used)
    found = {"seconds": seconds, "processor": processor, "temperature": atoms.get_temperature()}
    return found | _about()


def _about() -> dict:
    """Versions of what computed."""
    names = {"ace_jax": "ace-jax", "jax": "jax", "ase": "ase", "matscipy": "matscipy"}
    return {
        "python_version": platform.python_version(),
        **{f"{name}_version": version(package) for name, package in names.items()},
    }


def _jax_calculator(model: str, skin: float = 1.0) -> Calculator:
    """Return the package's calculator, in double precision, with its faster tabulated radial part.

    The package states an error of the table of 1e-8 of the largest force.
    """
    from ace_jax import ACECalculator

    return ACECalculator(model, skin=skin, radial_table=True)


class KernelCalculator(Calculator):
    """The package's C++ kernel, written for LAMMPS, under ASE: one thread, double precision.

    As in LAMMPS, periodic images near the cell are atoms of their own (ghosts), and the neighbor
    list holds until an atom has moved half a skin (Angstrom).
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, model: str, skin: float = 1.0) -> None:
        import jax
        from ace_jax.eval import ffi, load
        from ace_jax.eval.model import lean

        super().__init__()
        ffi.register(ffi.library())
        full, meta, _ = load(model)
        self._reach, self._skin = float(meta["rcut"]) + skin, skin
        self._species = {int(z): k for k, z in enumerate(meta["elements"])}
        attributes, constants = ffi.kernel_inputs(lean(full, radial_table=True))
        attributes["rc2"] = np.float64(meta["rcut"]) ** 2

        @jax.jit
        def call(x, species, neighbors, counts):
            shapes = [jax.ShapeDtypeStruct(s, x.dtype) for s in (species.shape, x.shape)]
            weights = jax.numpy.ones(species.shape)
            inputs = (x, species, neighbors, counts, weights, *constants)
            return jax.ffi.ffi_call(ffi.TARGET, shapes)(*inputs, **attributes)

        self._call, self._built_for = call, Atoms()
        self._capacity = (0, 0)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Call the kernel on atoms and ghosts; a force on a ghost acts on its atom."""
        super().calculate(atoms, properties, system_changes)
        if self._outdated():
            self._build()
        x = self.atoms.positions
        padding = np.broadcast_to(x[:1], (self._capacity[1] - len(self._owner), 3))
        whole = np.concatenate([x, x[self._owner] + self._shift, padding])
        energies, forces = map(np.asarray, self._call(whole, *self._graph))
        n, ghosts = len(x), slice(len(x), len(x) + len(self._owner))
        on_ghosts = [np.bincount(self._owner, forces[ghosts, k], n) for k in range(3)]
        self.results["forces"] = forces[:n] + np.transpose(on_ghosts)
        self.results["energy"] = float(energies[:n].sum())

    def _outdated(self) -> bool:
        old, new = self._built_for, self.atoms
        if len(old) != len(new) or (old.cell.array != new.cell.array).any():
            return True
        moved = np.linalg.norm(new.positions - old.positions, axis=1).max()
        return bool(moved > self._skin / 2 or (old.numbers != new.numbers).any())

    def _build(self) -> None:
        """Ghosts, and the neighbors of each atom as columns (neighbor, atom)."""
        from matscipy.neighbours import neighbour_list

        atoms = self.atoms
        i, j, images = neighbour_list("ijS", atoms, self._reach)
        outside = images.any(axis=1)
        ghosts, place = np.unique(
            np.column_stack([j, images])[outside], axis=0, return_inverse=True
        )
        self._owner, self._shift = ghosts[:, 0], ghosts[:, 1:] @ atoms.cell.array
        j[outside] = len(atoms) + np.ravel(place)
        counts = np.bincount(i, minlength=len(atoms))
        # Shapes are compiled for, so they rarely grow.
        most, n_ghosts = self._capacity
        if counts.max() > most or len(ghosts) > n_ghosts:
            self._capacity = most, n_ghosts = int(1.2 * counts.max()), int(1.05 * len(ghosts)) + 32
        neighbors = np.zeros((most, len(atoms)), np.int32)
        order = np.argsort(i, kind="stable")
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        neighbors[np.arange(len(i)) - first[i[order]], i[order]] = j[order]
        species = np.array([self._species[int(z)] for z in atoms.numbers])
        everyone = np.concatenate([species, species[self._owner]])
        padded = np.pad(everyone, (0, n_ghosts - len(ghosts))).astype(np.int32)
        self._graph = (padded, neighbors, counts.astype(np.int32))
        self._built_for = atoms.copy()


#: Ways to run a model in MD, by the names of the results.
ENGINES = {"jax": _jax_calculator, "kernel": KernelCalculator}


def _end_with_parent() -> None:
    """End when the parent's end of standard input closes, however the parent ended."""
    os.read(0, 1)  # not through sys.stdin, whose lock would abort Python at its end
    os._exit(1)


def main(stage: str, job: str, result: str) -> None:
    """Run one stage; the result appears whole or not at all."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    given = json.loads(Path(job).read_text(encoding="utf-8"))
    threads = given.pop("threads", 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax

    jax.config.update("jax_enable_x64", True)
    found = {"fit": fit, "predict": predict, "time": time}[stage](**given)
    part = Path(f"{result}.part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
