"""Molecular dynamics on the fused kernels conserves the energy."""

import pytest

from kdlib.benchmarks.side_by_side import md
from kdlib.hipnn import catalog
from kdlib.md.dynamics import MeltProtocol
from kdlib.md.liquid import starting_liquid


@pytest.mark.slow
def test_energy_of_a_liquid_does_not_drift():
    """108 atoms at 1200 K in float32: below 1e-5 eV/atom/ps over 10 ps, at a real temperature."""
    stages = dict.fromkeys(("melt_steps", "quench_steps", "equilibration_steps"), 100)
    start = starting_liquid(3, MeltProtocol(temperature=1200.0, **stages))
    job = md.NveJob(catalog.located("al-16-8-1"), start, 1000, 10_000, 1200.0, 1.0)
    ds = md.nve(job)
    assert float(ds.temperature.mean()) == pytest.approx(1200, rel=0.15)
    assert abs(float(ds.energy_drift)) < 1e-5
    assert float(ds.energy_change.std()) < 1e-4
    assert float(ds.potential_energy.std()) > 1e-3
