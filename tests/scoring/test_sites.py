"""Several sites of one server: which files count, which are refused and why, and what a request gets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cytoserve_scoring.errors import BadParameter
from cytoserve_scoring.serving import calibration_folder, sites
from cytoserve_scoring.serving.calibration_folder import MAX_SITES, find
from cytoserve_scoring.serving.service import describe
from cytoserve_scoring.serving.site import CALIBRATION_ENV, MAX_FILE_BYTES, CalibrationRefused, content_sha256
from cytoserve_scoring.serving.sites import Sites, names
from ordinary_pictures import ordinary
from site_files import BAND, SCORING, model, put


@pytest.fixture
def scoring_file(tmp_path: Path) -> Path:
    return model(tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two sites."""
    put(tmp_path / "sites", "a.json", site="north")
    put(tmp_path / "sites", "b.json", site="Ward 7, scanner A", accept_threshold=[None, 0.5], default_budget=None)
    return tmp_path / "sites"


def test_the_home_site_stands_first_and_is_the_models_own(scoring_file: Path, folder: Path) -> None:
    """Also where the folder holds files: no file replaces the model's own calibration."""
    served = Sites.load(scoring_file, folder)
    assert [one.name for one in served] == ["home", "north", "Ward 7, scanner A"]
    assert names(folder) == ("home", "north", "Ward 7, scanner A")
    assert served.chosen(None) is served.chosen("home") is served.home
    assert [b.temperature for b in served.home.engine.config.budgets] == [1.0, 1.0]
    assert served.home.expected_referral is None
    assert names(None) == names("") == ("home",)


def test_each_site_has_its_own_thresholds_and_defaults(scoring_file: Path, folder: Path) -> None:
    """The same cell, the same errors: another site, another answer."""
    served = Sites.load(scoring_file, folder)
    latents, flags = np.zeros((1, 1, 2, 2), np.float32), np.zeros(1, np.int32)

    def answered(site: str) -> Any:
        return served.chosen(site).engine.score(
            latents,
            flags,
            lambda _latents, _probes, classes: (2.0 * (classes == 1)).astype(np.float32),
            budget=2,
            statistics=ordinary(1),
        )

    strict, lax = answered("north"), answered("Ward 7, scanner A")
    assert strict.posterior.tolist() == lax.posterior.tolist()  # 1 / (1 + exp(-2 / 2)) = 0.73
    assert 0.5 < strict.posterior[0, 0] < 0.99
    assert ["low_confidence" in answer.reasons[0].split(",") for answer in (strict, lax)] == [True, False]
    defaults = {one.name: one.engine.config.default_budget for one in served}
    assert defaults == {"home": 1, "north": 2, "Ward 7, scanner A": 1}


@pytest.mark.parametrize("asked", ["south", "North", "HOME", " north", "Ward 7,  scanner A"])
def test_an_unknown_site_is_refused_with_the_list(scoring_file: Path, folder: Path, asked: str) -> None:
    with pytest.raises(BadParameter) as refused:
        Sites.load(scoring_file, folder).chosen(asked)
    assert str(refused.value) == f"site '{asked}' is not served here; choose from home, north, Ward 7, scanner A"


def test_a_long_list_of_sites_is_cut_and_says_so() -> None:
    served = ["home", *(f"{number:03d}" + "x" * 97 for number in range(100))]
    with pytest.raises(BadParameter, match=r"and 91 more \(`cytoserve info` lists all\)$") as refused:
        sites.chosen("y" * 100, served)
    assert len(str(refused.value)) < 1300
    assert "(cut)" not in refused.value.wire()
    with pytest.raises(BadParameter, match="more") as refused:
        sites.chosen("\U0001f52c" * 100, ["home", *(f"{number:03d}" + "\U0001f52c" * 97 for number in range(100))])
    assert "(cut)" not in refused.value.wire()


@pytest.mark.parametrize("other", ["north", "North", "NORTH", "n orth", "\uff4eorth"])
def test_two_files_for_one_site_are_refused(scoring_file: Path, tmp_path: Path, other: str) -> None:
    """Nor may capitals and blanks tell sites apart: a caller would be answered by the wrong one."""
    put(tmp_path / "sites", "a.json", site="north")
    put(tmp_path / "sites", "b.json", site=other)
    for load in (lambda: Sites.load(scoring_file, tmp_path / "sites"), lambda: names(tmp_path / "sites")):
        with pytest.raises(CalibrationRefused, match=r"^b\.json and a\.json are both of the site .*keep one"):
            load()


@pytest.mark.parametrize("name", ["home", "Home", "h ome"])
def test_no_file_takes_the_models_own_name(scoring_file: Path, tmp_path: Path, name: str) -> None:
    put(tmp_path / "sites", site=name)
    with pytest.raises(CalibrationRefused, match=r"^north\.json and the model's own .*--site with another name"):
        Sites.load(scoring_file, tmp_path / "sites")


def test_one_bad_file_stops_the_start(scoring_file: Path, folder: Path) -> None:
    (folder / "c.json").write_text("{")
    with pytest.raises(CalibrationRefused, match=r"^c\.json"):
        Sites.load(scoring_file, folder)


def test_what_is_no_calibration_is_passed_over(scoring_file: Path, folder: Path) -> None:
    for name in ("a.json.bak", "a.json.sig", "a.json~", "README", ".a.json", "._a.json", "json", "a.jsonl"):
        (folder / name).write_text("nothing of ours")
    (folder / "lost+found").mkdir()
    assert [file.name for file in find(folder)] == ["a.json", "b.json"]
    assert len(list(Sites.load(scoring_file, folder))) == 3


def test_a_site_is_not_passed_over_for_its_ending(scoring_file: Path, folder: Path) -> None:
    (folder / "a.json").rename(folder / "a.JSON")
    with pytest.raises(CalibrationRefused, match=r"^a\.JSON would be passed over for its ending; rename it"):
        Sites.load(scoring_file, folder)


def test_a_thousand_files_are_refused_by_their_number(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}.json").touch()
    with pytest.raises(CalibrationRefused, match=f"holds 1000 calibrations, and one server takes {MAX_SITES}"):
        names(tmp_path)


def test_as_many_sites_as_are_allowed(scoring_file: Path, tmp_path: Path) -> None:
    for number in range(MAX_SITES):
        put(tmp_path / "sites", f"{number}.json", site=f"site {number}")
    assert len(list(Sites.load(scoring_file, tmp_path / "sites"))) == MAX_SITES + 1


def test_a_file_over_the_limit_is_refused(scoring_file: Path, folder: Path) -> None:
    with (folder / "c.json").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(CalibrationRefused, match=r"^c\.json has more than 16 MiB"):
        Sites.load(scoring_file, folder)


def test_a_file_that_everybody_may_write_to_is_refused(scoring_file: Path, folder: Path) -> None:
    (folder / "a.json").chmod(0o646)
    with pytest.raises(CalibrationRefused, match=r"^a\.json may be written to by everybody; `chmod o-w` it"):
        Sites.load(scoring_file, folder)
    (folder / "a.json").chmod(0o664)  # the operator's group may
    assert len(list(Sites.load(scoring_file, folder))) == 3


class ReadOnly:
    """What ``statvfs`` says of a mount that nobody may write to."""

    f_flag = os.ST_RDONLY


def test_a_folder_that_everybody_may_write_to_is_refused(
    scoring_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.chmod(0o777)
    with pytest.raises(CalibrationRefused, match=r"folder of calibrations .*sites may be written to by everybody"):
        Sites.load(scoring_file, folder)
    folder.chmod(0o1777)  # nobody may exchange another's files
    assert len(list(Sites.load(scoring_file, folder))) == 3
    folder.chmod(0o777)
    monkeypatch.setattr(calibration_folder.os, "statvfs", lambda _path: ReadOnly)
    assert len(list(Sites.load(scoring_file, folder))) == 3


def as_config_map(folder: Path) -> Path:
    """Arrange a folder as Kubernetes mounts a ConfigMap: links to a folder behind a link, all inside."""
    made = folder / "..2026_11_26_09_00_00.123456789"
    made.mkdir()
    (folder / "..data").symlink_to(made.name)
    for file in find(folder):
        file.rename(made / file.name)
        file.symlink_to(Path("..data", file.name))
    return made


def test_a_mounted_config_map_is_read(scoring_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_config_map(folder)
    folder.chmod(0o777)
    monkeypatch.setattr(calibration_folder.os, "statvfs", lambda _path: ReadOnly)
    assert (folder / "a.json").is_symlink()
    assert [one.name for one in Sites.load(scoring_file, folder)] == ["home", "north", "Ward 7, scanner A"]


def test_a_folder_behind_a_link_is_read(scoring_file: Path, folder: Path) -> None:
    (folder.parent / "current").symlink_to(folder)
    assert len(list(Sites.load(scoring_file, folder.parent / "current"))) == 3


def test_a_folder_within_that_everybody_may_write_to_is_refused(scoring_file: Path, folder: Path) -> None:
    as_config_map(folder).chmod(0o777)
    with pytest.raises(CalibrationRefused, match=r"folder of calibrations .*\.\.2026.* by everybody"):
        Sites.load(scoring_file, folder)


@pytest.mark.parametrize("target", ["../outside.json", "/etc/hostname", "b/../../outside.json"])
def test_a_link_out_of_the_folder_is_refused(scoring_file: Path, folder: Path, target: str) -> None:
    put(folder.parent, "outside.json", site="outside")
    (folder / "b").mkdir()
    (folder / "c.json").symlink_to(target)
    with pytest.raises(CalibrationRefused, match=r"^c\.json is a link out of the folder of calibrations; copy"):
        Sites.load(scoring_file, folder)


@pytest.mark.parametrize("target", ["nowhere.json", "c.json"])
def test_a_link_to_nowhere_is_refused(scoring_file: Path, folder: Path, target: str) -> None:
    (folder / "c.json").symlink_to(target)
    with pytest.raises(CalibrationRefused, match=r"^c\.json cannot be read"):
        Sites.load(scoring_file, folder)


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_at_once(scoring_file: Path, folder: Path) -> None:
    os.mkfifo(folder / "c.json")
    with pytest.raises(CalibrationRefused, match=r"^c\.json.* is a named pipe"):
        Sites.load(scoring_file, folder)


def test_a_folder_with_the_ending_is_refused(scoring_file: Path, folder: Path) -> None:
    (folder / "c.json").mkdir()
    with pytest.raises(CalibrationRefused, match=r"^c\.json.* is a folder"):
        Sites.load(scoring_file, folder)


def test_the_service_lists_its_sites(scoring_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one["site"] for one in describe({}, scoring_file)["sites"]] == ["home"]
    monkeypatch.setenv(CALIBRATION_ENV, str(folder))
    told = describe({}, scoring_file)
    assert "calibration" not in told
    home, north, ward = told["sites"]
    assert home == {
        "site": "home",
        "created": None,
        "content_sha256": content_sha256(SCORING),
        "promise": None,
        "expected_referral": None,
        "familiar_cells": None,
        "default_budget": 1,
        "calibrated_budgets": None,
    }
    document = json.loads((folder / "a.json").read_text())
    assert north["content_sha256"] == document["content_sha256"]
    assert (north["expected_referral"], north["familiar_cells"]) == (BAND, 200)
    assert (north["default_budget"], north["calibrated_budgets"]) == (2, [2])
    assert (ward["site"], ward["promise"]) == ("Ward 7, scanner A", {"n": 400})
    assert (told["default_budget"], told["calibrated_budgets"]) == (1, None), "the home site's"
    json.dumps(told, allow_nan=False)
