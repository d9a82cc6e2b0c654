"""The sites of one server: the model's own calibration, ``home``, and one for each file in the folder of calibrations.

A request names its site, and the engine of that site answers it; a request that names none is the home site's. All
sites are read and checked at start, and nothing is read again: a changed folder holds from the next start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cytoserve_contract.parameters import HOME_SITE, folded_site
from cytoserve_files import read_text

from cytoserve_scoring.classifier.engine import ScoringEngine
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.errors import BadParameter
from cytoserve_scoring.serving import calibration_folder, site
from cytoserve_scoring.serving.site import AGAIN, FITTED, CalibrationRefused, ReferralBand, ServedModel

LISTED_BYTES: Final = 1000
"""Most bytes of the list of sites in an error; the error travels in a header."""


@dataclass(frozen=True)
class Site:
    """One site that is served."""

    name: str
    """What a request says to be answered by its calibration."""
    engine: ScoringEngine
    expected_referral: ReferralBand | None
    """None: the model brings none."""
    content_sha256: str
    """Hash of the calibration; of the home site, of the model's whole ``scoring.json``."""
    created: str | None = None
    promise: Any = None
    """The risk guarantee, as the calibration states it."""

    def to_json(self) -> dict[str, Any]:
        """Return what `service_info` says of it."""
        config = self.engine.config
        return {
            "site": self.name,
            "created": self.created,
            "content_sha256": self.content_sha256,
            "promise": self.promise,
            "expected_referral": None if self.expected_referral is None else self.expected_referral.to_json(),
            "familiar_cells": None if config.familiar is None else config.familiar.cells,
            "default_budget": config.default_budget,
            "calibrated_budgets": None if config.calibrated is None else list(config.calibrated),
        }


class Sites:
    """The sites of one server by name, the home site first."""

    def __init__(self, served: Iterable[Site]) -> None:
        self._by_name = {one.name: one for one in served}

    def __iter__(self) -> Iterator[Site]:
        """Iterate over the sites, the home site first."""
        return iter(self._by_name.values())

    def chosen(self, name: str | None) -> Site:
        """Return the site that a request names; None, not sent, is the home site.

        Raises
        ------
        BadParameter
            It is not served here.
        """
        return self._by_name[chosen(name, self._by_name)]

    @property
    def home(self) -> Site:
        """The model's own calibration."""
        return self._by_name[HOME_SITE]

    @classmethod
    def load(cls, scoring_file: Path, folder: str | Path | None) -> Sites:
        """Read the model's own calibration and those of a folder.

        Parameters
        ----------
        scoring_file : Path
            ``<repository>/scorer/<version>/scoring.json``.
        folder : str, Path or None
            Folder of the calibrations; None or empty text: none.

        Raises
        ------
        CytoserveError
            The model's file cannot be used, or a file of the folder must not be (`CalibrationRefused`).
        """
        data = json.loads(read_text(scoring_file))
        own = _home(data)
        served = ServedModel(weights_of(scoring_file), site.procedure_sha256(data))
        sites = [own]
        for name, document, source in _documents(folder):
            site.check(document, served, source)
            sites.append(_from_document(name, document, data, own.engine.config, source))
        return cls(sites)


def names(folder: str | Path | None) -> tuple[str, ...]:
    """Return the sites that a server with this folder has, the home site first.

    The calibrations themselves are not checked: the scorer does that, and a server with a wrong one does not start.

    Raises
    ------
    CalibrationRefused
        A file that must not be read, is no calibration, names no site, or the site of another file.
    """
    return (HOME_SITE, *(name for name, _, _ in _documents(folder)))


def chosen(name: str | None, served: Iterable[str]) -> str:
    """Return the site that a request names, or the home site if it names none.

    Raises
    ------
    BadParameter
        It is not served; the message lists those that are, `LISTED_BYTES` at most.
    """
    if name is None:
        return HOME_SITE
    known = tuple(served)
    if name in known:
        return name
    listed, length = 0, 0
    while listed < len(known) and (length := length + len(known[listed].encode()) + 2) <= LISTED_BYTES:
        listed += 1
    more = f" and {len(known) - listed} more (`cytoserve info` lists all)" if listed < len(known) else ""
    raise BadParameter(f"site '{name}' is not served here; choose from {', '.join(known[:listed])}{more}")


def weights_of(scoring_file: Path) -> str | None:
    """Return the hash of the weights that ``service_info`` beside the scorer declares, or None."""
    beside = scoring_file.parents[2] / "service_info" / "1" / "service.json"
    if not beside.is_file():
        return None
    value = json.loads(read_text(beside)).get("weights_sha256")
    return value if isinstance(value, str) else None


def _documents(folder: str | Path | None) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield name, document and file name of each calibration in a folder; no two of them of one site."""
    taken = {folded_site(HOME_SITE): "the model's own calibration"}
    for file in calibration_folder.find(folder) if folder else ():
        document = site.parse(calibration_folder.read_safely(file), file.name)
        site.check_schema(document, file.name)
        name = site.name_of(document, file.name)
        if (other := taken.get(folded_site(name))) is not None:
            raise CalibrationRefused(
                f"{file.name} and {other} are both of the site '{name}' (capitals and blanks do not tell sites apart); "
                f"keep one of them, or {AGAIN} --site with another name"
            )
        taken[folded_site(name)] = file.name
        yield name, document, file.name


def _home(data: Mapping[str, Any]) -> Site:
    expected = data.get("expected_referral")
    return Site(
        HOME_SITE,
        ScoringEngine(ScoringConfig.from_json(dict(data))),
        None if expected is None else ReferralBand.from_json(expected, "scoring.json"),
        site.content_sha256(data),
        promise=data.get("promise"),
    )


def _from_document(
    name: str, document: Mapping[str, Any], data: Mapping[str, Any], own: ScoringConfig, source: str
) -> Site:
    """Return the site of a checked document: the model's settings, with what the site measured in its place."""
    # What no site replaces is taken from the model's own settings, not read again for each site.
    shared = {"elimination": None, "second_look": None}
    try:
        config = ScoringConfig.from_json({**data, **shared, **{key: document[key] for key in FITTED}})
    except (ValueError, AttributeError, OverflowError) as error:  # CytoserveError is a ValueError
        raise CalibrationRefused(f"{source} does not fit this model: {error.__cause__ or error}; {AGAIN}") from error
    config = replace(
        config,
        racing=own.racing,
        augmentation=own.augmentation,
        default_budget=_default_budget(document, own, source),
        anomaly_level=_anomaly_level(document, own.anomaly_level, source),
    )
    created = document.get("created")
    return Site(
        name,
        ScoringEngine(config),
        ReferralBand.from_json(document["expected_referral"], source),
        str(document["content_sha256"]),
        created if isinstance(created, str) else None,
        document["promise"],
    )


def _default_budget(document: Mapping[str, Any], own: ScoringConfig, source: str) -> int:
    """Return the budget of requests that name none: the site's, or the model's own where the site has none."""
    budget = document.get("default_budget")
    if budget is None:
        return own.default_budget
    if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= own.probes:
        raise CalibrationRefused(
            f"{source} has the default_budget {budget!r}; it must be from 1 to {own.probes}; {AGAIN}"
        )
    return budget


def _anomaly_level(document: Mapping[str, Any], own: float, source: str) -> float:
    """Return the site's level of the anomaly check, or the model's own: files of earlier releases name none."""
    level = document.get("anomaly_level", own)
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise CalibrationRefused(f"{source} has the anomaly_level {level!r}; it must lie between 0 and 1; {AGAIN}")
    return float(level)
