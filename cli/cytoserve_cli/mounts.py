"""Subcommands of the other rooms, imported only when they are called.

A row per subcommand: where its typer app is, which extra brings what it needs, one line of help.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import typer

from cytoserve_cli import exit_codes


@dataclass(frozen=True)
class Mount:
    """One subcommand: ``module:attribute`` of its typer app, the extra it needs, its help."""

    target: str
    extra: str
    help: str


MOUNTS: dict[str, Mount] = {
    "serve": Mount("cytoserve_cli.serve:app", "serve", "Run the local Triton server in the foreground."),
    "export": Mount("cytoserve_cli.export:app", "export", "Turn a checkpoint into a served model repository."),
    "train": Mount("cytoserve_cli.train:app", "train", "Train and measure the reference models."),
    "deploy": Mount(
        "cytoserve_cli.deploy:app",
        "deploy",
        "Roll a new model version out on KServe: check, promote, take back.",
    ),
    "calibrate": Mount(
        "cytoserve_cli.validation:calibrate_app", "validate", "Fit a site's own thresholds on labelled cells."
    ),
    "validate": Mount(
        "cytoserve_cli.validation:validate_app", "validate", "Measure a server on labelled cells, with a report."
    ),
}

OWN_PACKAGES = (
    "cytoserve_deploy",
    "cytoserve_export",
    "cytoserve_networks",
    "cytoserve_training",
    "cytoserve_scoring",
    "cytoserve_validation",
)


class MissingPart(Exception):
    """A subcommand, or a library that it needs, is not installed; the text says what to type."""


def missing(name: str, mount: Mount, error: ModuleNotFoundError) -> MissingPart:
    """Return what to tell the user about a module that was not found."""
    module = error.name or str(error)
    if module.split(".")[0] in OWN_PACKAGES and module.partition(".")[2]:
        return MissingPart(f"`cytoserve {name}` is not part of this installation (no module {module}).")
    return MissingPart(
        f'`cytoserve {name}` needs {module}, which is not installed: pip install "cytoserve[{mount.extra}]"'
    )


def run(name: str, arguments: list[str]) -> None:
    """Import the subcommand's app and hand the arguments over.

    Raises
    ------
    MissingPart
        If it, or a library that it needs, is not installed.
    """
    mount = MOUNTS[name]
    module, _, attribute = mount.target.partition(":")
    try:
        app: typer.Typer = getattr(importlib.import_module(module), attribute)
        typer.main.get_command(app).main(args=arguments, prog_name=f"cytoserve {name}")
    except ModuleNotFoundError as error:
        raise missing(name, mount, error) from error


def add_all(app: typer.Typer) -> None:
    """Register every mount on the app."""
    for name, mount in MOUNTS.items():
        _add(app, name, mount)


def _add(app: typer.Typer, name: str, mount: Mount) -> None:
    # Options and --help belong to the mounted app: this shell passes every word on unread.
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    def forward(ctx: typer.Context) -> None:
        try:
            run(name, list(ctx.args))
        except MissingPart as part:
            typer.echo(str(part), err=True)
            raise typer.Exit(exit_codes.USAGE) from None

    forward.__doc__ = mount.help
    app.command(name, help=mount.help, context_settings=settings, add_help_option=False)(forward)
