"""``python -m cytoserve_deploy.rollout``: the same as ``cytoserve deploy``."""

from .commands import app

app(prog_name="cytoserve deploy")
