"""Dynamics on a device: the trajectories of ASE, tables that are rebuilt in time, a thermostat."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet

from kdlib import units
from kdlib.errors import DynamicsError, InputError
from kdlib.hipnn import Potential

TIMESTEP = 3.0


def _cell() -> Atoms:
    """32 atoms in a triclinic cell, fast enough to leave their lists within some steps."""
    atoms = bulk("Al", a=4.1, cubic=True) * (2, 2, 2)
    atoms.rattle(0.2, seed=0)
    strain = np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.05], [0.0, 0.0, 1.0]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.set_velocities(np.random.default_rng(0).normal(scale=0.06, size=(32, 3)))
    return atoms


@pytest.fixture
def short(model):
    """Model of a range below half the cell."""
    return model(n_features=5, n_sensitivities=3, cutoff=3.6, soft_max=3.4, species=("Al",))


def _dynamics(module, atoms, where, **options):
    from kdlib.hipnn.device.dynamics import DeviceDynamics

    return DeviceDynamics(module, atoms, TIMESTEP, skin=0.3, device=where, **options)


def test_trajectory_is_that_of_ase(short, device):
    """Velocity Verlet with several rebuilds ends where ASE's does with the CPU's forces."""
    atoms, found = _cell(), _cell()
    dynamics = _dynamics(short, found, device)
    ds = dynamics.run(14, 7)
    dynamics.store(found)
    atoms.calc = Potential(short).calculator(device="cpu")
    VelocityVerlet(atoms, TIMESTEP * units.FS).run(14)
    assert dynamics.n_builds > 2
    assert abs(atoms.positions - _cell().positions).max() > 0.3
    np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-10)
    np.testing.assert_allclose(found.get_velocities(), atoms.get_velocities(), atol=1e-10)
    assert float(ds.potential_energy[-1]) == pytest.approx(atoms.get_potential_energy() / 32)
    results = dynamics.results()
    np.testing.assert_allclose(results["forces"], atoms.get_forces(), atol=1e-10)
    np.testing.assert_allclose(results["energies"], atoms.get_potential_energies(), atol=1e-10)


def test_energies_of_free_atoms_are_not_rounded(model, device):
    """Samples of a float32 model hold all-electron E0 to the last digit of float64."""
    module = model("float32", n_features=5, n_sensitivities=3, cutoff=3.6, soft_max=3.4)
    energies = []
    for e0 in (0.0, -25560.123456789):
        module.e0.fill_(e0)
        dynamics = _dynamics(module, _cell(), device)
        found = float(dynamics.run(2).potential_energy[-1]), dynamics.results()["energies"]
        energies.append([part - e0 for part in found])
    np.testing.assert_allclose(energies[1][0], energies[0][0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(energies[1][1], energies[0][1], rtol=0, atol=1e-9)


def test_temperature_leaves_drift_out(short, device):
    """A common velocity is in the kinetic energy, not in the temperature, as on the CPU."""
    resting = _cell()
    atoms, step = _cell(), _dynamics(short, _cell(), device).run(1)
    atoms.set_velocities(resting.get_velocities() + [0.02, 0.0, 0.0])
    ds = _dynamics(short, atoms, device).run(1)
    assert float(ds.temperature[0]) == pytest.approx(float(step.temperature[0]), rel=1e-9)
    assert float(ds.kinetic_energy[0]) > 1.01 * float(step.kinetic_energy[0])


def test_constraints_are_refused_by_name(short, device):
    """The kernels move every atom, so that none can be held."""
    atoms = _cell()
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(InputError, match="device dynamics: FixAtoms cannot hold atoms there"):
        _dynamics(short, atoms, device)


def test_energy_is_conserved(short, device):
    """The total energy moves by less than a hundredth of what potential and kinetic exchange."""
    ds = _dynamics(short, _cell(), device).run(12, 2)
    assert np.ptp(ds.total_energy.values) < 1e-2 * np.ptp(ds.potential_energy.values)


def test_steps_queued_behind_a_stop_do_nothing(short, device):
    """Steps that were launched after an atom left its list change no bit of the trajectory."""
    ends = []
    for life in (1, 60):
        atoms = _cell()
        dynamics = _dynamics(short, atoms, device)
        dynamics._life = life  # looks after every step, or long after the list is void
        dynamics.run(12)
        dynamics.store(atoms)
        ends.append((atoms.positions, atoms.get_velocities()))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)


def test_thermostat_depends_on_its_seed_alone(short, device):
    """The same seed gives the same trajectory, another one a different one."""
    from kdlib.hipnn.device.dynamics import Langevin

    ends = []
    for seed in (1, 1, 2):
        atoms = _cell()
        dynamics = _dynamics(short, atoms, device, thermostat=Langevin(900.0, 0.05, seed))
        dynamics.run(4)
        dynamics.store(atoms)
        ends.append(atoms.positions)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert abs(ends[0] - ends[2]).max() > 1e-3


def test_noise_is_normal(short, device):
    """With a friction that forgets everything, velocities have the width of the temperature."""
    from kdlib.hipnn.device.dynamics import Langevin

    atoms = _cell() * (2, 2, 2)
    dynamics = _dynamics(short, atoms, device, thermostat=Langevin(900.0, 100.0, 0))
    dynamics.run(1)
    dynamics.store(atoms)
    v = atoms.get_velocities() / np.sqrt(units.KB * 900.0 / atoms.get_masses()[:, None])
    n = v.size
    assert abs(v.mean()) < 4 / np.sqrt(n)
    assert abs(v.var() - 1) < 4 * np.sqrt(2 / n)


@pytest.mark.cuda
def test_thermostat_holds_its_temperature(short):
    """Over 20 ps the mean temperature is the bath's, to four standard errors."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from kdlib.hipnn.device.dynamics import Langevin

    atoms = _cell() * (4, 4, 4)
    bath = Langevin(900.0, 0.05, 0)
    ds = _dynamics(short, atoms, torch.device("cuda"), thermostat=bath).run(7000, 35)
    temperature = ds.temperature.values[20:]
    error = temperature.std() / np.sqrt(len(temperature) / 2)
    assert abs(temperature.mean() - 900.0) < max(4 * error, 3.0)


def test_small_cells_are_refused(short, device):
    """A cell narrower than twice the range has no minimum images; the error says what to do."""
    with pytest.raises(InputError, match="repeat it"):
        _dynamics(short, bulk("Al", a=4.1, cubic=True), device)


def test_explosions_end_a_run(short, device):
    """A run hotter than its limit stops with the step and the temperature."""
    with pytest.raises(DynamicsError, match="step 1: the temperature"):
        _dynamics(short, _cell(), device).run(2, 1, max_temperature=10.0)
