"""What the local server decides before it starts anything."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cytoserve_contract.names import ENV_CALIBRATION, ENV_MAX_WAIT_S
from cytoserve_deploy import errors
from cytoserve_deploy.launch import drain, repository, runtime, supervisor
from cytoserve_deploy.launch import layout as launch
from cytoserve_deploy.launch.local_server import important_lines
from cytoserve_scoring.serving.admission import Admission

ROOT = Path(__file__).resolve().parents[2]


def test_error_tree_is_the_one_drawn() -> None:
    drawn = [line.split("+-- ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "+-- " in line]
    defined = [name for name, item in vars(errors).items() if isinstance(item, type) and name != "DeployError"]
    assert sorted(drawn) == sorted(defined)
    assert all(issubclass(getattr(errors, name), errors.DeployError) for name in defined)


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("darwin", "arm64", ("", "")), ("linux", "aarch64", ("glibc", "2.36")), ("linux", "x86_64", ("glibc", "2.34"))],
)
def test_other_platforms_are_sent_to_the_container(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, libc: tuple[str, str]
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    with pytest.raises(errors.UnsupportedPlatform, match="container"):
        runtime.check_platform()


def test_musl_is_not_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with pytest.raises(errors.UnsupportedPlatform, match=r"glibc 2\.35"):
        runtime.check_platform()


def test_missing_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.MissingServer, match=r"cytoserve\[serve\]"):
        runtime.find_runtime()


def test_missing_libpython_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    with pytest.raises(errors.MissingLibpython, match="apt-get install libpython3"):
        runtime.find_libpython()


def test_the_stub_finds_its_libpython() -> None:
    """The dynamic loader resolves every library of the stub with the folders the server is given."""
    found = runtime.find_runtime()
    env = launch.environment(launch.ServerOptions(), found, os.environ)
    listing = subprocess.run(["ldd", str(found.stub)], env=env, capture_output=True, text=True, check=True).stdout
    assert f"libpython3.{sys.version_info.minor}.so.1.0 => {found.libpython}" in listing
    assert "not found" not in listing


def test_the_folder_of_calibrations_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models run in another folder; and the option goes before the variable."""
    monkeypatch.chdir(tmp_path)
    found = runtime.find_runtime()
    base = {ENV_CALIBRATION: "/elsewhere"}
    named = launch.environment(launch.ServerOptions(calibration="sites"), found, base)
    assert named[ENV_CALIBRATION] == str(tmp_path / "sites")
    assert launch.environment(launch.ServerOptions(), found, base)[ENV_CALIBRATION] == "/elsewhere"
    assert ENV_CALIBRATION not in launch.environment(launch.ServerOptions(), found, {})


def test_threads_and_foreign_paths_in_the_environment() -> None:
    found = runtime.find_runtime()
    base = {"PYTHONPATH": "/elsewhere", "PYTHONHOME": "/elsewhere", "OMP_NUM_THREADS": "3", "PATH": "/bin"}
    env = launch.environment(launch.ServerOptions(onnx_threads=2, max_wait_s=7.5), found, base)
    assert env["CYTOSERVE_ONNX_THREADS"] == "2"
    assert env[ENV_MAX_WAIT_S] == "7.5"
    assert env["OMP_NUM_THREADS"] == "3", "what the user set stays"
    assert "PYTHONPATH" not in env
    assert "PYTHONHOME" not in env
    assert env["PATH"] == f"{found.interpreter}:/bin"


def test_ports_are_free_and_different() -> None:
    ports = launch.choose_ports(0, 0, 0)
    assert len(set(ports)) == 3
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", ports[0]))


@pytest.mark.parametrize("port", [-1, 70_000])
def test_impossible_ports(port: int) -> None:
    with pytest.raises(errors.PortTaken, match=str(port)):
        launch.choose_ports(port)


def test_same_port_twice() -> None:
    (port,) = launch.choose_ports(0)
    with pytest.raises(errors.PortTaken, match=str(port)):
        launch.choose_ports(port, port)


def test_repository_given_before_environment_before_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, named = tmp_path / "given", tmp_path / "named"
    given.mkdir()
    named.mkdir()
    monkeypatch.delenv(repository.ENV_REPOSITORY, raising=False)
    assert repository.find_repository() == ROOT / "model_repository"
    monkeypatch.setenv(repository.ENV_REPOSITORY, str(named))
    assert repository.find_repository() == named
    assert repository.find_repository(given) == given
    monkeypatch.setenv(repository.ENV_REPOSITORY, str(tmp_path / "nowhere"))
    with pytest.raises(errors.MissingRepository, match=repository.ENV_REPOSITORY):
        repository.find_repository()


def test_no_repository_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(repository.ENV_REPOSITORY, raising=False)
    monkeypatch.setattr(repository, "__file__", str(tmp_path / "a" / "b" / "repository.py"))
    with pytest.raises(errors.MissingRepository, match="--model-repository"):
        repository.find_repository()


def test_layout_links_models_and_changes_only_the_count(tmp_path: Path) -> None:
    source, target = ROOT / "model_repository", tmp_path / "laid out"
    repository.lay_out(source, target, {"scorer": 5})
    names = sorted(path.parent.name for path in source.glob("*/config.pbtxt"))
    assert sorted(path.name for path in target.iterdir()) == names
    for name in names:
        before, after = ((root / name / "config.pbtxt").read_text() for root in (source, target))
        assert after == (before.replace("count: 2", "count: 5") if name == "scorer" else before)
        for file in (source / name / "1").glob("*.*"):
            assert (target / name / "1" / file.name).resolve() == file
    assert "count: 5" in (target / "scorer" / "config.pbtxt").read_text()


@pytest.mark.parametrize("folder", ["model_repository", "model_repository_synthesis"])
def test_committed_repositories_are_whole(folder: str) -> None:
    assert repository.check_repository(ROOT / folder)


def test_log_lines_that_matter() -> None:
    log = "\n".join(
        [
            "2026-11-23T20:14:53Z I 1 server.cc:2] fine",
            '2026-11-23T20:14:53Z E 1 ensemble.cc:1] "CUDA driver version is insufficient"',
            r'2026-11-23T20:14:53Z E 1 model.cc:6] "failed to load encoder: ValueError: x\n\nAt:\n  a.py(1): f"',
            '2026-11-23T20:14:53Z E 1 model.cc:6] "ensemble e depends on encoder which has no loaded version."',
            "| encoder | 1 | UNAVAILABLE: Internal: ValueError: x |",
            *["2026-11-23T20:14:53Z I 1 server.cc:2] unloading"] * 30,
            "error: creating server: Internal - failed to load all models",
        ]
    )
    assert important_lines(log).splitlines() == [
        '2026-11-23T20:14:53Z E 1 model.cc:6] "failed to load encoder: ValueError: x',
        "error: creating server: Internal - failed to load all models",
    ]
    assert important_lines("a\nb\n\n") == "a\nb"
    assert important_lines("") == "(the log is empty)"


def test_sweep_spares_others(tmp_path: Path) -> None:
    """A process and a region of the group go; a process of another group and another's region stay."""
    prefix = f"cytoserve-test-{os.getpid()}-"
    mine, other = (Path("/dev/shm") / f"{name}x" for name in (prefix, prefix[:-1] + "0"))
    mine.touch()
    other.touch()
    inside, outside = (subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(2))
    try:
        (tmp_path / "scratch").mkdir()
        assert supervisor.sweep(inside.pid, prefix, str(tmp_path / "scratch")) == []
        assert inside.wait(5) == -9
        assert outside.poll() is None
        assert not mine.exists()
        assert other.exists()
        assert not (tmp_path / "scratch").exists()
    finally:
        other.unlink()
        outside.kill()
        outside.wait()


def test_empty_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="everybody"):
        supervisor.shared_memory("")


@pytest.fixture
def busy() -> Iterator[int]:
    """The process id of a process that computes without end."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.kill()


def test_the_server_is_not_at_rest_while_it_only_waits_for_its_turn(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a step half way can get no processor time in a whole window."""
    monkeypatch.setattr(drain, "processor_ticks", lambda _: 0)
    assert not drain.at_rest(lambda: [busy])


def test_the_server_is_not_at_rest_while_it_computes(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "is_working", lambda _: False)
    assert not drain.at_rest(lambda: [busy])


def test_draining_ends_when_the_server_is_at_rest(tmp_path: Path) -> None:
    file = tmp_path / "draining"
    with subprocess.Popen(["sleep", "60"]) as child:
        assert drain.drain(str(file), lambda: [child.pid], 20)
        child.kill()
    assert file.exists()


def test_draining_waits_for_what_was_let_in_though_nothing_runs(tmp_path: Path) -> None:
    """Between two steps a request is computed by nobody; the table of requests has it until its last step."""
    table, file = tmp_path / "under way", tmp_path / "draining"
    admission = Admission(table, 60.0)
    ticket = admission.enter(1.0, float("inf"))
    assert drain.requests_under_way(str(table))
    with subprocess.Popen(["sleep", "60"]) as child:
        timer = threading.Timer(0.8, admission.leave, [ticket])
        timer.start()
        began = time.monotonic()
        assert drain.drain(str(file), lambda: [child.pid], 20, lambda: drain.requests_under_way(str(table)))
        assert 0.8 <= time.monotonic() - began < 2.5
        child.kill()
    assert not drain.requests_under_way(str(table))


def test_a_request_that_nobody_ends_does_not_keep_the_server(tmp_path: Path) -> None:
    table = tmp_path / "under way"
    Admission(table, 60.0).enter(1.0, float("inf"))
    with subprocess.Popen(["sleep", "60"]) as child:
        began = time.monotonic()
        under_way = lambda: drain.requests_under_way(str(table))  # noqa: E731
        assert drain.drain(str(tmp_path / "draining"), lambda: [child.pid], 20, under_way)
        assert time.monotonic() - began < 10
        child.kill()
    assert not drain.requests_under_way(str(tmp_path / "none"))
    (tmp_path / "torn").write_bytes(b"abc")
    assert not drain.requests_under_way(str(tmp_path / "torn"))


def test_draining_ends_after_its_limit(busy: int, tmp_path: Path) -> None:
    assert not drain.drain(str(tmp_path / "draining"), lambda: [busy], 0.3)
