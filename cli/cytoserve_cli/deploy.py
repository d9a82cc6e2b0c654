"""``cytoserve deploy``: bring a version up, wait for it, check and promote it, take it back, delete it.

Exit codes: `cytoserve_cli.exit_codes`.
"""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from cytoserve_client import TLS
from cytoserve_contract.names import ROLLOUT
from cytoserve_deploy import errors as e
from cytoserve_deploy.rollout import bluegreen, checks, waiting
from cytoserve_deploy.rollout import names as n
from cytoserve_deploy.rollout.cluster import Cluster
from cytoserve_deploy.rollout.golden import from_folder, golden_set
from cytoserve_deploy.rollout.objects import Release
from cytoserve_deploy.rollout.state import Line, read_line
from cytoserve_files import NotWritable, check_output, write_text
from rich.console import Console
from rich.table import Table

from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.terminal import plain

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Roll a new model version out on KServe. For research use; not a medical device.",
)

Name = Annotated[str, typer.Argument(help="The InferenceService, as the chart named it.")]
VersionName = Annotated[str, typer.Option("--version", help="Name of the version, such as 0-2-0.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Default: the context's.")]
Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", help="Default: $KUBECONFIG, ~/.kube/config.")]
Context = Annotated[str | None, typer.Option("--context", help="Default: the kubeconfig's current one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="The API server judges the change and keeps none of it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def apply(
    name: Name,
    version: VersionName,
    model_uri: Annotated[str | None, typer.Option("--model-uri", help="pvc://, s3:// or oci:// of the models.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="The server's image.")] = None,
    manifest_sha256: Annotated[str | None, typer.Option("--manifest-sha256", help="Pin of manifest.json.")] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    dry_run: DryRun = False,
) -> None:
    """Bring a new version up beside the running one. Clients are not moved."""
    with exit_on_error("deploy"):
        release = Release(version, model_uri, image, manifest_sha256)
        cluster = Cluster(namespace, kubeconfig, context, dry_run)
        _say(bluegreen.apply(cluster, read_line(cluster, name), release), dry_run)


@app.command()
def status(
    name: Name,
    as_json: AsJson = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show the versions, which one answers, and why one is not ready."""
    with exit_on_error("deploy"):
        line = read_line(Cluster(namespace, kubeconfig, context), name)
        if as_json:
            typer.echo(json.dumps(_document(line), indent=2))
            return
        Console().print(_table(line))


@app.command()
def wait(
    name: Name,
    version: VersionName,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds. Building engines takes minutes.")] = 1800,
    poll: Annotated[float, typer.Option("--poll", help="Seconds between two looks.", min=0.05)] = waiting.POLL_S,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Wait until a version is ready, and tell what it waits for."""
    with exit_on_error("deploy"):
        waiting.wait(Cluster(namespace, kubeconfig, context), name, version, timeout, _note, poll)


@app.command()
def promote(
    name: Name,
    version: VersionName,
    candidate_url: Annotated[
        str | None, typer.Option("--candidate-url", help="gRPC HOST:PORT of the candidate.")
    ] = None,
    running_url: Annotated[str | None, typer.Option("--running-url", help="gRPC HOST:PORT of the running one.")] = None,
    golden: Annotated[
        Path | None, typer.Option("--golden", help="Folder of your own cells in place of the synthetic set.")
    ] = None,
    um_per_pixel: Annotated[float | None, typer.Option("--um-per-pixel", help="Scale of your own cells.")] = None,
    golden_cells: Annotated[int | None, typer.Option("--golden-cells", help="Ask about that many only.", min=1)] = None,
    min_agreement: Annotated[float, typer.Option(help="Least share of equal decisions.")] = checks.Limits.agreement,
    max_p99_ratio: Annotated[float, typer.Option(help="Most of candidate's to running p99.")] = checks.Limits.p99_ratio,
    latency_requests: Annotated[int, typer.Option(help="Requests timed on each side.")] = checks.Limits.requests,
    report: Annotated[Path | None, typer.Option("--report", help="Write the figures as JSON.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM of the authority; switches TLS on.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM of our certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM of our key.")] = None,
    tls_server_name: Annotated[str | None, typer.Option(help="Name in the server's certificate.")] = None,
    skip_checks: Annotated[bool, typer.Option("--skip-checks", help="Needs --reason, which is recorded.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why the checks are skipped.")] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    dry_run: DryRun = False,
) -> None:
    """Check a version against the running one; if it agrees and is fast enough, let it answer."""
    with exit_on_error("deploy"):
        if skip_checks != bool(reason and reason.strip()):
            raise e.ObjectRefused("--skip-checks and --reason go together: the reason is kept on the cluster's object")
        limits = checks.Limits(min_agreement, max_p99_ratio, latency_requests)
        if report is not None:
            _check_report(report)
        cluster = Cluster(namespace, kubeconfig, context, dry_run)
        line = read_line(cluster, name)
        waiting.require_ready(line, version)
        if line.entry is not None and line.live == line.service_of(version)["metadata"]["name"]:
            _say(bluegreen.Outcome(False, f"version {version} answers already"), dry_run)
            return
        if skip_checks:
            record = {
                "checks": None,
                "checks_skipped": json.dumps({"version": version, "at": _now(), "reason": reason}),
            }
            _note(f"CHECKS SKIPPED for version {version} of {name}: {reason}")
        else:
            cells = (from_folder(golden, um_per_pixel, _note) if golden else golden_set()).first(golden_cells)
            tls = TLS(tls_ca, tls_key, tls_cert, tls_server_name) if tls_ca else None
            found = checks.of_servers(running_url, candidate_url, tls, cells, limits, _note)
            if report is not None:
                _write_report(report, found.to_json() + "\n")
            for text in found.sentences():
                _note(text)
            checks.require(found)
            kept = {"version": version, "at": _now(), **asdict(found)}
            record = {"checks": json.dumps(kept, sort_keys=True), "checks_skipped": None}
        after = read_line(cluster, name)  # the checks took minutes
        _say(bluegreen.promote(cluster, after, version, record), dry_run)


@app.command()
def rollback(
    name: Name, namespace: Namespace = None, kubeconfig: Kubeconfig = None, context: Context = None,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Let the version before answer again. Asks nothing, checks nothing: it is for emergencies."""
    with exit_on_error("deploy"):
        cluster = Cluster(namespace, kubeconfig, context, dry_run)
        _say(bluegreen.rollback(cluster, read_line(cluster, name)), dry_run)


@app.command()
def delete(
    name: Name,
    version: Annotated[str | None, typer.Option("--version", help="One version that does not answer.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that cytoserve deploy made.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, delete it.")] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    dry_run: DryRun = False,
) -> None:
    """Delete a version that does not answer, or everything made here. What the chart made is left to Helm."""
    with exit_on_error("deploy"):
        if everything == bool(version):
            raise e.ObjectRefused("say what: --version VERSION, or --all")
        cluster = Cluster(namespace, kubeconfig, context, dry_run)
        what = "everything made by cytoserve deploy" if everything else f"version {version}"
        if not (yes or dry_run):
            raise e.NotConfirmed(f"this deletes {what} of {name} in namespace {cluster.namespace}; add --yes")
        if version:
            outcome = bluegreen.delete_version(cluster, read_line(cluster, name), version)
        else:
            outcome = bluegreen.delete_all(cluster, name)
        _say(outcome, dry_run)


def _check_report(path: Path) -> None:
    try:
        check_output(path)
    except NotWritable as error:
        raise e.ObjectRefused(str(error)) from error


def _write_report(path: Path, text: str) -> None:
    """Write the figures. Without its record a version is not promoted."""
    try:
        write_text(path, text)
    except NotWritable as error:
        raise e.ObjectRefused(f"{error}; nothing was changed on the cluster") from error


def _document(line: Line) -> dict[str, Any]:
    return {
        "schema": ROLLOUT,
        "name": line.name,
        "entry": n.entry_name(line.name) if line.entry else None,
        "versions": [asdict(row) for row in line.versions],
    }


def _table(line: Line) -> Table:
    entry = f", clients call {n.entry_name(line.name)}" if line.entry else ""
    table = Table(title=f"{line.name}{entry}", title_justify="left")
    for heading in ("version", "role", "traffic", "ready", "InferenceService", "models", "why"):
        table.add_column(heading, overflow="fold")
    for row in line.versions:
        ready = "yes" if row.ready else "no"
        cells = (row.version, row.role, f"{row.traffic} %", ready, row.service, row.model_uri or "-", row.why)
        table.add_row(*(plain(cell) for cell in cells))
    return table


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _say(outcome: bluegreen.Outcome, dry_run: bool) -> None:
    prefix = "" if outcome.changed else "nothing to do: "
    typer.echo(("dry run, nothing was kept: " if dry_run and outcome.changed else prefix) + outcome.text)
