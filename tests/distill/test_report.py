"""The report on a student is saved part by part."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import xarray as xr

from kdlib import distill
from kdlib.distill import measures
from kdlib.distill.report import MEASURED, potentials, stable_range, states

# The tiny student has seen cells of eight atoms only, and its MD says so.
pytestmark = pytest.mark.filterwarnings("ignore:outside the training set")

SHORT = distill.Measures(
    n_atoms=32, nve_ps=0.05, npt_ps=0.05, rest_steps=10, timed_steps=2, timed_atoms=32
)


class Stopped(Exception):
    """What ends a report in the middle."""


def test_a_stopped_report_goes_on(tiny, finished, monkeypatch):
    """An interrupted report reuses its measurements and equals an uninterrupted one."""
    folder, outcome = finished
    asked = []

    def costs(*args):
        asked.append("costs")
        return made(*args)

    def stopped(*args):
        raise Stopped

    made = measures.costs
    monkeypatch.setattr(measures, "costs", stopped)
    with pytest.raises(Stopped):
        distill.report(tiny, outcome, folder, SHORT)
    monkeypatch.setattr(measures, "costs", costs)
    monkeypatch.setattr(measures, "densities", stopped)
    monkeypatch.setattr(measures, "conservation", stopped)
    ds = distill.report(tiny, outcome, folder, SHORT)
    assert asked == ["costs"]
    assert {"density", "energy_drift", "step_time"} <= set(ds)
    assert ds.attrs["timed_threads"] >= 1
    assert ds.identical(distill.report(tiny, outcome, folder, SHORT))
    assert asked == ["costs"]


def test_other_wishes_are_measured_anew(tiny, finished, monkeypatch):
    """A changed setting repeats the measurements that it affects, and no others."""
    folder, outcome = finished
    distill.report(tiny, outcome, folder, SHORT)

    def again(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(measures, "densities", again)
    distill.report(tiny, outcome, folder, replace(SHORT, label_epochs=7))
    with pytest.raises(AssertionError, match="measured again"):
        distill.report(tiny, outcome, folder, replace(SHORT, npt_ps=0.06))


def test_what_an_older_edition_measured_is_measured_anew(tiny, finished, monkeypatch):
    """A measurement of an older version is repeated."""
    folder, outcome = finished
    distill.report(tiny, outcome, folder, SHORT)
    module = import_module("kdlib.distill.report")  # the package's attribute is the function

    def again(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "survival", again)
    distill.report(tiny, outcome, folder, SHORT)
    monkeypatch.setitem(module.EDITION, "survival", module.EDITION["survival"] + 1)
    with pytest.raises(AssertionError, match="measured again"):
        distill.report(tiny, outcome, folder, SHORT)


def test_parts_are_result_files(tiny, finished):
    """With units and provenance, as every file that figures are drawn from."""
    folder, outcome = finished
    whole = distill.report(tiny, outcome, folder, SHORT)
    parts = [path.stem for path in sorted((folder / MEASURED).glob("*.nc"))]
    assert parts == ["conservation", "costs", "curves", "densities", "parity", "rounds", "survival"]
    assert not set(whole.attrs) & {"key", "created", "content_sha256"}


MODELS = ["student", "teacher"]


def _runs(temperature, survived, molten):
    return xr.Dataset(
        {
            "md_temperature": ("trajectory", np.array(temperature, dtype=float)),
            "survived": ("trajectory", np.array(survived, dtype=float)),
            "trajectory_molten": ("trajectory", np.array(molten, dtype=float)),
        }
    )


@pytest.mark.parametrize(
    ("survived", "said"),
    [
        ([1, 1, 1, 0.2], "300 to 900"),
        ([1, 0.5, 1, 1], "300 to 300, not at 600"),
        ([0, 1, 1, 1], "none"),
    ],
)
def test_stable_up_to_the_first_failure(survived, said):
    """A run that lives hotter than one that failed says nothing; melts are not solids."""
    ds = _runs([300, 600, 900, 1500], survived, [0, 0, 0, 1])
    assert stable_range(ds, "solid") == said
    assert stable_range(ds.isel(trajectory=slice(3)), "molten") == "no run"


def test_ratios_are_students_over_teachers():
    """Whatever the order of the models; a cell of 8 times the volume has twice the length."""
    about = {"long_name": "density at 300 K"}
    ds = xr.Dataset(
        {
            "relaxed_volume": (("model", "structure"), [[64.0], [8.0]]),
            "density": ("model", [1.0, np.nan], about),
            "step_time": ("model", [0.01, 30.0]),
            "md_memory": ("model", [5.0, 2500.0]),
        },
        {"model": MODELS, "structure": ["Al"]},
    )
    table = potentials(ds)
    assert table.loc["Al, relaxed: volume (A^3/atom)"].tolist() == ["8", "64", "8"]
    assert table.loc["Al, relaxed: length (A)"].tolist() == ["2", "4", "2"]
    assert table.loc["density at 300 K (g/cm^3)"].tolist() == ["–", "1", "–"]
    assert table.loc["time per MD step (us/atom)"].tolist() == ["30,000", "10", "0.00033333"]
    assert table.loc["memory of MD (MB)", "student / teacher"] == "0.002"


def test_states_are_told_apart():
    """Errors of the last round, in thousandths; a melt that never ran has a dash."""
    ds = _runs([400, 1200], [1, 1], [0, 1]).assign(
        {
            f"round_{name}_rmse": (("round", "state"), [[9, 9, 9], [0.3, 0.001, 0.02]])
            for name in ("force", "energy", "stress")
        }
    )
    ds["energy_drift"] = ("state", [np.nan, -2e-7, np.nan])
    ds["stable"] = ("state", [np.nan, 100.0, 0.0])
    table = states(ds.assign_coords(round=[1, 2], state=["all", "solid", "molten"]))
    assert table.loc["force RMSE (eV/A)"].tolist() == ["0.001", "0.02"]
    assert table.loc["energy RMSE (meV/atom)"].tolist() == ["1", "20"]
    assert table.loc["drift of NVE (eV/atom/ps)"].tolist() == ["-2e-07", "–"]
    assert table.loc["stable NVE (ps)"].tolist() == ["100", "0"]
    assert table.loc["stable (K)"].tolist() == ["400 to 400", "1200 to 1200"]
