"""Does the server speak our contract? Checked at first use, and again after the server was away."""

from __future__ import annotations

import json
from typing import Any

from cytoserve_contract.models import MODELS
from cytoserve_contract.parameters import HOME_SITE
from pydantic import BaseModel, ConfigDict, ValidationError

from cytoserve_client import _wire
from cytoserve_client._config import Expectation
from cytoserve_client.errors import ContractMismatch
from cytoserve_client.results import ModelInfo


class ReferralInfo(BaseModel):
    """Which share of a site's cells is referred, as its calibration expects."""

    model_config = ConfigDict(frozen=True, extra="allow")

    value: float
    low: float
    high: float
    """The band outside which an alert is raised."""
    cells: int
    """Calibration cells that the share was measured on."""


class SiteInfo(BaseModel):
    """One site whose calibration the server holds, as ``service_info`` lists it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    site: str
    created: str | None = None
    content_sha256: str | None = None
    """Hash of the calibration: two servers, or one before and after a restart, decide alike where it is the same."""
    promise: dict[str, Any] | None = None
    """The risk guarantee: tolerated error, confidence, cells."""
    expected_referral: ReferralInfo | None = None
    familiar_cells: int | None = None
    """Calibration cells that pictures are compared with; None or 0: nothing is accepted for this site."""
    default_budget: int | None = None
    calibrated_budgets: tuple[int, ...] | None = None


class ServiceInfo(BaseModel):
    """The answer of ``service_info``; keys that this release does not know are kept in ``model_extra``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    version: str
    classes: tuple[str, ...]
    weights_sha256: str | dict[str, str] | None = None
    sites: tuple[SiteInfo, ...] | None = None
    """The sites whose calibrations the server holds, the model's own first; None from a release without sites."""

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites that a request may name."""
        return tuple(site.site for site in self.sites or ()) or (HOME_SITE,)

    def site(self, name: str) -> SiteInfo | None:
        """Return what the server declares of a site; None where it declares none of that name."""
        return next((one for one in self.sites or () if one.site == name), None)

    @property
    def probes(self) -> int | None:
        """Probes in the model's bank, which is the largest budget; None where the server does not declare it."""
        return self._whole("probes")

    @property
    def default_budget(self) -> int | None:
        """Most noise samples of a cell when a request names no budget; None where the server does not declare it."""
        return self._whole("default_budget")

    @property
    def default_alpha(self) -> float | None:
        """Level of racing when a request names none; None where no class is dropped early, or it is not declared."""
        value = (self.model_extra or {}).get("default_alpha")
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def _whole(self, key: str) -> int | None:
        # Not fields: a server of another release that declares nothing, or something else, is still understood.
        value = (self.model_extra or {}).get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def model(self) -> ModelInfo:
        """The part that every result carries."""
        return ModelInfo(name=self.name, version=self.version, classes=self.classes, weights_sha256=self.weights_sha256)


def parse_info(response: Any) -> ServiceInfo:
    """Return the content of an answer of ``service_info``."""
    texts = _wire.read_tensors(_wire.INFO_MODEL, response).texts["INFO"]
    try:
        info = ServiceInfo.model_validate(json.loads(texts[0]))
    except (IndexError, ValueError, ValidationError) as error:
        raise ContractMismatch(f"service_info does not answer the JSON of the contract: {error}") from error
    if not info.classes or len(set(info.classes)) != len(info.classes) or not all(info.classes):
        raise ContractMismatch(f"service_info names no usable classes: {list(info.classes)}")
    if len(set(info.site_names)) != len(info.site_names) or not all(info.site_names):
        raise ContractMismatch(f"service_info names a site twice, or one without a name: {list(info.site_names)}")
    return info


def basis_of(info: ServiceInfo, site: str) -> str:
    """Return all that a site's answers depend on (model, its calibration, defaults) as text to compare.

    Versions of Triton are left out, and the calibrations of other sites: they may change during a call.
    """
    told = info.model_dump(mode="json", exclude={"server", "limits", "sites"})
    own = [one.model_dump(mode="json") for one in info.sites or () if one.site == site]
    return json.dumps({**told, "site": own}, sort_keys=True)


def check_expectation(info: ServiceInfo, expect: Expectation) -> None:
    """Compare the served model with what the caller requires; `ContractMismatch` names both sides."""
    if expect.classes is not None and tuple(expect.classes) != info.classes:
        raise ContractMismatch(f"classes expected {list(expect.classes)}, served {list(info.classes)} (order counts)")
    if expect.version is not None and expect.version != info.version:
        raise ContractMismatch(f"model version expected {expect.version!r}, served {info.version!r}")
    if expect.weights_sha256 is not None:
        served = info.weights_sha256
        hashes = set(served.values()) if isinstance(served, dict) else {served}
        if expect.weights_sha256 not in hashes:
            raise ContractMismatch(f"weights expected {expect.weights_sha256}, served {served}")


def check_metadata(model: str, response: Any) -> None:
    """Compare a model's tensors with the contract; `ContractMismatch` lists those missing or of another type."""
    wrong: list[str] = []
    for side, specs, tensors in (
        ("input", MODELS[model].inputs, response.inputs),
        ("output", MODELS[model].outputs, response.outputs),
    ):
        served = {tensor.name: tensor.datatype for tensor in tensors}
        for spec in specs:
            datatype = served.get(spec.name)
            if datatype != spec.datatype:
                wrong.append(f"{side} {spec.name} is {datatype or 'missing'} instead of {spec.datatype}")
    if wrong:
        raise ContractMismatch(f"{model}: {'; '.join(wrong)}. Client and server are of different releases.")
