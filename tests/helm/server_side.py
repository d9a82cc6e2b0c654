"""Server-side apply in small: who owns a field, and the conflict where another manager's value would change.

By the rules of Kubernetes' documentation, "Server-Side Apply". Lists are taken as one value; the chart's conflicts are
about scalars.
"""

from __future__ import annotations

from typing import Any, Final

Object = dict[str, Any]
HELM: Final = "helm"
Path = tuple[str, ...]


class Conflict(Exception):
    """The API server's 409: names the manager and the field."""


class Applied:
    """An object on the server: its fields, and the managers of each."""

    def __init__(self) -> None:
        self.values: dict[Path, Any] = {}
        self.managers: dict[Path, set[str]] = {}

    def apply(self, obj: Object, manager: str = HELM, force_conflicts: bool = False) -> None:
        """Apply a manifest as one manager; what it named before and does not name now is given up.

        Raises
        ------
        Conflict
            Where another manager owns a field of another value, unless conflicts are forced.
        """
        wanted = dict(_leaves(obj, ()))
        others = {path: self.managers.get(path, set()) - {manager} for path in wanted}
        disputed = [path for path, owners in others.items() if owners and self.values[path] != wanted[path]]
        if disputed and not force_conflicts:
            path = disputed[0]
            raise Conflict(f"conflict with {sorted(others[path])}: .{'.'.join(path)}")
        for path in [path for path, owners in self.managers.items() if manager in owners and path not in wanted]:
            self._give_up(path, manager)
        for path, value in wanted.items():
            owners = set() if path in disputed else others[path]
            self.values[path], self.managers[path] = value, owners | {manager}

    def set(self, path: str, value: Any, manager: str) -> None:
        """Change one field, as ``kubectl scale`` or an autoscaler does: its manager owns the field from now on."""
        key = tuple(path.split("."))
        self.values[key], self.managers[key] = value, {manager}

    def _give_up(self, path: Path, manager: str) -> None:
        self.managers[path].discard(manager)
        if not self.managers[path]:
            del self.managers[path], self.values[path]


def _leaves(item: Any, path: Path) -> list[tuple[Path, Any]]:
    if isinstance(item, dict) and item:
        return [leaf for key, value in item.items() for leaf in _leaves(value, (*path, key))]
    return [(path, item)]
