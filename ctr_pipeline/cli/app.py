"""The `ctr` command: its subcommands, and its start."""

import signal

import typer

from ctr_pipeline.cli import data, drills, experimenting, explaining, models, project, releasing, server, specs
from ctr_pipeline.cli.options import user_errors
from ctr_pipeline.spec.extensions import load_extensions

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
spec_app = typer.Typer(no_args_is_help=True, help="Work with spec files.")
app.add_typer(spec_app, name="spec")

app.command()(project.init)
app.command()(project.run)
app.command()(project.ui)
app.command()(server.serve)
app.command()(server.snapshot)
app.command()(releasing.promote)
app.command()(releasing.rollback)
app.add_typer(releasing.release_app, name="release")
app.command()(models.report)
app.command()(models.why)
app.command()(explaining.explain)
app.command()(data.labels)
app.command()(models.reproduce)
app.command("calibrate-health")(models.calibrate_health)
app.command()(models.controls)
app.command()(models.ablate)
app.add_typer(experimenting.experiment_app, name="experiment")
app.command()(data.forget)
app.command()(data.simulate)
app.command()(models.oracle)
app.command()(drills.drill)
spec_app.command("check")(specs.check)
spec_app.command("modules")(specs.modules)
spec_app.command("preset")(specs.preset)
# Their names before.
app.command("repeat", hidden=True)(models.reproduce)
app.command("truth", hidden=True)(models.oracle)


def main() -> None:
    """Entry point of the ``ctr`` command."""
    # A stopped service or a closed terminal ends as Ctrl-C does: children are stopped, MLflow runs are closed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    app()


@app.callback(help="From raw impression and event logs to a served, calibrated, explainable click and funnel model.")
def start() -> None:
    """Runs before every command: specs may name parts that other installed packages add."""
    with user_errors():
        load_extensions()
