"""``python -m cytoserve_deploy.rollout``: the same as ``cytoserve deploy``."""

from cytoserve_cli.deploy import app

app(prog_name="cytoserve deploy")
