"""NVT by LAMMPS: the same liquid as ASE's, and a configuration that goes on where it stopped."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from kdlib.errors import InputError
from kdlib.geometry import rdf
from kdlib.md import dynamics, structure
from kdlib.md.dynamics import DynamicsError, MeltProtocol, kinetic_temperature, thermalize
from kdlib.md.lammps import box, driver
from kdlib.md.liquid import starting_liquid
from kdlib.md.structure import StructureProtocol

try:
    box.start().close()
except InputError as reason:
    pytest.skip(str(reason), allow_module_level=True)


def crystal():
    """Warm aluminium, 32 atoms."""
    atoms = bulk("Al", a=4.05, cubic=True) * (2, 2, 2)
    thermalize(atoms, 600.0, np.random.default_rng(0))
    atoms.calc = EMT()
    return atoms


def test_liquid_of_lammps_is_that_of_ase(classical):
    """From one start both have one g(r), within the noise of such runs; at 2500 K it is another."""
    melt = MeltProtocol(melt_steps=150, quench_steps=100, equilibration_steps=50)
    start = starting_liquid(2, melt)

    def run(engine: str, temperature: float = 1200.0):
        protocol = StructureProtocol(
            temperature=temperature, equilibration_steps=100, n_steps=800, sample_every=10,
            r_max=6.0, n_bins=60, engine=engine,
        )  # fmt: skip
        return structure.liquid_structure(classical, start, protocol)

    ase, lammps, hot = run("ase"), run("lammps"), run("lammps", 2500.0)
    floor = rdf.noise_floor(list(ase.g_piece), 4, r_max=6.0)
    assert rdf.rdf_error(lammps.g, ase.g, r_max=6.0) < 2 * floor
    assert rdf.rdf_error(hot.g, ase.g, r_max=6.0) > 2 * floor
    assert float(lammps.temperature) == pytest.approx(1200, rel=0.03)
    assert bool(lammps.is_liquid)


def test_run_goes_on_where_it_stopped():
    """Two runs sample what one does; positions are unwrapped, momenta those of the last step."""
    # a thermostat of infinite inertia: its state is not handed from run to run
    slow = {"sample_every": 5, "relaxation": 1e9}
    whole, halves = crystal(), crystal()
    run = driver.nvt(whole, 600.0, 20, **slow)
    for _ in range(2):
        part = driver.nvt(halves, 600.0, 10, **slow)
    assert run.time.values.tolist() == [10.0, 20.0, 30.0, 40.0]
    np.testing.assert_allclose(part.positions[-1], run.positions[-1], atol=1e-9)
    np.testing.assert_allclose(halves.positions, run.positions[-1], atol=1e-9)
    np.testing.assert_allclose(halves.get_momenta(), whole.get_momenta(), atol=1e-9)
    msd = dynamics.mean_squared_displacement(run)
    assert float(msd[1]) > 0


def test_atoms_at_rest_get_velocities():
    """As in ASE's run, of the temperature and the seed."""
    atoms = crystal()
    atoms.set_momenta(np.zeros((32, 3)))
    driver.nvt(atoms, 600.0, 1, seed=3, sample_every=1)
    assert kinetic_temperature(atoms) == pytest.approx(600, rel=0.1)


def test_explosion_names_the_step():
    """A run hotter than its limit ends, as under ASE."""
    with pytest.raises(DynamicsError, match="step 5: the temperature is"):
        driver.nvt(crystal(), 600.0, 20, sample_every=5, max_temperature=100.0)


def test_unknown_engine_is_refused():
    """A protocol knows who can run it."""
    with pytest.raises(InputError, match="engine is 'gromacs', must be one of"):
        StructureProtocol(engine="gromacs")
