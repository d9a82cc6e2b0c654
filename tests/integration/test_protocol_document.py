"""The Java program of docs/protocol.md, compiled as a hospital would, against a real Triton: it tells what we tell."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cytoserve_client import CellsAnalysis, Client
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2

ROOT = Path(__file__).resolve().parents[2]
JARS = Path("/usr/share/java")
LIBRARIES = ("grpc-api", "grpc-netty", "grpc-protobuf", "grpc-stub", "netty-transport", "protobuf", "commons-math3")
PLUGIN = "grpc_java_plugin"

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("java", "javac", "protoc", PLUGIN))
    or any(not (JARS / f"{name}.jar").exists() for name in LIBRARIES),
    reason="needs Debian's default-jdk-headless, protobuf-compiler-grpc-java-plugin, libgrpc-java, libnetty-java and "
    "libcommons-math3-java",
)


@pytest.fixture(scope="module")
def classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compile the document's program with stubs that ``protoc`` makes of the protocol; return where they lie."""
    made = tmp_path_factory.mktemp("java")
    described = descriptor_pb2.FileDescriptorSet()
    waiting = [service_pb2.DESCRIPTOR]
    while waiting:
        one = waiting.pop()
        one.CopyToProto(described.file.add())
        waiting += one.dependencies
    described.file.sort(key=lambda file: len(file.dependency))
    (made / "protocol.pb").write_bytes(described.SerializeToString())
    plugin = f"--plugin=protoc-gen-grpc={shutil.which(PLUGIN)}"
    names = [file.name for file in described.file]
    call = ["protoc", "--descriptor_set_in=protocol.pb", "--java_out=.", plugin, "--grpc_out=.", *names]
    subprocess.run(call, cwd=made, check=True)
    program = re.search(r"```java\n(.*?)```", (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    (made / "Classify.java").write_text(program.group(1), encoding="utf-8")
    found = ":".join([str(made), *(str(jar) for jar in sorted(JARS.glob("*.jar")) if _needed(jar))])
    sources = [str(path) for path in made.rglob("*.java")]
    done = subprocess.run(
        ["javac", "-nowarn", "-encoding", "UTF-8", "-cp", found, "-d", str(made), *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return found


def _needed(jar: Path) -> bool:
    """Return whether a library is one of those, or one that they need in turn; of each the name without a version."""
    others = {"failureaccess", "geronimo-annotation-1.3-spec", "gson", "guava", "perfmark-api", *LIBRARIES}
    return jar.stem in others or re.fullmatch(r"(grpc|netty)-[a-z0-9-]+", jar.stem) is not None


def told(classpath: str, url: str, files: list[Path]) -> tuple[list[list[str]], float]:
    """Return the rows that the Java program prints, and the p-value of the sample."""
    done = subprocess.run(
        ["java", "-cp", classpath, "Classify", url, "0.18", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *rows, last = [line.split("\t") for line in done.stdout.splitlines()]
    assert last[0] == "sample"
    return rows, float(last[1])


def ours(url: str, files: list[Path]) -> CellsAnalysis:
    with Client(url) as client:
        return client.classify(files, 0.18)


def test_it_tells_of_a_sample_at_home_what_the_python_client_tells(
    classpath: str, triton_url: str, data_dir: Path
) -> None:
    files = [path for folder in sorted((data_dir / "pbc/val").iterdir()) for path in sorted(folder.iterdir())[:3]]
    rows, p_value = told(classpath, triton_url, files)
    analysis = ours(triton_url, files)
    classes = analysis.model.classes
    assert [(row[0], classes[int(row[1])], row[3]) for row in rows] == [
        (Path(cell.source).name, cell.label, cell.decision) for cell in analysis.cells
    ]
    assert any(row[3] == "accept" for row in rows)
    assert analysis.familiarity is not None
    assert p_value == pytest.approx(analysis.familiarity.p_value, rel=1e-5)


def test_it_accepts_nothing_of_a_sample_from_elsewhere(classpath: str, triton_url: str, data_dir: Path) -> None:
    files = sorted((data_dir / "bcisc/cells/test").rglob("*.*"))[:30]
    rows, p_value = told(classpath, triton_url, files)
    analysis = ours(triton_url, files)
    assert analysis.familiarity is not None
    assert analysis.familiarity.rejected
    assert p_value < 0.001
    assert {row[3] for row in rows} == {"review"}


def test_one_bad_file_costs_its_own_row(classpath: str, triton_url: str, data_dir: Path, tmp_path: Path) -> None:
    good = sorted((data_dir / "pbc/val/eosinophil").iterdir())[:2]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(good[0].read_bytes()[:300])
    rows, _ = told(classpath, triton_url, [good[0], bad, good[1]])
    assert rows[1][:2] == ["bad.jpg", "failed"]
    assert "[cytoserve:" in rows[1][2]
    assert [len(row) for row in (rows[0], rows[2])] == [5, 5]
