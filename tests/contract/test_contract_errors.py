"""Error codes: one class for each on either side, and the same status, remedy and chance of a retry."""

from __future__ import annotations

import cytoserve_client.errors
import cytoserve_scoring.errors
import pytest
from cytoserve_client.errors import BY_CODE, CytoserveClientError, error_from_status
from cytoserve_contract.codes import CODES, ErrorCode
from cytoserve_scoring.errors import CytoserveError


def tree(base: type, module: str) -> list[type]:
    """Return a class and all below it that its module defines."""
    found = [base]
    for child in base.__subclasses__():
        found += tree(child, module)
    return [kind for kind in found if kind.__module__ == module]


SERVER = tree(CytoserveError, cytoserve_scoring.errors.__name__)
CLIENT = tree(CytoserveClientError, cytoserve_client.errors.__name__)


def classes_of(code: str, kinds: list[type], attribute: str) -> list[type]:
    """Return the classes of a code; one that only groups classes below it, one of them of the same code, is none."""
    same = [kind for kind in kinds if getattr(kind, attribute) == code]
    return [kind for kind in same if not any(other is not kind and issubclass(other, kind) for other in same)]


@pytest.mark.parametrize("code", [code for code in ErrorCode if code.is_servers], ids=str)
def test_a_code_of_the_server_has_one_class_on_each_side(code: ErrorCode) -> None:
    assert len(classes_of(code.value, SERVER, "code")) == 1
    assert len(classes_of(code.value, CLIENT, "default_code")) == 1


@pytest.mark.parametrize("code", [code for code in ErrorCode if not code.is_servers], ids=str)
def test_a_code_of_the_client_has_one_class_there_and_none_at_the_server(code: ErrorCode) -> None:
    assert len(classes_of(code.value, CLIENT, "default_code")) == 1
    assert classes_of(code.value, SERVER, "code") == []


def test_no_class_has_a_code_of_its_own() -> None:
    assert {kind.code for kind in SERVER} <= set(CODES)  # type: ignore[attr-defined]
    assert {kind.default_code for kind in CLIENT} - {CytoserveClientError.default_code} == set(CODES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", ErrorCode, ids=str)
def test_a_status_without_a_code_becomes_the_class_whose_status_it_is(code: ErrorCode) -> None:
    assert BY_CODE[code.value].default_retryable is code.retryable
    for status in code.statuses:
        error = error_from_status(status, "details")
        assert type(error) is BY_CODE[code.value]
        assert error.message.endswith(code.remedy)


def test_a_code_that_only_the_client_gives_is_not_believed_from_a_server() -> None:
    error = error_from_status("INTERNAL", "[cytoserve:own_overlay] odd")
    assert type(error) is cytoserve_client.errors.InvalidInput
