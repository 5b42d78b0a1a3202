"""The `kdlib` command; `python -m kdlib` is the same."""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path

import kdlib
from kdlib import files, progress
from kdlib.errors import InputError, Unfinished
from kdlib.files import named

FAILED = 1
"""Exit code when the work broke off: a notebook stopped with an error, or a worker was killed."""
BAD_INPUT = 2
"""Exit code when the user has to change something; argparse uses it, too."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        with progress.reader_may_leave():
            options = _parser().parse_args(arguments)
            progress.show_lines()
            return options.command(options)
    except InputError as error:
        sys.stderr.write(f"kdlib: {' '.join(str(error).split())}\n")
        return BAD_INPUT
    except Unfinished as error:
        sys.stderr.write(f"kdlib: {' '.join(str(error).split())}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("kdlib: interrupted; rerun the same command to resume\n")
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Execute the notebooks of a profile that are not up to date."""
    from kdlib import pipeline, results
    from kdlib.pipeline import profile

    chosen = profile.load(options.profile)
    default = results.project_root() / "results" / chosen.name
    folder = options.results.resolve() if options.results else default
    outcomes = pipeline.run(
        chosen,
        folder,
        notebooks=options.notebooks,
        only=options.only,
        force=options.force,
        workers=options.workers,
    )
    ran = sum(not outcome.skipped for outcome in outcomes)
    progress.line(f"{ran} notebooks run, {len(outcomes) - ran} up to date: {folder}")
    return 0


def figures(options: argparse.Namespace) -> int:
    """Draw all figures again from the NetCDF files beside them."""
    from kdlib import figures, results

    root = results.project_root()
    folder = root / "results" / options.profile if options.profile else root
    for path in figures.redraw(folder, options.only):
        sys.stdout.write(f"{path}\n")
    return 0


def manifests(options: argparse.Namespace) -> int:
    """Write what other programs read of the shipped audit."""
    from kdlib import results
    from kdlib.claims import manifests

    for path in manifests.write(results.project_root()):
        sys.stdout.write(f"{path}\n")
    return 0


def book(options: argparse.Namespace) -> int:
    """Turn the executed notebooks of a run into web pages."""
    from kdlib import results
    from kdlib.pipeline import book

    root = results.project_root()
    folder = options.results or root / "results" / options.profile
    pages = book.write(folder, options.out or root / "docs")
    size = sum(path.stat().st_size for path in pages[0].parent.rglob("*") if path.is_file())
    sys.stdout.write(f"{len(pages)} pages, {size / 1e6:.1f} MB: {pages[0]}\n")
    return 0


def bench(options: argparse.Namespace) -> int:
    """Time stock hippynn, both backends and LAMMPS side by side."""
    if options.cells and not options.gpu:
        raise InputError("bench: --cells goes with --gpu")
    if options.ace and options.gpu:
        raise InputError("bench: --ace and --gpu are two benchmarks, give one")
    name, measure = "benchmark.nc", _bench_cpu
    if options.gpu or options.ace:
        name, measure = ("ace.nc", _bench_ace) if options.ace else ("benchmark_gpu.nc", _bench_gpu)
    out = (options.out or Path(name)).resolve()
    if os.path.isdir(out):
        raise InputError(f"bench: {out} is a folder, name a file in it")
    with files.locked(out.parent):
        return measure(options, out)


def _bench_cpu(options: argparse.Namespace, out: Path) -> int:
    """Time everything on this machine's cores."""
    from dataclasses import replace

    from kdlib import figures
    from kdlib.benchmarks import side_by_side

    names = {"sizes": options.sizes, "n_steps": options.steps, "repeats": options.repeats}
    chosen = {name: value for name, value in names.items() if value}
    chosen |= {"sizes": tuple(options.sizes)} if options.sizes else {}
    protocol = replace(side_by_side.QUICK if options.quick else side_by_side.FULL, **chosen)
    ds = side_by_side.run(out, protocol, options.lammps or "")
    figures.save(figures.benchmark(ds), ds, out.parent, "benchmark")
    sys.stdout.write(side_by_side.table(ds))
    return 0


def _bench_gpu(options: argparse.Namespace, out: Path) -> int:
    """Time our kernels and hippynn's on a GPU, or in Triton's interpreter if that is asked for."""
    from dataclasses import replace

    from kdlib import figures, hipnn, results
    from kdlib.benchmarks.side_by_side import IN_MD, gpu, gpu_table
    from kdlib.hipnn import device

    where = "cpu" if device.interpreted() else "cuda"
    protocol = gpu.TINY if options.quick else gpu.GpuProtocol()
    protocol = replace(protocol, cells=str(options.cells or ""))
    if options.quick:
        config = hipnn.HipnnConfig(4, 3, 1)
        trained = {config.label: hipnn.Potential(hipnn.build(config))}
    else:
        trained = {label: hipnn.load(f"al-{label}") for label in IN_MD}
    ds = gpu_table.dataset(gpu.run(out.with_suffix(".json"), trained, protocol, where))
    results.save(ds, out, **ds.attrs)
    figures.save(figures.benchmark_gpu(ds), ds, out.parent, "benchmark_gpu")
    sys.stdout.write(gpu_table.table(ds))
    return 0


def _bench_ace(options: argparse.Namespace, out: Path) -> int:
    """Fit and time a linear ACE on the split of the folder that the result goes to."""
    from dataclasses import replace

    from kdlib import datasets
    from kdlib.benchmarks import linear_ace

    names = {"n_atoms": options.sizes, "n_steps": options.steps, "repeats": options.repeats}
    chosen = {name: value for name, value in names.items() if value}
    chosen |= {"n_atoms": tuple(options.sizes)} if options.sizes else {}
    protocol = replace(linear_ace.QUICK if options.quick else linear_ace.FULL, **chosen)
    frames = datasets.load(options.dataset)
    extremes = datasets.kept_extremes(frames, out.parent / "split.json")
    ds = linear_ace.run(out, frames, datasets.split(frames, extremes=extremes), protocol)
    sys.stdout.write(linear_ace.table(ds))
    return 0


def lammps(options: argparse.Namespace) -> int:
    """Compile the pair style for LAMMPS, and show how an input file uses it."""
    from kdlib.md.lammps import pairstyle

    plugin = pairstyle.build(options.lammps or "")
    for line in pairstyle.commands(plugin):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write("pair_coeff * * FOLDER_OF_THE_MODEL Al  # an element for each atom type\n")
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Download a dataset that is too large to come with the package."""
    from kdlib import datasets

    sys.stdout.write(f"{datasets.fetch(options.dataset)}\n")
    return 0


def distill(options: argparse.Namespace) -> int:
    """Distill any teacher into a student for one material."""
    from dataclasses import fields

    from kdlib import distill

    given = {f.name: getattr(options, f.name, None) for f in fields(distill.Plan)}
    plan = distill.Plan(**{name: value for name, value in given.items() if value is not None})
    folder = options.out.resolve()
    with files.locked(folder):
        outcome = distill.run(plan, folder)
        distill.deliver(plan, outcome, folder)
        sys.stdout.write(distill.summary(plan, outcome, folder))
        if not options.no_report:
            measured = {"rdf_ps": options.rdf_ps, "label_seeds": options.label_seeds}
            sys.stdout.write(f"the report is in {distill.write_report(plan, folder, measured)}\n")
    return 0


def info(options: argparse.Namespace) -> int:
    """Show versions, threads and profiles, or what a dataset or a model holds."""
    from kdlib import datasets
    from kdlib.hipnn import catalog
    from kdlib.pipeline import profile

    if options.name:
        own = named(options.name).exists()  # goes before a name, as everywhere
        known = not own and options.name in catalog.names()
        sys.stdout.write(f"{(catalog.card if known else datasets.card)(options.name)}\n")
        return 0
    lines = [("kdlib", f"{kdlib.__version__} in {Path(kdlib.__file__).parent}")]
    lines += [("python", sys.version.split()[0])]
    lines += [(name, version(name)) for name in ("torch", "hippynn", "ase", "numba", "vesin")]
    lines += [("device", _device()), ("threads", _threads())]
    lines += [("datasets", ", ".join(datasets.names())), ("models", ", ".join(catalog.names()))]
    lines += [(f"profile {name}", profile.load(name).description) for name in profile.available()]
    width = max(len(name) for name, _ in lines)
    sys.stdout.writelines(f"{name:<{width}}  {text}\n" for name, text in lines)
    return 0


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _threads() -> str:
    from kdlib import processes

    return f"{processes.threads()} of {processes.cores()} cores"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdlib",
        description="Teacher-student training of interatomic potentials: data to figures.",
    )
    parser.add_argument("--version", action="version", version=f"kdlib {kdlib.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser("run", help="execute the notebooks that are not up to date")
    command.set_defaults(command=run)
    command.add_argument("--profile", default="quick", help="name, or a .yaml file (%(default)s)")
    command.add_argument("--only", default="", metavar="05", help="only names that start with this")
    command.add_argument("--workers", type=_positive, metavar="N", help="training processes")
    command.add_argument("--force", action="store_true", help="also run what is up to date")
    command.add_argument("--results", type=named, metavar="DIR", help="instead of results/PROFILE")
    command.add_argument("--notebooks", type=named, metavar="DIR", help="your own notebooks")

    command = commands.add_parser("figures", help="draw all figures again from their data")
    command.set_defaults(command=figures)
    command.add_argument("--profile", default="", help="redraw results/PROFILE instead of figures/")
    command.add_argument("--only", default="", metavar="NAME", help="one figure, e.g. fig2_pareto")

    words = "repro.yaml and codemeta.json of a checkout, from its audit"
    command = commands.add_parser("manifests", help=words)
    command.set_defaults(command=manifests)

    command = commands.add_parser("book", help="executed notebooks as web pages, to read offline")
    command.set_defaults(command=book)
    command.add_argument("--profile", default="quick", help="of results/PROFILE (%(default)s)")
    command.add_argument("--results", type=named, metavar="DIR", help="instead of results/PROFILE")
    command.add_argument("--out", type=named, metavar="DIR", help="folder of the pages (docs)")

    command = commands.add_parser("bench", help="MD and training against stock hippynn and LAMMPS")
    command.set_defaults(command=bench)
    command.add_argument("--sizes", type=_positive, nargs="+", metavar="N", help="atoms, n x 500")
    command.add_argument("--steps", type=_positive, metavar="N", help="steps of a timed block")
    command.add_argument("--repeats", type=_positive, metavar="N", help="timed blocks")
    command.add_argument("--out", type=named, help="file (benchmark.nc, ...)")
    command.add_argument("--lammps", type=named, metavar="LMP", help="executable of LAMMPS")
    command.add_argument("--quick", action="store_true", help="a trial: 500 atoms, few steps")
    command.add_argument("--gpu", action="store_true", help="on a GPU: ours against hippynn's")
    command.add_argument("--ace", action="store_true", help="a linear ACE: accuracy and time")
    command.add_argument(
        "--dataset", default="al-pbe", help="with --ace: name or file (%(default)s)"
    )
    command.add_argument("--cells", metavar="FILE", help="with --gpu: labeled cells to train on")

    command = commands.add_parser("fetch", help="download a dataset")
    command.set_defaults(command=fetch)
    command.add_argument("dataset", help="e.g. ani-al")

    _add_distill(commands)

    command = commands.add_parser("lammps", help="pair_style hipnn: models in LAMMPS itself")
    parts = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = parts.add_parser("build", help="compile the pair style for this machine")
    command.set_defaults(command=lammps)
    words = "another LAMMPS: the folder above its bin, or its program"
    command.add_argument("--lammps", type=named, metavar="PREFIX", help=words)

    command = commands.add_parser(
        "info", help="versions and threads, or what a dataset or a model holds"
    )
    command.set_defaults(command=info)
    command.add_argument("name", nargs="?", default="", help="e.g. al-pbe, al-16-8-1, or a file")
    return parser


def _add_distill(commands: argparse._SubParsersAction) -> None:
    """Options of `kdlib distill`, which are fields of its plan."""
    words = "distill any teacher into a student for your material"
    command = commands.add_parser("distill", help=words, description=words)
    command.set_defaults(command=distill)
    add = command.add_argument
    add("--teacher", required=True, metavar="T", help="e.g. sevennet:7net-l3i5, chgnet, kdlib:DIR")
    add("--structure", required=True, nargs="+", dest="structures", metavar="FILE",
        help="crystals that ASE reads, or elements")  # fmt: skip
    add("--temperature", type=float, nargs=2, dest="temperatures", metavar="K", help="range")
    add("--volume", type=float, nargs=2, dest="volumes", metavar="V", help="range; 1: as given")
    add("--size", help="small, medium, large, or like 32-16-2")
    add("--labels", help="atomic energies: none, constant or fading")
    add("--data", nargs="+", metavar="FILE", help="your own labeled frames (DFT) to mix in")
    for label in ("energy", "forces", "stress", "virial"):
        add(f"--{label}-key", metavar="NAME", help=f"name of the {label} in these files")
    add("--data-weight", type=float, metavar="W", help="their weight in the loss (default 1)")
    add("--target-force-rmse", type=float, metavar="E", help="target on fresh frames, eV/Angstrom")
    add("--max-frames", type=_positive, metavar="N", help="labeled frames at most")
    add("--max-minutes", type=float, metavar="M", help="minutes at most")
    add("--seed", type=int, help="seed for everything random")
    add("--rdf-ps", type=float, default=0.0, metavar="PS",
        help="for the report: compare g(r) with a run of the teacher of this length")  # fmt: skip
    add("--label-seeds", type=int, default=0, metavar="N",
        help="for the report: compare uses of the atomic energies, N trainings each")  # fmt: skip
    add("--no-report", action="store_true", help="write no report")
    add("--out", type=named, required=True, metavar="DIR", help="folder for all output")


def _positive(text: str) -> int:
    """Read a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
