"""The report as an executed notebook."""

import shutil
from dataclasses import asdict
from pathlib import Path

from kdlib import pipeline
from kdlib.pipeline import notebook
from kdlib.distill.plan import Plan

NOTEBOOK = "12_distill_your_own"
REPORT = "report.ipynb"


def write_report(plan: Plan, folder: str | Path, measured: dict | None = None) -> Path:
    """Execute the notebook of a finished distillation, which measures the student.

    Parameters
    ----------
    plan
        What was done.
    folder
        Of the distillation; figures and data of the report go to its ``report``.
    measured
        Fields of :class:`kdlib.distill.Measures` that are not to have their defaults.

    Returns
    -------
    Path
        The executed notebook.

    Raises
    ------
    kdlib.pipeline.StepFailed
        Names the notebook that holds the traceback.
    """
    home = Path(folder).resolve()
    step = notebook.read(pipeline.notebooks_folder() / f"{NOTEBOOK}.ipynb")
    results = home / "report"
    for part in ("notebooks", "logs"):
        (results / part).mkdir(parents=True, exist_ok=True)
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(plan).items()}
    own = {name: fields.pop(name) for name in [*fields] if name in step.parameters}
    parameters = own | {
        "profile": "distill", "results_dir": str(results), "out": str(home), "options": fields,
        "measured": measured or {},
    }  # fmt: skip
    for name, value in parameters.items():
        notebook.check_value(step, name, value)
    done = pipeline.execute(step, parameters, results)
    shutil.copyfile(done, home / REPORT)
    return home / REPORT
