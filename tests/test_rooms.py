"""The public names of the package, and the cost of importing its rooms."""

import json
import subprocess
import sys

import kdlib

LEAN = (
    "kdlib",
    "kdlib.claims",
    "kdlib.figures",
    "kdlib.datasets",
    "kdlib.results",
    "kdlib.geometry",
)


def test_rooms_of_data_and_figures_do_not_load_torch():
    """A fresh process that reads, checks or draws results starts without torch and hippynn."""
    code = f"import json, sys, {', '.join(LEAN)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert set(LEAN) <= set(loaded)
    assert {"torch", "hippynn", "vesin"}.isdisjoint(loaded)


def test_a_model_is_reached_from_the_top():
    """`kdlib.load`, `kdlib.HipnnConfig` and `kdlib.Potential` are those of `kdlib.hipnn`."""
    from kdlib import hipnn

    for name in kdlib.__all__:
        assert getattr(kdlib, name) is getattr(hipnn, name)


def test_the_hall_holds_rooms_and_public_names():
    """`dir(kdlib)` offers what users need, and no module that the package itself imports."""
    offered = set(dir(kdlib))
    assert {"datasets", "training", "claims", "figures", "results", "load"} <= offered
    assert offered.isdisjoint({"import_module", "Path", "TYPE_CHECKING", "version"})
