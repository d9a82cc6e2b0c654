"""A repository's hashes before a server starts: the contract's check, with an error of this room's tree."""

from __future__ import annotations

from pathlib import Path

from cytoserve_contract.manifest import Comparison, NoRepository, RepositoryFault, check_repository_files

from cytoserve_deploy.errors import MissingRepository, RepositoryRefused


def verify_files(folder: Path, expected_manifest: str = "", strict: bool = True, caches: bool = False) -> Comparison:
    """Refuse a repository that is not what its manifest says; see `check_repository_files`.

    `strict` also refuses files that the manifest does not name, `caches` what Python caches beside a ``model.py``.

    Raises
    ------
    MissingRepository, RepositoryRefused
        There is no such folder, or its manifest or a file is missing, unreadable or another one.
    """
    try:
        return check_repository_files(folder, expected_manifest, refuse_unlisted=strict, refuse_caches=caches)
    except NoRepository as fault:
        raise MissingRepository(str(fault)) from fault
    except RepositoryFault as fault:
        raise RepositoryRefused(str(fault)) from fault
