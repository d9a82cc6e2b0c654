"""Find NVIDIA's ``tritonserver`` in the wheel ``nvidia-pytriton`` and what it needs to run here.

The wheel is located without importing it: importing ``pytriton`` pulls in its whole Python server.
"""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cytoserve_deploy.errors import MissingLibpython, MissingServer, MissingStub, UnsupportedPlatform

MIN_GLIBC: Final = (2, 35)
"""Oldest C library the wheel is linked for."""

SERVED_WITH: Final = ("onnxruntime", "scipy")
"""Packages the models import, which only the extra ``serve`` installs."""

STUB_NAME: Final = "triton_python_backend_stub"
OUR_BACKENDS: Final = Path(__file__).parent / "backends"
"""Python-based Triton backends of this package; one folder each."""


@dataclass(frozen=True)
class TritonRuntime:
    """Paths of the bundled server.

    ``binary`` is ``tritonserver``, ``libraries`` the folder of its shared libraries, ``python_backend`` the folder of
    Triton's Python backend and ``stub`` that backend's stub for the running Python. ``libpython`` is the folder of the
    ``libpython3.X.so.1.0`` the stub is linked to; ``interpreter`` that of the running ``python3``.
    """

    binary: Path
    libraries: Path
    python_backend: Path
    stub: Path
    libpython: Path
    interpreter: Path


def find_runtime() -> TritonRuntime:
    """Locate the bundled server for the running Python.

    Raises
    ------
    UnsupportedPlatform, MissingServer, MissingStub, MissingLibpython
    """
    check_platform()
    lacking = [name for name in SERVED_WITH if importlib.util.find_spec(name) is None]
    if lacking:
        raise MissingServer(f"the models need {', '.join(lacking)}; run: pip install 'cytoserve[serve]'")
    try:
        spec = importlib.util.find_spec("pytriton")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise MissingServer("the local Triton is not installed; run: pip install 'cytoserve[serve]'")
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    binary = server / "bin" / "tritonserver"
    if not binary.is_file():
        raise MissingServer(
            "the installed nvidia-pytriton carries no tritonserver; "
            "run: pip install --force-reinstall 'cytoserve[serve]'"
        )
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / minor / STUB_NAME
    if not stub.is_file():
        there = sorted((p.name for p in stub.parent.parent.glob("3.*")), key=lambda v: int(v.split(".")[1]))
        raise MissingStub(f"no Triton stub for Python {minor}; use one of Python {', '.join(there)}")
    return TritonRuntime(
        binary=binary,
        libraries=package.parent / "nvidia_pytriton.libs",
        python_backend=server / "backends" / "python",
        stub=stub,
        libpython=find_libpython(),
        interpreter=find_interpreter(),
    )


def check_platform() -> None:
    """Raise `UnsupportedPlatform` unless this is x86-64 Linux with a new enough glibc."""
    remedy = "run the server in a container instead (see docs/deploy.md) and give its address with --url"
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise UnsupportedPlatform(
            f"the local Triton runs on x86-64 Linux only, this is {platform.machine()} {platform.system()}; {remedy}"
        )
    name, version = platform.libc_ver()
    try:
        found = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        found = ()
    if name != "glibc" or found < MIN_GLIBC:
        wanted = ".".join(map(str, MIN_GLIBC))
        raise UnsupportedPlatform(
            f"the local Triton needs glibc {wanted} or newer, this is {name or 'another C library'} {version}; {remedy}"
        )


def find_interpreter() -> Path:
    """Return the folder of the running interpreter, by which the stub finds its packages.

    Notes
    -----
    The stub embeds Python in isolated mode, which ignores ``PYTHONPATH`` and ``PYTHONHOME``, but takes the prefix of
    the ``python3`` on ``PATH``, its virtual environment and ``.pth`` files included (seen with the stub of 3.11;
    CPython ``Modules/getpath.py``). So this folder goes first on the server's ``PATH``.

    Raises
    ------
    MissingServer
        If the folder holds no ``python3``.
    """
    folder = Path(sys.executable).parent
    if not (folder / "python3").exists():
        raise MissingServer(
            f"{folder} holds no python3, by which Triton finds this environment's packages; "
            "install cytoserve into a virtual environment made with python -m venv"
        )
    return folder


def find_libpython() -> Path:
    """Return the folder of the shared library of the running Python's minor version.

    Raises
    ------
    MissingLibpython
    """
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{minor}.so.1.0"
    base = Path(sys.base_prefix)
    for folder in dict.fromkeys((Path(sysconfig.get_config_var("LIBDIR") or base / "lib"), base / "lib")):
        if (folder / name).is_file():
            return folder
    for folder in _system_library_folders(name):
        if (folder / name).is_file():
            return folder
    raise MissingLibpython(
        f"{name} was not found, and Triton's Python backend is linked to it; on Debian or Ubuntu run: "
        f"apt-get install libpython{minor}; with pyenv build Python with PYTHON_CONFIGURE_OPTS=--enable-shared; "
        "Pythons installed by uv or conda bring it along"
    )


def _system_library_folders(name: str) -> Iterator[Path]:
    """Yield folders the dynamic loader knows for `name`, then the usual ones."""
    try:
        cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        cache = ""
    for line in cache.splitlines():
        if line.strip().startswith(name + " ") and "=>" in line:
            yield Path(line.split("=>")[1].strip()).parent
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"):
        yield Path(folder)
