"""The subcommands, imported only when they are called: a row each."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import typer

from cytoserve_cli import exit_codes


@dataclass(frozen=True)
class Mount:
    """One subcommand: ``module:attribute`` of its typer app, its line of help, the extra that it needs, if any."""

    target: str
    help: str
    extra: str | None = None


MOUNTS: dict[str, Mount] = {
    "analyze": Mount("cytoserve_cli.analyze:analyze_app", "Find, classify and count the cells of one sample's fields."),
    "classify": Mount("cytoserve_cli.analyze:classify_app", "Classify single-cell images of an analyser."),
    "info": Mount("cytoserve_cli.analyze:info_app", "Print what the server serves: model, classes, hashes, limits."),
    "send-hl7": Mount("cytoserve_cli.send_hl7:app", "Send a result (`analyze --hl7`) over MLLP; wait for the answer."),
    "serve": Mount("cytoserve_cli.serve:app", "Run the local Triton server in the foreground.", "serve"),
    "export": Mount("cytoserve_cli.export:app", "Turn a checkpoint into a model repository.", "export"),
    "train": Mount("cytoserve_cli.train:app", "Train the reference models.", "train"),
    "deploy": Mount(
        "cytoserve_cli.deploy:app", "Roll a new model version out on KServe: check, promote, take back.", "deploy"
    ),
    "verdicts": Mount("cytoserve_cli.verdicts:app", "Check, compare and use the verdicts of a review page."),
    "report": Mount("cytoserve_cli.report_serve:app", "List the films of a folder with their review pages.", "report"),
    "audit": Mount("cytoserve_cli.audit:app", "Check the audit file that `analyze --audit` appends to."),
    "calibrate": Mount(
        "cytoserve_cli.validation:calibrate_app", "Fit a site's own thresholds on labelled cells.", "validate"
    ),
    "validate": Mount(
        "cytoserve_cli.validation:validate_app", "Measure a server on labelled cells, with a report.", "validate"
    ),
}

OWN_PACKAGES = (
    "cytoserve_deploy",
    "cytoserve_export",
    "cytoserve_networks",
    "cytoserve_training",
    "cytoserve_reports",
    "cytoserve_scoring",
    "cytoserve_slides",
    "cytoserve_statistics",
    "cytoserve_validation",
)


class MissingPart(Exception):
    """A subcommand, or a library that it needs, is not installed; the text says what to type."""


def missing(name: str, error: ModuleNotFoundError) -> MissingPart:
    """Return what to say about a module that a subcommand did not find."""
    module, extra = error.name or str(error), MOUNTS[name].extra
    if (module.split(".")[0] in OWN_PACKAGES and module.partition(".")[2]) or extra is None:
        return MissingPart(f"`cytoserve {name}` is not part of this installation (no module {module}).")
    return MissingPart(f'`cytoserve {name}` needs {module}, which is not installed: pip install "cytoserve[{extra}]"')


def need(module: str, extra: str, wanted: str) -> None:
    """See, before any work, that a library of an extra is installed; `MissingPart` says what to type."""
    if importlib.util.find_spec(module) is None:
        raise MissingPart(
            f'`cytoserve {wanted}` needs {module}, which is not installed: pip install "cytoserve[{extra}]"'
        )


def run(name: str, arguments: list[str]) -> None:
    """Import the subcommand's app and pass the arguments on; `MissingPart` if a module is not installed."""
    module, _, attribute = MOUNTS[name].target.partition(":")
    try:
        app: typer.Typer = getattr(importlib.import_module(module), attribute)
        typer.main.get_command(app).main(args=arguments, prog_name=f"cytoserve {name}")
    except ModuleNotFoundError as error:
        raise missing(name, error) from error


def add_all(app: typer.Typer) -> None:
    """Register every mount on the app."""
    for name, mount in MOUNTS.items():
        _add(app, name, mount)


def _add(app: typer.Typer, name: str, mount: Mount) -> None:
    # Options and --help belong to the mounted app: every word is passed on unparsed.
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    def forward(ctx: typer.Context) -> None:
        try:
            run(name, list(ctx.args))
        except MissingPart as part:
            typer.echo(str(part), err=True)
            raise typer.Exit(exit_codes.USAGE) from None

    forward.__doc__ = mount.help
    app.command(name, help=mount.help, context_settings=settings, add_help_option=False)(forward)
