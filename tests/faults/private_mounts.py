"""A server in a mount namespace of its own, whose ``/dev/shm`` or scratch folder is a small file system.

Run as a program inside ``unshare --mount`` it mounts, starts the server, prints where it is, and stops it when its
standard input closes. Files of the namespace are reached through ``/proc/PID/root``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pytest
from cytoserve_deploy.launch.local_server import LocalServer

ROOT = Path(__file__).resolve().parents[2]


def can_mount() -> bool:
    """Return whether this user may have a mount namespace."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/dev/shm"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class ServerWithSmallDisks:
    """The server, its address and process ids as seen from outside; a context manager."""

    def __init__(self, mounts: dict[str, str], work: Path) -> None:
        if not can_mount():
            pytest.skip("needs a mount namespace (root, or CAP_SYS_ADMIN in a container)")
        words = [json.dumps(mounts), str(work)]
        self._process = subprocess.Popen(
            ["unshare", "--mount", sys.executable, __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.told = json.loads(line) if line else {"error": "it did not start"}

    def __enter__(self) -> ServerWithSmallDisks:
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def url(self) -> str:
        """The gRPC address."""
        return str(self.told["url"])

    def inside(self, path: str) -> Path:
        """Return a path of the namespace as it is reached from here."""
        return Path(f"/proc/{self.told['pid']}/root{path}")

    def fill(self, path: str, leave: int = 0) -> Path:
        """Fill the file system of a folder of the namespace but for some bytes; return the file that does it."""
        filler = self.inside(path) / "filler"
        free = shutil.disk_usage(self.inside(path)).free
        with open(filler, "wb") as file:
            for _ in range(max(0, free - leave) // 4096):
                file.write(bytes(4096))
        return filler


def main() -> None:
    """Mount, start, print, wait, stop."""
    mounts, work = json.loads(sys.argv[1]), Path(sys.argv[2])
    for folder, size in mounts.items():
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    server = LocalServer(model_repository=ROOT / "model_repository", log_file=work / "server.log")
    try:
        server.start()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    with server:
        print(json.dumps({"url": server.grpc_url, "pid": server.pid}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
