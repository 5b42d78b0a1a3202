"""Result Datasets with planted effects, to test figures and claims without training."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import xarray as xr

from kdlib import results
from kdlib.results import schema

#: Architecture -> trainable parameters, about those of HIP-NN.
SIZES = {
    "12-8-1": 1_500,
    "16-8-1": 2_500,
    "32-20-2": 25_000,
    "64-20-2": 95_000,
    "128-40-4": 720_000,
}
TEACHER = "128-40-4"


@dataclass(frozen=True)
class Plant:
    """Effects planted in the synthetic results, which the claims must find.

    Ratios are of force RMSE (g(r) error) to that of the control of equal size, or to the teacher.
    """

    seeds: int = 4
    noise: float = 0.02
    student: float = 0.7
    matched_control: float = 0.8
    energy: float = 0.96
    rdf: float = 0.7
    same_size_student: float = 1.0
    born_again: float = 0.9
    born_again_control: float = 0.97
    smallest_to_teacher: float = 2.2
    floor_gain: float = 0.01
    seed: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rng", np.random.default_rng(self.seed))

    def scatter(self, *shape: int) -> np.ndarray:
        """Factors around 1 with the planted relative noise."""
        return np.exp(self.noise * self.rng.standard_normal(shape))

    def force(self) -> dict[tuple[str, str], float]:
        """Return the true force RMSE by role and architecture, eV/Angstrom."""
        teacher = 0.09
        table = {("teacher", TEACHER): teacher}
        for name in SIZES:
            control = teacher * self.smallest_to_teacher * (SIZES[name] / 1_500) ** -0.1
            table["control", name] = control
            table["student", name] = control * self.student
            table["matched_control", name] = control * self.matched_control
        for role in ("same_size_student", "born_again", "born_again_control"):
            table[role, TEACHER] = teacher * getattr(self, role)
        return table


def _grid(plant: Plant) -> tuple[list[str], dict]:
    roles = [role for role in schema.ROLES if any(role == key[0] for key in plant.force())]
    coords = {
        "role": roles,
        "architecture": list(SIZES),
        "seed": np.arange(plant.seeds),
        "n_parameters": ("architecture", list(SIZES.values())),
    }
    return roles, coords


def accuracy(plant: Plant) -> xr.Dataset:
    """Accuracy of every role; students and controls at every size."""
    roles, coords = _grid(plant)
    shape = (len(roles), len(SIZES), plant.seeds)
    force = np.full(shape, np.nan)
    for (role, name), value in plant.force().items():
        force[roles.index(role), list(SIZES).index(name)] = value * plant.scatter(plant.seeds)
    energy = 0.05 * np.sqrt(force / 0.09) * plant.scatter(*shape)
    control = energy[roles.index("control")]
    energy[roles.index("student")] = control * plant.energy * plant.scatter(*shape[1:])
    energy[roles.index("matched_control")] = control * plant.scatter(*shape[1:])
    splits = np.array([0.9, 0.98, 1.0, 1.4, 1.05])
    atoms = np.full(60, 32)
    spread = plant.rng.gamma(2.0, 0.5, 60) * plant.rng.uniform(0.8, 1.2, (len(roles), 1, 1, 60))
    ds = xr.Dataset(
        {
            "force_rmse": (("role", "architecture", "seed", "split"), force[..., None] * splits),
            "force_mae": (
                ("role", "architecture", "seed", "split"),
                0.7 * force[..., None] * splits,
            ),
            "energy_rmse": (
                ("role", "architecture", "seed", "split"),
                0.1 * energy[..., None] * splits,
            ),
            "energy_mae": (
                ("role", "architecture", "seed", "split"),
                0.07 * energy[..., None] * splits,
            ),
            "frame_force_mse": (
                ("role", "architecture", "seed", "frame"),
                force[..., None] ** 2 * spread / spread.mean(-1, keepdims=True),
            ),
            "frame_energy_error": (
                ("role", "architecture", "seed", "frame"),
                0.1 * energy[..., None] * plant.rng.standard_normal((len(roles), 1, 1, 60)),
            ),
            "frame_n_atoms": ("frame", atoms),
            # checked for the first seed alone
            "floor_gain": (
                ("role", "architecture", "seed"),
                np.where(np.arange(plant.seeds) == 0, plant.floor_gain + 0 * force, np.nan),
            ),
        },
        {**coords, "split": list(schema.SPLITS), "frame": np.arange(60)},
    )
    return schema.describe(ds, "accuracy")


def history(plant: Plant, n_epochs: int = 150) -> xr.Dataset:
    """Power-law learning curves that differ between roles by a constant factor."""
    roles, coords = _grid(plant)
    epoch = np.arange(1, n_epochs + 1)
    values = np.full((len(roles), len(SIZES), plant.seeds, n_epochs, 2), np.nan)
    for (role, name), error in plant.force().items():
        curve = error * (epoch / n_epochs) ** -0.4
        noisy = curve[:, None] * np.array([0.9, 1.0]) * plant.scatter(plant.seeds, n_epochs, 2)
        values[roles.index(role), list(SIZES).index(name)] = noisy
        if role == "control":
            values[roles.index(role), list(SIZES).index(name), 0, -20:] = np.nan
    dims = ("role", "architecture", "seed", "epoch", "split")
    ds = xr.Dataset(
        {
            "force_rmse": (dims, values),
            "force_mae": (dims, 0.7 * values),
            "energy_rmse": (dims, 0.06 * values),
            "energy_mae": (dims, 0.04 * values),
        },
        {**coords, "epoch": epoch, "split": ["train", "valid"]},
    )
    return schema.describe(ds, "history")


def speed(plant: Plant) -> xr.Dataset:
    """Step times and memory that grow with the size, the fused ones hardly.

    The largest stock model was not run in the largest cell.
    """
    size = np.array(list(SIZES.values()))
    model = np.stack([40 * (size / 1_500) ** 0.35, 4 * (size / 1_500) ** 0.15], axis=1)
    atoms, repeats = [500, 4000], 5
    parts = np.stack([np.full_like(model, 3.0), model, np.full_like(model, 0.6)], axis=-1)
    parts = np.concatenate([parts.sum(-1, keepdims=True), parts], axis=-1)
    times = parts[:, :, None, :, None] * plant.scatter(len(size), 2, 2, 1, repeats)
    times[-1, 0, 1] = np.nan
    memory = np.stack([200 * (size / 1_500) ** 0.15, 8 * (size / 1_500) ** 0.03], axis=1)
    ds = xr.Dataset(
        {
            "step_time": (("architecture", "backend", "n_atoms", "component", "repeat"), times),
            "memory_per_atom": (("architecture", "backend"), memory * plant.scatter(len(size), 2)),
        },
        {
            "architecture": list(SIZES),
            "n_parameters": ("architecture", size),
            "backend": list(schema.AUDITED_BACKENDS),
            "n_atoms": atoms,
            "component": list(schema.COMPONENTS),
            "repeat": np.arange(repeats),
        },
    )
    return schema.describe(ds, "speed")


def liquid(plant: Plant) -> xr.Dataset:
    """g(r) like that of liquid aluminum, with errors proportional to the planted ones."""
    roles, coords = _grid(plant)
    roles = ["teacher", "student", "control", "matched_control"]
    coords["role"] = roles
    r = np.arange(0.025, 10, 0.05)
    shell = sum(
        h * np.exp(-((r - c) ** 2) / (2 * w**2))
        for h, c, w in ((1.5, 2.77, 0.22), (-0.27, 3.9, 0.35), (0.14, 5.2, 0.4))
    )
    base = (1 + shell) / (1 + np.exp(-(r - 2.45) / 0.06))
    wave = np.sin(2 * np.pi * (r - 2.0) / 1.5) * np.exp(-((r - 3.5) ** 2) / 4)
    error = np.full((4, len(SIZES), plant.seeds), np.nan)
    for role, name in plant.force():
        if role in roles[1:]:
            scale = {"student": plant.rdf, "control": 1.0, "matched_control": 0.85}[role]
            control = plant.force()["control", name]
            error[roles.index(role), list(SIZES).index(name)] = (
                0.9 * control * scale * plant.scatter(plant.seeds)
            )
    g = base + 0.5 * error[..., None] * wave
    g[0, -1] = base + 0.003 * plant.rng.standard_normal((plant.seeds, r.size))
    ds = xr.Dataset(
        {
            "g": (("role", "architecture", "seed", "r"), np.maximum(g, 0)),
            "g_experiment": ("r", np.maximum(base - 0.05 * wave, 0)),
            "rdf_error": (("role", "architecture", "seed"), error),
            "rdf_error_other_teachers": (("role", "architecture", "seed"), error + 0.01),
            "rdf_floor": ((), 0.03),
            "rdf_floor_teachers": ((), 0.045),
        },
        {**coords, "r": r},
    )
    return schema.describe(ds, "rdf")


def coverage(plant: Plant) -> xr.Dataset:
    """Frames of six phases."""
    rng, n = plant.rng, 400
    names = ["liquid", "fcc", "vacancy", "bcc", "hcp", "melting"]
    phase = rng.choice(names, n, p=[0.42, 0.2, 0.1, 0.09, 0.09, 0.1])
    density = rng.uniform(2.0, 3.1, n)
    hot = np.isin(phase, ["liquid", "melting"])
    temperature = np.where(hot, rng.uniform(800, 3000, n), rng.uniform(50, 1500, n))
    energy = -3.3 + 0.3 * (density - 2.7) ** 2 + 1e-4 * temperature + 0.1 * hot
    r = np.arange(0.05, 8, 0.1)
    g = [1 + k * 0.3 * np.sin(3 * r) * np.exp(-0.4 * r) for k in range(6)]
    ds = xr.Dataset(
        {
            "energy": ("frame", energy),
            "force_rms": ("frame", 0.02 * np.sqrt(temperature)),
            "density": ("frame", density),
            "temperature": ("frame", temperature),
            "frame_phase": ("frame", phase),
            "n_atoms": ("frame", rng.choice([16, 24, 32], n)),
            "part": ("frame", rng.choice(schema.SPLITS, n, p=[0.72, 0.1, 0.1, 0.04, 0.04])),
            "g": (("phase", "r"), np.maximum(g, 0)),
        },
        {"frame": np.arange(n), "phase": names, "r": r},
    )
    return schema.describe(ds, "data")


def predictions(plant: Plant) -> xr.Dataset:
    """Parity data of a teacher, 80 frames of 32 atoms."""
    rng, n = plant.rng, 80
    names = np.array(["liquid", "fcc", "vacancy", "bcc", "hcp", "melting"])
    phase = np.repeat(names, 14)[:n]
    energy = rng.uniform(-3.6, -2.8, n)
    force = rng.normal(scale=1.0, size=n * 96)
    atom_phase = np.repeat(phase, 32)
    coordination = np.clip(rng.normal(11.5, 1.2, n * 32).round(), 5, 16)
    ds = xr.Dataset(
        {
            "reference_energy": ("frame", energy),
            "predicted_energy": ("frame", energy + 0.004 * rng.standard_normal(n)),
            "frame_phase": ("frame", phase),
            "reference_force": ("sample", force),
            "predicted_force": ("sample", force + 0.09 * rng.standard_normal(force.size)),
            "atomic_energy": (
                "atom",
                -3.4 - 0.05 * (coordination - 12) + 0.1 * rng.standard_normal(n * 32),
            ),
            "coordination": ("atom", coordination),
            "atom_phase": ("atom", atom_phase),
        },
        {"frame": np.arange(n)},
    )
    return schema.describe(ds, "parity")


@pytest.fixture(scope="session")
def planted() -> Callable[..., dict[str, xr.Dataset]]:
    """Make the Datasets of a whole results folder by kind, with the given effects planted."""

    def make(**effects: float) -> dict[str, xr.Dataset]:
        plant = Plant(**effects)
        return {
            "accuracy": accuracy(plant),
            "history": history(plant),
            "speed": speed(plant),
            "rdf": liquid(plant),
            "data": coverage(plant),
            "parity": predictions(plant),
        }

    return make


@pytest.fixture(scope="session")
def drawn_from(planted) -> dict[str, xr.Dataset]:
    """Name of a figure -> synthetic Dataset that it can be drawn from."""
    from kdlib import claims, figures
    from kdlib.training import losses

    found = planted()
    return {
        "fig1_schematic": figures.schematic_data(),
        "fig2_pareto": results.combine([found["accuracy"], found["speed"]]),
        "fig3_capacity": results.combine([found["accuracy"], found["rdf"]]),
        "fig4_dynamics": found["history"],
        "fig5_cost": found["speed"],
        "table1_schedule": figures.schedule_data(losses.TABLE_1),
        "born_again": found["accuracy"],
        "rdf": found["rdf"],
        "parity": found["parity"],
        "data": found["data"],
        "step_breakdown": found["speed"],
        "claims": claims.audit(found),
        "benchmark": _benchmark(),
        "cost_accuracy": figures.cost_accuracy_data(
            found["accuracy"], found["speed"], linear_ace(), _benchmark()
        ),
        "benchmark_gpu": gpu_benchmark(),
        "crystals": _crystals(),
        "reference": _reference(),
        "robustness": _robustness(found["accuracy"]),
        "distilled": _distilled(),
    }


def _robustness(accuracy: xr.Dataset) -> xr.Dataset:
    """Two sizes under two protocols; under the second one students are a quarter worse."""
    from kdlib.training import robustness

    chosen = accuracy.isel(architecture=[0, 1, -1])
    worse = chosen.copy(deep=True)
    worse.force_rmse.loc[{"role": "student"}] *= 1.25
    return robustness.joined({"as chosen": chosen, "weights as printed": worse})


def _crystals() -> xr.Dataset:
    """Three parabolas; models a few percent off, and more so for the vacancy."""
    from kdlib.md.crystals import QUANTITIES, STRUCTURES

    rng = np.random.default_rng(0)
    roles, names, seeds = ["teacher", "student", "control"], ["16-8-1", "128-40-4"], [0, 1]
    volume = np.linspace(14.5, 18.5, 9)
    lowest = np.array([0.0, 0.09, 0.03])[:, None]
    curve = lowest + 0.02 * (volume - np.array([16.5, 16.9, 16.6])[:, None]) ** 2 - 3.7
    shape = (len(roles), len(names), len(seeds))
    off = 1 + 0.05 * rng.standard_normal((*shape, len(QUANTITIES)))
    value = np.array([4.04, 77, 110, 60, 32, 0.09, 0.03, 0.65])
    run = ("role", "architecture", "seed")
    variables = {
        "energy": ((*run, "structure", "ratio"), curve + 0.01 * rng.random((*shape, 3, 9)),
                   "eV/atom"),
        "reference_energy": (("structure", "ratio"), curve, "eV/atom"),
        "volume": ("ratio", volume, "Angstrom^3/atom"),
        "value": ((*run, "quantity"), value * off, "1"),
        "reference_value": ("quantity", value, "1"),
        "converged_value": ("quantity", value * [1, 1, 0.7, 1.9, 1, 1, 1, 0.8], "1"),
    }  # fmt: skip
    ds = xr.Dataset({name: (dims, data) for name, (dims, data, _) in variables.items()})
    for name, (_, _, unit) in variables.items():
        ds[name].attrs = {"units": unit, "long_name": name}
    ds = ds.assign_coords(
        role=roles, architecture=names, seed=seeds, structure=list(STRUCTURES),
        ratio=volume / 16.5, quantity=list(QUANTITIES),
    )  # fmt: skip
    return _named(ds)


def _named(ds: xr.Dataset) -> xr.Dataset:
    """Dataset whose coordinates say what they are."""
    for name in ds.coords:
        unit = {} if ds[name].dtype.kind in "UO" else {"units": "1"}
        ds[name].attrs = {**unit, "long_name": name}
    return ds


def _reference() -> xr.Dataset:
    """Ten labels, a few hundredths of an eV/Angstrom off; two rounds, each with a smaller error."""
    rng = np.random.default_rng(0)
    rms = np.geomspace(0.1, 4, 10)
    phases = ["fcc", "liquid", "bcc", "hcp", "vacancy"] * 2
    error = np.array([[0.12, 0.30, 0.50, 0.45], [0.11, 0.25, 0, 0.30], [0.105, 0.2, 0, 0]])
    error = np.where(error, error, np.nan)[:, None] * np.exp(rng.normal(0, 0.05, (3, 4, 4)))
    ds = xr.Dataset(
        {
            "force_difference": (("frame", "variant"), 0.02 * rms[:, None] * rng.random((10, 2))),
            "force_rms": ("frame", rms),
            "phase": ("frame", phases),
            "disagreement": (("round", "trajectory"), np.exp(rng.standard_normal((2, 30)))),
            "error": (("training", "member", "evaluated"), error),
        },
        {"frame": range(10), "variant": ["converged", "scf"], "round": [1, 2]},
    )
    for name in ("force_difference", "force_rms", "disagreement", "error"):
        ds[name].attrs = {"units": "eV/Angstrom", "long_name": name.replace("_", " ")}
    ds["phase"].attrs = {"long_name": "phase"}
    return _named(
        ds.assign_coords(
            trajectory=range(30), training=[0, 1, 2], member=range(4),
            evaluated=["test", "compressed test", "round 1", "round 2"],
        )
    )  # fmt: skip


def _distilled() -> xr.Dataset:
    """Student with errors of 0.05 eV/Angstrom, a thousand times faster than its teacher."""
    rng = np.random.default_rng(0)
    force, atomic = rng.normal(0, 1, 600), rng.normal(0, 0.3, 200)
    energy = rng.normal(-3.6, 0.05, 24)
    errors = np.array([[0.2, 0.15, 0.3], [0.1, 0.08, 0.13], [0.06, 0.05, 0.08]])
    ratio = np.linspace(0.9, 1.1, 9)
    well = 2.0 * (ratio - 1) ** 2
    ds = xr.Dataset(
        {
            "reference_energy": ("frame", energy),
            "predicted_energy": ("frame", energy + rng.normal(0, 0.003, 24)),
            "frame_molten": ("frame", np.repeat([0.0, 1.0], 12)),
            "reference_force": ("sample", force),
            "predicted_force": ("sample", force + rng.normal(0, 0.05, 600)),
            "sample_molten": ("sample", np.repeat([0.0, 1.0], 300)),
            "reference_atomic": ("atom", atomic),
            "predicted_atomic": ("atom", atomic + rng.normal(0, 0.05, 200)),
            "round_force_rmse": (("round", "state"), errors),
            "curve": (("model", "structure", "ratio"), np.stack([well, 1.05 * well])[:, None]),
            "energy_change": (("state", "time"), np.cumsum(rng.normal(0, 1e-6, (3, 50)), 1)),
            "survived": ("trajectory", np.where(np.arange(24) < 22, 1.0, 0.4)),
            "md_temperature": ("trajectory", np.linspace(310, 1590, 24)),
            "trajectory_molten": ("trajectory", np.arange(24) % 4 // 3.0),
            "step_time": ("model", np.array([9.0, 0.006])),
            "md_memory": ("model", np.array([2800.0, 5.0])),
        },
        {"round": [1, 2, 3], "state": ["all", "solid", "molten"], "model": ["teacher", "student"],
         "structure": ["Cu"], "ratio": ratio, "time": np.linspace(2, 100, 50)},
        {"target": 0.08},
    )  # fmt: skip
    units = {
        "reference_energy": "eV/atom", "predicted_energy": "eV/atom", "frame_molten": "1",
        "reference_force": "eV/Angstrom", "predicted_force": "eV/Angstrom", "sample_molten": "1",
        "reference_atomic": "eV", "predicted_atomic": "eV", "round_force_rmse": "eV/Angstrom",
        "curve": "eV/atom", "energy_change": "eV/atom", "step_time": "ms/atom/step",
        "survived": "1", "md_temperature": "K", "trajectory_molten": "1", "md_memory": "MB",
    }  # fmt: skip
    for name, unit in units.items():
        ds[name].attrs = {"units": unit, "long_name": name.replace("_", " ")}
    return _named(ds)


def _benchmark() -> xr.Dataset:
    """A teacher and a student against everybody; stock hippynn extrapolated at the largest size."""
    from kdlib.benchmarks.side_by_side.plan import CONTESTANTS, BenchProtocol, empty, record
    from kdlib.benchmarks.side_by_side.table import with_ratios
    from kdlib.hipnn import HipnnConfig

    protocol = BenchProtocol(repeats=3)
    ds = empty([HipnnConfig(128, 40, 4), HipnnConfig(16, 8, 1)], protocol)
    for k, label in enumerate(ds.architecture.values.tolist()):
        for j, name in enumerate(CONTESTANTS):
            where = {"architecture": label, "contestant": name}
            for n in protocol.sizes:
                blocks = n * 50e-6 * 400 / (1 + 6 * j) / (1 + 4 * k) * np.array([0.9, 1, 1.2])
                record(ds, {**where, "n_atoms": n}, np.tile(blocks, (4, 1)), 2, 50)
            ds["memory_per_atom"].loc[where] = 450.0 / (1 + 10 * j) / (1 + k)
            ds["skin"].loc[where] = 1.0
    ds["status"].loc[{"contestant": "stock", "n_atoms": 48000}] = "extrapolated from 4000"
    ds["epoch_time"].loc[{"backend": "hippynn"}] = 3.0
    ds["epoch_time"].loc[{"backend": "fused"}] = 0.2
    time = np.arange(0.0, 10_000, 100)
    energy = 1e-5 * np.random.default_rng(0).standard_normal((2, time.size)).cumsum(axis=1)
    ds = ds.assign_coords(time=time)
    ds["total_energy"] = (("architecture", "time"), energy)
    ds["energy_drift"] = ("architecture", [1e-6, -3e-7])
    return with_ratios(ds)


def linear_ace() -> xr.Dataset:
    """Two sizes with errors and times of the right order, and an embedded-atom potential."""
    from kdlib.benchmarks.linear_ace import AceProtocol, dataset
    from kdlib.benchmarks.linear_ace.plan import ENGINES, EVALUATED
    from kdlib.benchmarks.linear_ace.table import ERRORS

    protocol = AceProtocol(threads=(1, 2))
    record = {}
    for k, size in enumerate(protocol.sizes):
        force = dict(
            zip(EVALUATED, (0.060 - 0.004 * k, 0.056 - 0.003 * k, 0.11, 0.05), strict=True)
        )
        times = [
            {"engine": engine, "n_atoms": n, "threads": threads, "status": "measured",
             "seconds": [n * 50e-6 * cost] * 3, "processor": [n * 50e-6 * cost] * 3}
            for engine, cost in zip(ENGINES, (60 * 3**k, 20 * 3**k), strict=True)
            for n in protocol.n_atoms
            for threads in ((1, 2) if engine == "jax" else (1,))
        ]  # fmt: skip
        record[size.label] = {
            "fit": {"n_functions": 116 + 267 * k, "n_parameters": 131 + 267 * k, "fit_time": 60.0,
                    "fit_processor_time": 60.0, "noise_energy": 0.05, "noise_force": 0.07},
            "selection": [1.9, 1.8, 1.7, 1.75], "chosen": 2, "times": times,
            "errors": {part: dict.fromkeys(ERRORS, error) for part, error in force.items()},
        }  # fmt: skip
    classical = xr.Dataset(
        {"eam_force_rmse": ("split", [0.5, 0.5, 0.9, 0.4])}, {"split": list(EVALUATED)}
    )
    return dataset(record, protocol, classical)


def gpu_record() -> dict:
    """Record of a GPU: a step takes 1 us, or the teacher's 7, and stock hippynn's 50 times that."""
    md = {"builds": 12, "energy_change": 1e-6, "peak_bytes_per_atom": 2e3}
    trained = {"seconds_per_epoch": 0.1, "peak_bytes": 5e8}
    record: dict = {
        "device": "Some GPU", "torch": "2.11.0", "protocol": {"batch_size": 64},
        "provenance": {"created": "2026-11-26T12:00:00+00:00", "kdlib_version": "0.1.0"},
    }  # fmt: skip
    for slower, label in ((1, "16-8-1"), (7, "128-40-4")):
        for n in (500, 4000):
            time = slower / n
            record[f"md {label} {n}"] = md | {"n_atoms": n, "us_per_atom_step": time}
            record[f"md {label} {n} seconds"] = 1.0
        layers = {"us_per_atom": 20 * slower / 500, "peak_bytes_per_atom": 4e4}
        parts = {"total": 50, "neighbor_list": 5, "model": 40, "integrator": 5}
        stock = {part: share * slower / 500 for part, share in parts.items()}
        record[f"layers {label} 500"] = layers
        record[f"stock {label} 500"] = {"us_per_atom_step": stock}
        record[f"training {label}"] = {
            name: trained | {"ms_per_step": time * slower}
            for name, time in (("fused", 1.5), ("hippynn", 12.0))
        }
        record[f"picosecond {label}"] = {"n_atoms": 4000, "seconds": 0.5 * slower}
        record[f"profile {label} 4000"] = {
            "step": {"gather_forces": 2.0, "sum_environment": 0.5, "gemm": 1.0},
            "build": {"list_neighbors": 1.25},
        }
    return record


def gpu_trials() -> dict:
    """Record of the same device with the largest runs: the teacher's had no second one."""
    run = {"peak_bytes_per_atom": 1e3, "us_per_atom_step": 0.01}
    sizes = {"16-8-1": (10_000_000, 75_000_000), "128-40-4": (10_000_000,)}
    return {
        f"largest {label}": {"runs": [run | {"n_atoms": n} for n in found]}
        for label, found in sizes.items()
    }


def gpu_benchmark() -> xr.Dataset:
    """The result of both records."""
    from kdlib.benchmarks.side_by_side import gpu_table

    return gpu_table.dataset(gpu_record(), gpu_trials())
