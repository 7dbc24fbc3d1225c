"""The command line: ``imdy``."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from imdy_plugin import __version__
from imdy_plugin.errors import ImdyError, ImdyWarning, InputError
from imdy_plugin.progress import progress_to

if TYPE_CHECKING:
    import xarray as xr

    from imdy_plugin.interfaces import Trial
    from imdy_plugin.registry import Registered

app = typer.Typer(
    help="Joint moments and ground forces from markers, with or without force plates.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
imitate_app = typer.Typer(help="Simulated people that imitate recorded motion.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(imitate_app, name="imitate")
dataset_app = typer.Typer(help="The data set that simulated people make.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(dataset_app, name="dataset")
out = Console(markup=False, highlight=False)
err = Console(stderr=True, markup=False, highlight=False)

_QUIET_SECONDS = 2.0

ModelOption = Annotated[Path | None, typer.Option("--model", "-m", help="Scaled model (.osim, .b3d); 'imdy scale' and 'imdy model' write one.")]
CoordinatesOption = Annotated[Path | None, typer.Option("--coordinates", "-q", help="Joint coordinates (.mot, .sto) instead of inverse kinematics.")]
GroundForceOption = Annotated[Path | None, typer.Option("--ground-force", "-g", help="Measured ground forces (ExternalLoads .xml, .mot, .c3d, .b3d#trial).")]
MassOption = Annotated[float | None, typer.Option("--mass", help="Body mass [kg]; the model's if not given.")]
HeightOption = Annotated[float | None, typer.Option("--height", help="Body height [m], for plausibility checks.")]
FromOption = Annotated[float | None, typer.Option("--from", help="First time wanted [s].")]
ToOption = Annotated[float | None, typer.Option("--to", help="Last time wanted [s].")]
DegreesOption = Annotated[bool | None, typer.Option("--degrees/--radians", help="Unit of the coordinates where the file does not say.")]
DefaultsOption = Annotated[bool, typer.Option("--use-defaults", help="Fill coordinates that the file lacks with the model's defaults.")]
OptionOption = Annotated[list[str] | None, typer.Option("--option", "-o", help="A solver's option, NAME=VALUE; repeat for more.")]
ClipsArgument = Annotated[Path, typer.Argument(help="Folder of recordings with cmu_mocap/bvh or references/.")]
ClipsOption = Annotated[list[str] | None, typer.Option("--clips", help="Pattern of clip names, such as 'cmu/07*'; repeat for more.")]
ImitatorOption = Annotated[
    str, typer.Option("--imitator", "-i", help="'tracker' ('tracker:FOLDER' keeps its plans there), 'policy', or a policy's .safetensors.")
]
StoreArgument = Annotated[Path, typer.Argument(help="Folder of the data set that 'imdy collect' made.")]
BackendOption = Annotated[str, typer.Option("--backend", help="Physics engine.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for the results.")]


@app.command()
def solve(
    markers: Annotated[Path | None, typer.Argument(help="Marker file (.trc, .c3d, .b3d#trial).")] = None,
    model: ModelOption = None,
    coordinates: CoordinatesOption = None,
    ground_force: GroundForceOption = None,
    mass: MassOption = None,
    height: HeightOption = None,
    solver: Annotated[str | None, typer.Option("--solver", "-s", help="Solver; 'imdy solvers' lists them.")] = None,
    start: FromOption = None,
    stop: ToOption = None,
    degrees: DegreesOption = None,
    use_defaults: DefaultsOption = False,
    option: OptionOption = None,
    folder: OutOption = Path("imdy_results"),
) -> None:
    """Solve one motion and write OpenSim files, NetCDF, a report and a picture."""
    from imdy_plugin import api

    with _friendly(), _progress():
        trial = api.load_trial(
            model, markers, coordinates=coordinates, ground_force=ground_force, mass=mass, height=height, degrees=degrees, use_defaults=use_defaults
        )
        name = solver or api.default_solver(trial)
        result = api.run_solver(name, trial, _options(option), time_range=_range(trial, start, stop))
        _finish(result, folder, (markers or coordinates or Path("motion")).stem, trial)


@app.command()
def compare(
    markers: Annotated[Path | None, typer.Argument(help="Marker file (.trc, .c3d, .b3d#trial).")] = None,
    model: ModelOption = None,
    coordinates: CoordinatesOption = None,
    ground_force: GroundForceOption = None,
    mass: MassOption = None,
    height: HeightOption = None,
    solvers: Annotated[str | None, typer.Option("--solvers", "-s", help="Names separated by commas.")] = None,
    reference: Annotated[str | None, typer.Option("--reference", help="The solver that the others are held against.")] = None,
    start: FromOption = None,
    stop: ToOption = None,
    degrees: DegreesOption = None,
    use_defaults: DefaultsOption = False,
    option: Annotated[list[str] | None, typer.Option("--option", "-o", help="SOLVER.NAME=VALUE; repeat for more.")] = None,
    folder: OutOption = Path("imdy_results"),
) -> None:
    """Solve one motion by several solvers and report where they differ."""
    from imdy_plugin import api

    with _friendly(), _progress():
        trial = api.load_trial(
            model, markers, coordinates=coordinates, ground_force=ground_force, mass=mass, height=height, degrees=degrees, use_defaults=use_defaults
        )
        both = api.compare_trial(
            trial,
            solvers=[name.strip() for name in solvers.split(",")] if solvers else None,
            reference=reference,
            options=_options_by_solver(option),
            time_range=_range(trial, start, stop),
        )
        _finish(both, folder, (markers or coordinates or Path("motion")).stem, trial)


@app.command()
def solvers() -> None:
    """List the solvers that are installed, what they need and what they give."""
    from imdy_plugin import registry

    with _friendly():
        table = Table(box=None, show_header=False, padding=(0, 2, 1, 0))
        for name, entry in registry.get_registry().solvers.items():
            table.add_row(Text(name, style="bold"), _describe(entry))
        out.print(table)


def _describe(entry: Registered) -> Text:
    """What a solver says of itself, its options one to a line."""
    from imdy_plugin import registry

    cls: Any = entry.cls
    lines = [cls.summary, f"from {entry.distribution}, version {cls.version}; needs {', '.join(sorted(cls.needs))}"]
    missing = registry.missing_requirements(cls)
    if missing:
        lines.append(f"not usable here: {', '.join(missing)} is not installed")
    lines += [f"  {key}={field.default}  {field.description}" for key, field in cls.Options.model_fields.items()]
    return Text("\n".join(lines))


@app.command(name="run-tool")
def run_tool(
    setup: Annotated[Path, typer.Argument(help="InverseDynamicsTool setup file (.xml).")],
    solver: Annotated[str | None, typer.Option("--solver", "-s", help="Solver; classic inverse dynamics if not given.")] = None,
    degrees: DegreesOption = None,
    use_defaults: DefaultsOption = False,
    option: OptionOption = None,
) -> None:
    """Run an OpenSim InverseDynamicsTool setup file, as 'opensim-cmd run-tool' does."""
    from imdy_plugin import tool

    with _friendly(), _progress():
        done = tool.run_tool(setup, solver, degrees=degrees, use_defaults=use_defaults, **_options(option))
        out.print(f"{done.result.sizes['time']} frames by solver '{done.result.attrs['solver']}' written to {done.path}")


@app.command()
def model(
    path: Annotated[Path, typer.Argument(help="The .osim file to write.")] = Path("model.osim"),
    height: Annotated[float, typer.Option("--height", help="Body height [m].")] = 1.75,
    mass: Annotated[float, typer.Option("--mass", help="Body mass [kg].")] = 70.0,
    sex: Annotated[Literal["male", "female"] | None, typer.Option("--sex", help="Whose segment table; the mean of both if not given.")] = None,
) -> None:
    """Write a full-body OpenSim model for a person of this height and mass."""
    from imdy_plugin.sim.person import write_person

    with _friendly():
        write_person(path, height=height, mass=mass, sex=sex)
        out.print(f"model of a person of {height:g} m and {mass:g} kg written to {path}")


@app.command()
def scale(
    generic: Annotated[Path | None, typer.Argument(help="Generic model (.osim); the setup's if not given.")] = None,
    static: Annotated[Path | None, typer.Argument(help="Recording of the person standing (.trc, .c3d); the setup's if not given.")] = None,
    mass: Annotated[float | None, typer.Option("--mass", help="Body mass [kg]; the setup's if not given.")] = None,
    height: HeightOption = None,
    setup: Annotated[Path | None, typer.Option("--setup", help="ScaleTool setup file (.xml).")] = None,
    markers: Annotated[Path | None, typer.Option("--markers", help="Marker set (.xml) that replaces or joins the model's markers.")] = None,
    output: Annotated[Path, typer.Option("--output", help="The .osim file to write.")] = Path("scaled.osim"),
    preserve: Annotated[
        bool | None,
        typer.Option(
            "--preserve-mass-distribution/--mass-by-size", help="Whether bodies keep their share of the mass; by default as the setup says, else yes."
        ),
    ] = None,
    place: Annotated[
        Literal["free", "all", "soft", "none"] | None,
        typer.Option("--place", help="Markers to move to where they were measured: those not held fixed, all, only those on soft tissue, none."),
    ] = None,
    keep_unmeasured: Annotated[bool, typer.Option("--keep-unmeasured", help="Keep markers that the recording lacks.")] = False,
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="Let left and right differ; without a setup.")] = False,
    also: Annotated[list[Path] | None, typer.Option("--also", help="A further recording, such as walking; repeat for more; without a setup.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Scale a generic OpenSim model to a person, from a recording and the person's mass, with or without a ScaleTool setup."""
    from imdy_plugin import scaling

    with _friendly(), _progress():
        person = scaling.scale(
            generic,
            static,
            mass=mass,
            height=height,
            setup=setup,
            markers=markers,
            output=output,
            force=force,
            preserve_mass_distribution=preserve,
            place_markers=place,
            keep_unmeasured=keep_unmeasured,
            symmetric=not asymmetric,
            also=also or (),
        )
        out.print(scaling.factor_table(person))
        out.print(scaling.pose_line(person), soft_wrap=True)
        out.print(f"model of {person.mass:g} kg written to {person.path}", soft_wrap=True)


@app.command()
def ik(
    model: Annotated[Path | None, typer.Argument(help="Scaled OpenSim model (.osim); the setup's if not given.")] = None,
    markers: Annotated[Path | None, typer.Argument(help="Marker file (.trc, .c3d); the setup's if not given.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="The motion file (.mot) to write; if not given, the setup's, or one named after the markers.")
    ] = None,
    setup: Annotated[Path | None, typer.Option("--setup", help="InverseKinematicsTool setup file (.xml).")] = None,
    weight: Annotated[list[str] | None, typer.Option("--weight", help="Weight of a marker, NAME=2; 0 leaves it out; repeat for more.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Draw a coordinate to a value [rad or m], or to 'default', with a weight, NAME=VALUE:WEIGHT; repeat for more."),
    ] = None,
    smoothing: Annotated[float, typer.Option("--smoothing", help="Weight of squared accelerations; 0 smooths nothing.")] = 0.0,
    height: HeightOption = None,
    start: FromOption = None,
    stop: ToOption = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write each marker's distance in each frame (.csv).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Fit a model's coordinates to markers and write them as an OpenSim motion file, with or without an InverseKinematicsTool setup."""
    from imdy_plugin import ik as fitting

    with _friendly(), _progress():
        done = fitting.run_ik(
            model,
            markers,
            output=output,
            report=report,
            force=force,
            setup=setup,
            weights={name: _number(name, value) for name, value in _pairs(weight, "weight", "NAME=WEIGHT")},
            tasks={name: _task(name, value) for name, value in _pairs(task, "task", "NAME=VALUE:WEIGHT")},
            smoothing=smoothing,
            height=height,
            start=start,
            stop=stop,
        )
        out.print(fitting.fit_table(done.motion))
        for path in done.paths:
            out.print(f"written to {path}", soft_wrap=True)


def _pairs(given: list[str] | None, what: str, form: str) -> list[tuple[str, str]]:
    """Parse NAME=VALUE."""
    pairs = []
    for pair in given or []:
        name, sign, value = pair.rpartition("=")
        if not sign or not name.strip() or not value.strip():
            raise InputError(f"the {what} '{pair}' is not understood; write {form}")
        pairs.append((name.strip(), value.strip()))
    return pairs


def _task(name: str, text: str) -> tuple[float | None, float]:
    value, sign, weight = text.rpartition(":")
    if not sign:
        raise InputError(f"the task '{name}={text}' has no weight; write NAME=VALUE:WEIGHT")
    return None if value.strip().lower() == "default" else _number(name, value), _number(name, weight)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"'{text}', given for '{name}', is not a number; write it with a decimal point") from None


@app.command(name="convert-body")
def convert_body(
    source: Annotated[Path, typer.Argument(help="Body model as it was downloaded (.pkl).")],
    target: Annotated[Path | None, typer.Argument(help="The .npz file to write; beside the source if not given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a pickled SMPL body model as .npz, without running anything that the pickle asks for."""
    from imdy_plugin.adapters.smpl.convert import convert_body as convert

    with _friendly():
        out.print(f"body model written to {convert(source, target, force=force)}", soft_wrap=True)


@app.command()
def demo(folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("imdy-demo")) -> None:
    """Make a walking trial of a generated person, solve it with and without its plates, and show the result."""
    from imdy_plugin.demo import run_demo

    with _friendly(), _progress():
        comparison, trial = run_demo(folder)
        _finish(comparison, folder, "walk", trial)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder of recordings with MANIFEST.csv and references/.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for weights, checkpoints and curves.")] = Path("imdys-training"),
    fold: Annotated[int | None, typer.Option("--fold", help="Leave out the people of this fold; without it, all are trained on.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the data; the recipe's if not given.")] = None,
) -> None:
    """Train the learned solver 'imdys' on recordings; run again to resume."""
    from imdy_plugin.training_data import train_on_recordings

    with _friendly(), _progress():
        path = train_on_recordings(data, folder, fold=fold, seed=seed, epochs=epochs)
        out.print(f"weights written to {path}")


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder of recordings with references/.")],
    solvers: Annotated[str | None, typer.Option("--solvers", "-s", help="Names separated by commas.")] = None,
    sources: Annotated[str | None, typer.Option("--sources", help="Sources separated by commas; all if not given.")] = None,
    kinematics: Annotated[
        Literal["reference", "own"], typer.Option("--kinematics", help="'reference': the recordings' own; 'own': inverse kinematics of the markers.")
    ] = "reference",
    weights: Annotated[Path | None, typer.Option("--weights", help="Folder of imdys weights, those that ship if not given.")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Trials solved at once.")] = 1,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a row per trial and solver.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the tables as Markdown.")] = None,
) -> None:
    """Measure solvers against classic inverse dynamics with plates, on people they were not trained on."""
    from imdy_plugin.evaluation import evaluate as run_evaluation

    chosen: dict[str, Any] = {"solvers": tuple(s.strip() for s in solvers.split(","))} if solvers else {}
    with _friendly(), _progress():
        evaluation = run_evaluation(data, sources=sources.split(",") if sources else None, kinematics=kinematics, weights=weights, workers=workers, **chosen)
        if csv:
            evaluation.to_csv(csv)
        text = evaluation.to_markdown()
        if markdown:
            _write_text(markdown, text)
        out.print(text, soft_wrap=True)


@imitate_app.command(name="train")
def imitate_train(
    data: ClipsArgument,
    weights: Annotated[Path, typer.Option("--out", help="The .safetensors to write; checkpoint, curves and card go beside it.")] = Path("policy.safetensors"),
    clips: ClipsOption = None,
    stages: Annotated[str, typer.Option("--stages", help="What is done for how many minutes: clone, primitive, hard, getup, composer.")] = "primitive:60",
    teacher: Annotated[Path | None, typer.Option("--teacher", help="Folder of the tracker's plans, for the stage clone.")] = None,
    start: Annotated[Path | None, typer.Option("--start", help="A policy's .safetensors to begin with.")] = None,
    backend: BackendOption = "mujoco",
    setting: Annotated[list[str] | None, typer.Option("--set", help="PART.NAME=VALUE, such as ppo.learning_rate=1e-4; repeat for more.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on from the checkpoint beside the weights.")] = True,
) -> None:
    """Train a policy that imitates motions; run again to resume."""
    from imdy_plugin.registry import get_sim_backend
    from imdy_plugin.sim.imitator import lessons

    with _friendly(), _progress():
        path = lessons.train_on_clips(data, weights, get_sim_backend(backend), clips, stages, _options(setting), teacher=teacher, start=start, resume=resume)
        out.print(path.with_suffix(".md").read_text(), soft_wrap=True)
        out.print(f"policy written to {path}")


@imitate_app.command(name="eval")
def imitate_eval(
    data: ClipsArgument,
    clips: ClipsOption = None,
    activities: Annotated[str | None, typer.Option("--activities", help="Activities separated by commas; all if not given.")] = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="Only clips that no imitator is trained on.")] = False,
    imitator: ImitatorOption = "tracker",
    backend: BackendOption = "mujoco",
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    workers: Annotated[int, typer.Option("--workers", help="Clips imitated at once.")] = 1,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a row per clip.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write summaries and clips.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the table as Markdown.")] = None,
    pictures: Annotated[Path | None, typer.Option("--pictures", help="Folder for a picture strip and the tracks of the feet of every clip.")] = None,
) -> None:
    """Measure how well an imitator does on recorded motion."""
    from imdy_plugin import registry
    from imdy_plugin.sim.clips import clips as all_clips
    from imdy_plugin.sim.imitator.evaluation import choose_clips, evaluate_imitator
    from imdy_plugin.sim.imitator.named import find_imitator

    with _friendly(), _progress():
        chosen = choose_clips(all_clips(data), clips or (), activities.split(",") if activities else (), held_out)
        chosen_backend = registry.get_sim_backend(backend)
        found = evaluate_imitator(find_imitator(imitator), chosen, chosen_backend, seed=seed, workers=workers, pictures=pictures)
        if csv:
            found.to_csv(csv)
        if json:
            found.to_json(json)
        if markdown:
            _write_text(markdown, found.markdown())
        out.print(found.table())
        for failed in (s for s in found.scores if not s.success):
            out.print(f"{failed.clip} ({failed.activity}): {failed.failure}", soft_wrap=True)


@imitate_app.command(name="show")
def imitate_show(
    data: ClipsArgument,
    clip: Annotated[str, typer.Argument(help="Name of a clip, such as cmu/07_01.")],
    imitator: ImitatorOption = "tracker",
    backend: BackendOption = "mujoco",
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    instants: Annotated[int, typer.Option("--instants", help="Figures in a row.")] = 8,
    folder: OutOption = Path("imdy_results"),
) -> None:
    """Imitate one recorded motion, and draw the two as a picture strip, and the tracks of their feet."""
    from imdy_plugin import registry
    from imdy_plugin.sim.clips import clips as all_clips
    from imdy_plugin.sim.imitator.evaluation import choose_clips, score
    from imdy_plugin.sim.imitator.evaluation import imitate as imitate_motion
    from imdy_plugin.sim.imitator.named import find_imitator
    from imdy_plugin.sim.pictures import foot_tracks, imitation_strip

    with _friendly(), _progress():
        chosen = choose_clips(all_clips(data), [clip])[0]
        imitated = imitate_motion(find_imitator(imitator), *chosen.load(), registry.get_sim_backend(backend), seed=seed)
        stem = chosen.name.replace("/", "_")
        paths = {"strip": folder / f"{stem}.png", "feet": folder / f"{stem}_feet.png"}
        imitation_strip(paths["strip"], imitated, instants)
        foot_tracks(paths["feet"], imitated)
        found = score(imitated, chosen)
        out.print(
            f"{chosen.name}, {chosen.activity}: {found.failure or 'whole length'}; mean joint error {found.mpjpe_global:.1f} mm, skate {found.skate:.0f} mm/s"
        )
        for kind, path in paths.items():
            out.print(f"{kind:>28}  {path}", soft_wrap=True)


@imitate_app.command(name="gap")
def imitate_gap(
    data: ClipsArgument,
    clips: ClipsOption = None,
    activity: Annotated[str, typer.Option("--activity", help="What simulated and recorded people do.")] = "walk",
    imitator: ImitatorOption = "tracker",
    backend: BackendOption = "mujoco",
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    records: Annotated[Path | None, typer.Option("--records", help="Folder of collected records to take instead of imitating clips now.")] = None,
    folder: OutOption = Path("imdy_results"),
) -> None:
    """Lay ground forces and joint moments of simulated gait over those of recorded people."""
    from imdy_plugin import registry
    from imdy_plugin.references import read_references
    from imdy_plugin.sim.clips import clips as all_clips
    from imdy_plugin.sim.imitator.evaluation import choose_clips
    from imdy_plugin.sim.imitator.named import find_imitator
    from imdy_plugin.sim.records import open_store
    from imdy_plugin.sim_gap import compare_walks, draw_gap, imitate_walks, recorded_cutoff, stored_walks

    with _friendly(), _progress():
        references = read_references(data)
        cutoff = recorded_cutoff(references, activity)
        if records:
            walks = stored_walks(open_store(records), activity, cutoff=cutoff)
        else:
            chosen = choose_clips(all_clips(data), clips or (), [activity])
            walks = imitate_walks(find_imitator(imitator), chosen, registry.get_sim_backend(backend), seed=seed, cutoff=cutoff)
        gap = compare_walks(walks, references, activity)
        draw_gap(folder / "gap.png", gap)
        gap.to_json(folder / "gap.json")
        out.print(gap.text(), soft_wrap=True)
        for name in ("gap.png", "gap.json"):
            out.print(folder / name, soft_wrap=True)


@app.command()
def collect(
    data: Annotated[list[Path], typer.Argument(help="A folder of recordings (cmu_mocap/bvh, references/), or motion files and folders of them (.bvh, .npz).")],
    store: Annotated[Path, typer.Option("--out", help="Folder of the data set; what is in it is not collected again.")] = Path("imdy-data"),
    clips: ClipsOption = None,
    activities: Annotated[str | None, typer.Option("--activities", help="Activities separated by commas; all if not given.")] = None,
    imitator: Annotated[
        list[str] | None, typer.Option("--imitator", "-i", help="'tracker' (by default), 'tracker:PLANS', or a policy's .safetensors; repeat for more.")
    ] = None,
    variations: Annotated[str | None, typer.Option("--variations", help="Names separated by commas; all if not given.")] = None,
    draw: Annotated[int, typer.Option("--draw", help="Further variations of body and noise, drawn by number.")] = 0,
    backend: BackendOption = "mujoco",
    body_model: Annotated[Path | None, typer.Option("--body-model", help="SMPL body model (.npz) of the people whose poses (.npz) are imitated.")] = None,
    objects: Annotated[bool, typer.Option("--objects", help="Also clips with objects or uneven ground, which the simulation lacks.")] = False,
    workers: Annotated[int, typer.Option("--workers", help="Processes at once.")] = 2,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="Address of a Dask scheduler whose workers do it instead.")] = None,
    worlds: Annotated[int, typer.Option("--worlds", help="Episodes that share a simulation.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
) -> None:
    """Imitate motions in simulation and record every torque and contact; run again to go on."""
    from imdy_plugin.registry import get_sim_backend
    from imdy_plugin.sim import collector
    from imdy_plugin.sim.file_clips import find_clips
    from imdy_plugin.sim.imitator.named import find_imitator
    from imdy_plugin.sim.variation import choose_variations

    with _friendly(), _progress():
        chosen = find_clips(data, clips or (), _words(activities), body_model=body_model, objects=objects)
        imitators = [find_imitator(name) for name in imitator or ("tracker",)]
        tasks = collector.plan(chosen, imitators, store, get_sim_backend(backend), choose_variations(_words(variations), draw), seed)
        report = collector.collect(tasks, workers=workers, scheduler=scheduler, worlds=worlds)
        out.print("\n".join(report.lines()), soft_wrap=True)


@dataset_app.command(name="info")
def dataset_info(store: StoreArgument = Path("imdy-data")) -> None:
    """Say how large and how varied a data set is, beside published ones."""
    from imdy_plugin.sim.records import open_store
    from imdy_plugin.sim.statistics import COLUMNS, PUBLISHED, statistics

    with _friendly():
        found = statistics(open_store(store))
        out.print("\n".join(found.lines()), soft_wrap=True)
        table = Table(*COLUMNS)
        for row in (*PUBLISHED, found.row(f"here: {store}")):
            table.add_row(*row)
        out.print(table)


@dataset_app.command(name="export-sample")
def dataset_export_sample(
    store: StoreArgument,
    folder: Annotated[Path, typer.Argument(help="Folder of the sample; made anew.")],
    seconds: Annotated[float, typer.Option("--seconds", help="Duration of its usable frames [s].")] = 60.0,
) -> None:
    """Copy the best episodes of each activity into a small data set of their own."""
    from imdy_plugin.sim.record_reader import export_sample
    from imdy_plugin.sim.records import open_store
    from imdy_plugin.sim.statistics import statistics

    with _friendly():
        sample = export_sample(open_store(store), folder, seconds)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        out.print(f"{statistics(sample).lines()[0]}\n{size / 1e6:.2f} MB written to {folder}", soft_wrap=True)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        out.print(f"imdy {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of ``imdy``."""
    app()


def _write_text(path: Path, text: str) -> None:
    from imdy_plugin.atomic import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _finish(result: xr.Dataset, folder: Path, stem: str, trial: Trial) -> None:
    from imdy_plugin.outputs import write_outputs
    from imdy_plugin.report import difference_terminal_table, summary_table

    paths = write_outputs(result, folder, stem, trial)
    out.print(summary_table(result, trial))
    if result.sizes.get("solver", 1) > 1:
        out.print(difference_terminal_table(result, trial))
    for kind, path in paths.items():
        out.print(f"{kind:>28}  {path}", soft_wrap=True)


def _words(text: str | None) -> list[str]:
    """What commas separate."""
    return [word.strip() for word in text.split(",") if word.strip()] if text else []


def _options(pairs: list[str] | None) -> dict[str, Any]:
    """Parse NAME=VALUE; the solver's typed options turn the text into numbers."""
    options: dict[str, Any] = {}
    for pair in pairs or []:
        name, sign, value = pair.partition("=")
        if not sign:
            raise InputError(f"option '{pair}' has no value; write NAME=VALUE")
        options[name.strip()] = None if value.strip().lower() in ("none", "null") else value.strip()
    return options


def _options_by_solver(pairs: list[str] | None) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for key, value in _options(pairs).items():
        solver, dot, name = key.partition(".")
        if not dot:
            raise InputError(f"option '{key}' names no solver; write SOLVER.NAME=VALUE")
        options.setdefault(solver, {})[name] = value
    return options


def _range(trial: Trial, start: float | None, stop: float | None) -> tuple[float, float] | None:
    if start is None and stop is None:
        return None
    stamps = trial.motion["time"].values
    return (float(stamps[0]) if start is None else start, float(stamps[-1]) if stop is None else stop)


@contextmanager
def _friendly() -> Iterator[None]:
    """Errors made for people, and files that cannot be written, end in one message and exit code 2; warnings are lines of their own."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
        label = "warning" if issubclass(category, ImdyWarning) else category.__name__
        err.print(Text(f"{label}: ", style="yellow"), Text(str(message)), sep="", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", ImdyWarning)
        warnings.showwarning = show
        try:
            yield
        except ImdyError as error:
            _fail(str(error), error)
        except OSError as error:
            _fail(f"{error.filename or 'a file'}: {error.strerror or error}", error)


def _fail(message: str, error: Exception) -> NoReturn:
    err.print(Text("error: ", style="red"), Text(message), sep="", soft_wrap=True)
    raise typer.Exit(2) from error


@contextmanager
def _progress() -> Iterator[None]:
    """Show progress of anything that takes over two seconds, as one line that is overwritten on a terminal and as lines elsewhere."""
    started: dict[str, float] = {}
    shown: dict[str, int] = {}

    def listen(task: str, done: int, total: int) -> None:
        now = time.monotonic()
        begun = started.setdefault(task, now)
        percent = 100 * done // max(total, 1)
        step = 1 if sys.stderr.isatty() else 20
        if now - begun < _QUIET_SECONDS or percent < shown.get(task, -step) + step:
            return
        shown[task] = percent
        err.print(f"{task}: {percent} % ({done} of {total}, {now - begun:.0f} s)", end="\r" if sys.stderr.isatty() and done < total else "\n")

    with progress_to(listen):
        yield
