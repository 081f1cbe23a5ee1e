"""`ctr experiment …`: plan an online test, read it, and say what another policy would be worth."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ctr_pipeline.cli.options import JsonOption, RootOption, console, day_of, fail, held, user_errors, write_json

experiment_app = typer.Typer(no_args_is_help=True, help="Plan an online test, and read it at any time.")

TaskOption = Annotated[str | None, typer.Option(help="Outcome that is counted; by default the first task of the spec.")]
ValueOption = Annotated[
    str | None, typer.Option(help="Number of an impression that each outcome counts with, such as a bid.")
]
ScoreOption = Annotated[bool, typer.Option("--score", help="Count the values that `serving.score` declares instead.")]


@experiment_app.command()
def plan(
    name: Annotated[str, typer.Argument(help="Name of the experiment: the key by which users are assigned.")],
    effect: Annotated[float, typer.Option(help="Smallest relative difference that must be found, such as 0.02.")],
    data_root: RootOption = Path("data/ads"),
    task: TaskOption = None,
    value: ValueOption = None,
    score: ScoreOption = False,
    per: Annotated[
        str, typer.Option(help="Over what outcomes are counted: impression, session or user.")
    ] = "impression",
    alpha: Annotated[float, typer.Option(help="Chance of a difference where there is none.")] = 0.05,
    power: Annotated[float, typer.Option(help="Chance to find the difference.")] = 0.8,
    one_sided: Annotated[bool, typer.Option("--one-sided", help="Look only in the direction of --effect.")] = False,
    looks: Annotated[str, typer.Option(help="any: decide at every look; one: at the planned end.")] = "any",
    share: Annotated[float, typer.Option(help="Share of the users who take part.")] = 1.0,
    treated: Annotated[float, typer.Option(help="Share of those who are treated.")] = 0.5,
    canary: Annotated[
        list[str] | None,
        typer.Option(help="TRIAL=SHARE of a canary whose users take no part (`ctr release status`); repeat it."),
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="First day of the experiment, YYYY-MM-DD.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="Last settled days of the log to plan with; by default 14.")
    ] = None,
    before: Annotated[int, typer.Option(min=0, help="Days before, taken away from the variance; 0 for none.")] = 14,
    rate: Annotated[float | None, typer.Option(help="Rate of the control: plan from numbers, without a log.")] = None,
    users_per_day: Annotated[float | None, typer.Option(help="With --rate: new users a day.")] = None,
    rows_per_user: Annotated[float, typer.Option(help="With --rate: rows of a user over the test.")] = 1.0,
    correlation: Annotated[float, typer.Option(help="With --rate: of two rows of a user.")] = 0.0,
    explained: Annotated[float, typer.Option(help="With --rate: share of the variance that the past explains.")] = 0.0,
    maturity: Annotated[float, typer.Option(help="With --rate: days until an outcome is settled.")] = 0.0,
    json_out: JsonOption = None,
) -> None:
    """Say how many users and days an experiment needs, and fix what it will be read by."""
    from ctr_pipeline.commands.experiment_plan import Numbers, Wanted, plan_from_log, plan_from_numbers
    from ctr_pipeline.commands.experiment_text import print_plan
    from ctr_pipeline.experiments.declared_plan import Looks, Unit
    from ctr_pipeline.experiments.design import Design

    first = day_of(start, "--from")
    for option, found, known in (("--per", per, Unit), ("--looks", looks, Looks)):
        if found not in [one.value for one in known]:
            fail(f"{option} {found!r}: expected one of {', '.join(one.value for one in known)}.")
    if (rate is None) != (users_per_day is None):
        fail("--rate and --users-per-day go together: name both, or none to plan with the log of --data-root.")
    with user_errors():
        design = Design(name=name, share=share, treated=treated, canaries=[_canary(text) for text in canary or ()])
        wanted = Wanted(
            design=design, relative=effect, alpha=alpha, power=power, sides=1 if one_sided else 2,
            looks=Looks(looks), unit=Unit(per), first=first,
        )  # fmt: skip
        if rate is not None and users_per_day is not None:
            numbers = Numbers(
                task=task or "outcome", rate=rate, users_by_day=users_per_day, rows=rows_per_user,
                correlation=correlation, explained=explained, maturity_days=maturity,
            )  # fmt: skip
            content = plan_from_numbers(wanted, numbers)
        else:
            content = plan_from_log(
                held(data_root), wanted, task=task, value=value, score=score, days=days, before_days=before
            )
    write_json(content, json_out)
    print_plan(content, console())


@experiment_app.command()
def read(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="File that `ctr experiment plan --json` wrote.")],
    data_root: RootOption = Path("data/ads"),
    first: Annotated[str | None, typer.Option("--from", help="First day; by default that of the plan.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day; by default the last one of the log.")] = None,
    arm_column: Annotated[
        str | None,
        typer.Option(
            help="Stored column that says the arm; by default `impression.arm` of the spec, or the hash of the user."
        ),
    ] = None,
    control: Annotated[
        list[str] | None, typer.Option(help="With --arm-column: its value for the control; repeat it.")
    ] = None,
    treatment: Annotated[
        list[str] | None, typer.Option(help="With --arm-column: its value for the treatment; repeat it.")
    ] = None,
    by_hash: Annotated[
        bool, typer.Option("--by-hash", help="Arms by the hash of the user, whatever the log says.")
    ] = False,
    by: Annotated[
        list[str] | None, typer.Option("--by", help="Column by whose values the effect is told; repeat it.")
    ] = None,
    json_out: JsonOption = None,
) -> None:
    """Read an experiment at any time: effect, intervals, sample ratio, and whether to ship, stop or go on."""
    from ctr_pipeline.commands.experiment_read import ArmColumn, plan_of, read_experiment
    from ctr_pipeline.commands.experiment_text import print_reading

    begin, end = day_of(first, "--from"), day_of(last, "--to")
    if arm_column is None and (control or treatment):
        fail("--control and --treatment are values of --arm-column: name it.")
    if arm_column is not None and not (control and treatment):
        fail(f"--arm-column {arm_column}: say which of its values mean what with --control and --treatment.")
    column = ArmColumn(arm_column, control or (), treatment or ()) if arm_column is not None else None
    content = _json_of(plan_file)
    with user_errors():
        found = read_experiment(
            held(data_root), plan_of(content), first=begin, last=end, column=column, by_hash=by_hash, slices=by or ()
        )
    write_json(found, json_out)
    print_reading(found, console())


@experiment_app.command()
def value(
    data_root: RootOption = Path("data/ads"),
    task: TaskOption = None,
    uniform: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Candidate: show each value of this column equally often.")
    ] = None,
    candidate: Annotated[
        Path | None,
        typer.Option(help="Candidate: Parquet or CSV with impression_id and probability of what was shown."),
    ] = None,
    day: Annotated[
        str | None, typer.Option(help="Candidate: the ranking of the retrain of this day; by default of the newest.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE of the rows that are looked at; repeat it.")
    ] = None,
    clip: Annotated[float, typer.Option(help="Largest weight of the clipped estimates.")] = 10.0,
    rows: Annotated[
        Path | None, typer.Option(help="Write the replayed rows to this Parquet file too, for `ctr experiment gap`.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="With --rows: column that goes with them; repeat it.")] = None,
    as_of: Annotated[
        str | None,
        typer.Option(help="With --rows: day at whose end the effect was predicted, for rewards known by then."),
    ] = None,
    json_out: JsonOption = None,
) -> None:
    """Say what another policy would be worth, from logged propensities or from pages in random order."""
    from ctr_pipeline.commands.experiment_rows import terms_of
    from ctr_pipeline.commands.experiment_text import print_value
    from ctr_pipeline.commands.experiment_value import RowsOut, value_of_file, value_of_ranking, value_of_uniform
    from ctr_pipeline.deployment.deployment import end_of_day_us

    if sum(one is not None for one in (uniform, candidate, day)) > 1:
        fail("--uniform, --candidate and --day each name a candidate policy: give one of them.")
    if day is not None:
        day_of(day, "--day")
    if rows is None and (keep or as_of):
        fail("--keep and --as-of say what goes into the file of --rows: name it.")
    predicted = day_of(as_of, "--as-of")
    chosen = dict(_column_and_value(text) for text in where or ())
    if chosen and uniform is None and candidate is None:
        fail("--where goes with --uniform or --candidate: a ranking is valued on the test rows of its retrain.")
    with user_errors():
        deployment = held(data_root)
        terms = terms_of(deployment.spec, task, None, False)
        known_by = end_of_day_us(predicted) if predicted else None
        out = RowsOut(rows, keep or (), known_by) if rows is not None else None
        if uniform is not None:
            found = value_of_uniform(deployment, terms, uniform, where=chosen, clip=clip, out=out)
        elif candidate is not None:
            found = value_of_file(deployment, terms, candidate, where=chosen, clip=clip, out=out)
        else:
            found = value_of_ranking(deployment, terms, terms[0].task, day, clip=clip, out=out)
    write_json(found, json_out)
    print_value(found, console())


@experiment_app.command()
def gap(
    reading_file: Annotated[
        Path, typer.Argument(metavar="READING", help="File that `ctr experiment read --json` wrote.")
    ],
    rows: Annotated[Path, typer.Option(help="Parquet file of replayed rows; `ctr experiment value --rows` writes it.")],
    population: Annotated[
        str | None, typer.Option(help="Column of the rows by which the test's traffic differs; read with `--by` it.")
    ] = None,
    json_out: JsonOption = None,
) -> None:
    """Say why a test measured another effect than was predicted: maturity, population, skew, position, and what is left."""
    from ctr_pipeline.commands.experiment_gap import gap as offline_online
    from ctr_pipeline.commands.experiment_text import print_gap

    content = _json_of(reading_file)
    with user_errors():
        found = offline_online(rows, content, population)
    write_json(found, json_out)
    print_gap(found, console())


def _column_and_value(text: str) -> tuple[str, str]:
    column, sign, found = text.partition("=")
    return (column, found) if sign and column else fail(f"--where {text!r}: expected COLUMN=VALUE.")


def _canary(text: str) -> Any:
    from ctr_pipeline.experiments.design import Canary

    trial, sign, share = text.rpartition("=")
    try:
        return Canary(trial, float(share)) if sign and trial else fail(f"--canary {text!r}: expected TRIAL=SHARE.")
    except ValueError:
        fail(f"--canary {text!r}: expected TRIAL=SHARE, such as 3f2a=0.05.")


def _json_of(path: Path) -> Any:
    """What a JSON file holds, or the end of the command."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        fail(f"{path}: the file cannot be read.")
    except ValueError:
        fail(f"{path}: the file is no JSON.")
