"""The report on a student: kept part by part."""

from dataclasses import replace
from importlib import import_module

import pytest

from kdlib import distill
from kdlib.distill import measures
from kdlib.distill.report import MEASURED

pytestmark = pytest.mark.slow

SHORT = distill.Measures(
    n_atoms=32, nve_ps=0.05, npt_ps=0.05, rest_steps=10, timed_steps=2, timed_atoms=32
)


class Stopped(Exception):
    """What ends a report in the middle."""


def test_a_stopped_report_goes_on(tiny, finished, monkeypatch):
    """What was measured before the stop is read, and the whole is what an unbroken one gives."""
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
    """A change of what is asked for counts; what concerns one part leaves the others alone."""
    folder, outcome = finished
    distill.report(tiny, outcome, folder, SHORT)

    def again(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(measures, "densities", again)
    distill.report(tiny, outcome, folder, replace(SHORT, label_epochs=7))
    with pytest.raises(AssertionError, match="measured again"):
        distill.report(tiny, outcome, folder, replace(SHORT, npt_ps=0.06))


def test_what_an_older_edition_measured_is_measured_anew(tiny, finished, monkeypatch):
    """A measurement that has come to hold something else is not read from before."""
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
