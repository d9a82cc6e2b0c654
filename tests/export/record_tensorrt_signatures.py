"""Read names and signatures out of the wheels ``tensorrt-cu12-bindings`` and write ``tensorrt_signatures.json``.

The bindings link against NVIDIA's libraries, which are not on PyPI. To read what they declare nothing of those is
needed but that the symbols exist: empty libraries with those names are compiled here, the module is imported by a
process of its own, and its docstrings (pybind11 writes every signature there) are taken down. Nothing is called.

``python tests/export/record_tensorrt_signatures.py WHEEL...`` (needs ``gcc``, ``nm``, CPython of the wheels).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

USED = {
    "Logger": ["__init__"],
    "Builder": [
        "__init__",
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ],
    "IBuilderConfig": [
        "set_flag",
        "set_memory_pool_limit",
        "add_optimization_profile",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
        "builder_optimization_level",
        "progress_monitor",
    ],
    "ITimingCache": ["serialize"],
    "IOptimizationProfile": ["set_shape"],
    "OnnxParser": ["__init__", "parse_from_file", "get_error", "num_errors"],
    "ParserError": ["desc"],
    "INetworkDefinition": ["get_input", "num_inputs"],
    "ITensor": ["name"],
    "IProgressMonitor": ["__init__", "phase_start", "step_complete", "phase_finish"],
    "Runtime": ["__init__", "deserialize_cuda_engine", "engine_host_code_allowed"],
    "ICudaEngine": ["create_execution_context"],
    "IExecutionContext": ["set_input_shape", "set_tensor_address", "execute_async_v3"],
}
ENUMS = ["NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "Logger"]

READER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
trt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trt)
used, enums = json.loads(sys.argv[2])
told = {}
for name, members in used.items():
    for member in members:
        found = getattr(getattr(trt, name), member)
        text = "property" if isinstance(found, property) else found.__doc__
        told[f"{name}.{member}"] = text
flags = {name: sorted(x for x in dir(getattr(trt, name)) if x.isupper()) for name in enums}
print(json.dumps({"members": told, "flags": flags}))
"""


def signatures(text: str, member: str) -> list[str]:
    """Return the lines of a pybind11 docstring that are signatures, overloads numbered away."""
    if text == "property":
        return ["property"]
    lines = (re.sub(r"^\d+\. ", "", line.strip()) for line in text.splitlines())
    return [line for line in lines if line.startswith(f"{member}(self")]


def read_wheel(wheel: Path, scratch: Path) -> dict[str, object]:
    """Import the bindings of one wheel against empty libraries and return what they declare."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch)
    module = next(scratch.glob("*/tensorrt.so"))
    listed = subprocess.run(["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-1] for line in listed.splitlines() if "@" not in line and " Py" not in line]
    needed = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"\[(libnv\S+)\]", needed)
    code = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in symbols if not name.startswith("_Py"))
    for at, library in enumerate(libraries):
        source = scratch / f"{library}.c"
        source.write_text(code if at == 0 else "\n")
        command = ["gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", scratch / library, source]
        subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, "-c", READER, module, json.dumps([USED, ENUMS])],
        env={**os.environ, "LD_LIBRARY_PATH": str(scratch)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    members = {name: signatures(text, name.split(".")[1]) for name, text in told["members"].items()}
    return {"members": members, "flags": told["flags"]}


def main() -> None:
    """Write the file beside this one."""
    found = {}
    for wheel in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as scratch:
            found[wheel.name.split("-")[1]] = read_wheel(wheel, Path(scratch))
    target = Path(__file__).with_name("tensorrt_signatures.json")
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{target.name}: {', '.join(found)}")


if __name__ == "__main__":
    main()
