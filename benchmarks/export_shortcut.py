"""Tables of docs/export.md: equality of the shortcut, what it saves, and what sharing the beginning gains.

``python -m benchmarks.export_shortcut [CHECKPOINT ...] [--out FILE]``: counts the full network on shapes alone, and
runs a tenth-size random checkpoint (made in a temporary folder) and every CHECKPOINT given, in fp64 and fp32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.cost import Cost, DenoiserCosts, denoiser_costs
from cytoserve_export.errors import ShortcutRefused
from cytoserve_export.networks import TracedDenoiser, Trunk, conditioned_trunk
from cytoserve_export.sharing import AllClasses
from cytoserve_export.synthetic import SIZES, unet_config, write_checkpoint
from cytoserve_files import write_text

from benchmarks.outputs import output_path


def equality(checkpoint: Checkpoint, dtype: torch.dtype, rows: int = 2) -> dict[str, float]:
    """Return the largest differences of folded and one-token predictions from the unmodified network's."""
    unet, conditioning = checkpoint.unet().to(dtype), checkpoint.conditioning
    generator = torch.Generator().manual_seed(0)
    z = torch.randn((rows, *checkpoint.geometry.latent_shape), generator=generator, dtype=torch.float64).to(dtype)
    labels, step = torch.arange(rows) % conditioning.classes, torch.full((rows,), 500)
    told = {k: None if v is None else v.to(dtype) for k, v in conditioning.reference_arguments(labels).items()}
    with torch.no_grad():
        want = unet(z, step, **told).sample
        embedding = unet.time_embedding(unet.time_proj(step).to(dtype))
        if unet.class_embedding is not None:
            embedding = embedding + unet.class_embedding(told["class_labels"])
        trunk, table = conditioned_trunk(unet, conditioning, None)
        context = None if table is None else table[labels].to(dtype)
        got = trunk(z, embedding, context)
        token = conditioning.token(labels)
        one = Trunk(unet)(z, embedding, None if token is None else token.to(dtype))
    scale = float(want.abs().max())
    return {
        "largest_value": scale,
        "folded": float((got - want).abs().max()),
        "one_token": float((one - want).abs().max()),
    }


def sharing(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return processor seconds of all classes of one (cell, probe), told apart and shared; None where it is refused."""
    bank = checkpoint.probes()
    denoiser = TracedDenoiser(checkpoint.unet(), checkpoint.conditioning, checkpoint.schedule, bank).eval()
    try:
        shared = AllClasses(denoiser).eval()
    except ShortcutRefused as refusal:
        return {"refused": str(refusal)}
    classes = checkpoint.conditioning.classes
    latent, probe = torch.randn(1, *checkpoint.geometry.latent_shape), torch.tensor([[1]], dtype=torch.int32)
    rows = (latent.expand(classes, -1, -1, -1), probe.expand(classes, 1), torch.arange(classes).int()[:, None])
    with torch.no_grad():
        start = time.process_time()
        apart = denoiser(*rows)[:, 0]
        middle = time.process_time()
        together = shared(latent, probe)[0]
        end = time.process_time()
    return {
        "classes": classes,
        "apart_cpu_s": middle - start,
        "shared_cpu_s": end - middle,
        "largest_difference": float((apart - together).abs().max()),
    }


def _costs(costs: DenoiserCosts, classes: int) -> dict[str, Any]:
    def told(cost: Cost) -> dict[str, int]:
        return {"flops": cost.flops, "bytes_written": cost.bytes_written, "parameters": cost.parameters}

    return {
        "unmodified": told(costs.unmodified),
        "one_token": told(costs.one_token),
        "folded": told(costs.folded),
        "saved_by_folding": costs.folded.saved(costs.unmodified),
        "flops_with_sharing": costs.with_sharing(classes),
        "classes": classes,
    }


def report(checkpoints: list[Path]) -> dict[str, Any]:
    """Return everything measured, by checkpoint."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        tenth = write_checkpoint(Path(scratch) / "tenth", "tenth", with_vae=False)
        for folder in (tenth, *checkpoints):
            checkpoint = Checkpoint(folder)
            conditioning, shape = checkpoint.conditioning, checkpoint.geometry.latent_shape
            found[checkpoint.index.get("name", folder.name)] = {
                "cost": _costs(denoiser_costs(checkpoint.unet_config, conditioning, shape), conditioning.classes),
                "fp64": equality(checkpoint, torch.float64),
                "fp32": equality(checkpoint, torch.float32),
                "sharing": sharing(checkpoint),
            }
        checkpoint = Checkpoint(tenth)
        full = {**checkpoint.unet_config, **unet_config(SIZES["full"])}
        costs = denoiser_costs(full, checkpoint.conditioning, checkpoint.geometry.latent_shape)
        found["cytodiffusion-full (counted)"] = {"cost": _costs(costs, checkpoint.conditioning.classes)}
    return found


def markdown(found: dict[str, Any]) -> str:
    """Return the tables of docs/export.md."""
    lines = [
        "| network | GFLOP an evaluation, unmodified | one token | folded | folded, beginning shared | "
        "FLOPs saved by folding | bytes written saved | weights saved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in found.items():
        cost = entry["cost"]
        flops = [cost[way]["flops"] / 1e9 for way in ("unmodified", "one_token", "folded")]
        saved = cost["saved_by_folding"]
        cells = [f"{value:.3g}" for value in (*flops, cost["flops_with_sharing"] / 1e9)]
        cells += [f"{saved[key]:.1%}" for key in ("flops", "bytes_written", "parameters")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| network | precision | largest value | folded against unmodified | one token against unmodified |"]
    lines += ["|---|---|---|---|---|"]
    for name, entry in found.items():
        for precision in ("fp64", "fp32"):
            if precision in entry:
                e = entry[precision]
                lines.append(
                    f"| {name} | {precision} | {e['largest_value']:.3g} | {e['folded']:.2g} | {e['one_token']:.2g} |"
                )
    lines += ["", "| network | classes | processor s, one by one | beginning shared | largest difference of an error |"]
    lines += ["|---|---|---|---|---|"]
    for name, entry in found.items():
        told = entry.get("sharing", {})
        if "classes" in told:
            numbers = f"{told['apart_cpu_s']:.2f} | {told['shared_cpu_s']:.2f} | {told['largest_difference']:.2g}"
            lines.append(f"| {name} | {told['classes']} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = report(args.checkpoints)
    print(markdown(found))
    if args.out:
        write_text(args.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
