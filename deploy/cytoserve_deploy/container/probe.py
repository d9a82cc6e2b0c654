"""One real inference over gRPC, with a deadline: for the probes of the container and ``helm test``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cytoserve_files import read_bytes

from cytoserve_deploy.errors import ProbeFailed
from cytoserve_deploy.launch.channel import triton_client
from cytoserve_deploy.launch.model_processes import dead_in_container
from cytoserve_deploy.launch.warmup import (
    ONE_PROBE,
    cell_png,
    picture_inputs,
    score_empty_crop,
    scores_latents_only,
    tensor,
)

UM_PER_PIXEL: Final = 0.18


@dataclass(frozen=True)
class Target:
    """A server: ``HOST:PORT``, PEM files, and the name expected in its certificate (empty: the host).

    A CA switches TLS on; certificate and key are shown to the server.
    """

    url: str
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_server_name: str = ""


def check_models_live() -> None:
    """Look at the model processes of the server of this container; elsewhere there is nothing to look at.

    Raises
    ------
    ProbeFailed
        One has died. Triton goes on without it, and every request that reaches it fails until a restart.
    """
    found = dead_in_container()
    if found:
        raise ProbeFailed(f"{len(found)} model process(es) of this server have died; it has to be started again")


def ask(target: Target, model: str, deadline_s: float) -> str:
    """Send one request and check its answer; return a sentence about it.

    ``model`` is ``service_info`` (cheap: one Python model) or ``cell_analysis`` (the whole chain with one drawn cell;
    where a CytoDiffusion repository has no ensemble, ``encoder`` and ``scorer`` with one empty crop). The deadline, in
    seconds, is for connecting and answering together.

    Raises
    ------
    ProbeFailed
        With the reason.
    """
    from tritonclient.utils import InferenceServerException

    inputs, parameters = _request(model)
    try:
        with _connect(target) as client:
            if model == "cell_analysis" and scores_latents_only(client):
                return _cell(score_empty_crop(client, deadline_s), "empty crop")
            answer = client.infer(model, inputs, parameters=parameters, client_timeout=deadline_s)
            return _info(answer) if model == "service_info" else _cell(answer)
    except InferenceServerException as error:
        raise ProbeFailed(
            f"{model} at {target.url} failed: {error.status() or ''} {error.message()}".rstrip()
        ) from None
    except OSError as error:
        raise ProbeFailed(f"a TLS file cannot be read: {error}") from None


def _connect(target: Target) -> Any:
    """Return a client; a server's name that is not its address goes into the channel's arguments."""
    if not target.tls_ca:
        if target.tls_cert or target.tls_key or target.tls_server_name:
            raise ProbeFailed("--tls-cert, --tls-key and --tls-server-name need --tls-ca, which switches TLS on")
        return triton_client(target.url)
    if bool(target.tls_cert) != bool(target.tls_key):
        raise ProbeFailed("--tls-cert and --tls-key go together; one of them is missing")
    for path in filter(None, (target.tls_ca, target.tls_cert, target.tls_key)):
        read_bytes(path)
    return triton_client(
        target.url,
        target.tls_server_name,
        ssl=True,
        root_certificates=target.tls_ca,
        private_key=target.tls_key or None,
        certificate_chain=target.tls_cert or None,
    )


def _request(model: str) -> tuple[list[Any], dict[str, Any] | None]:
    if model == "service_info":
        return [tensor("QUERY", np.array([b"probe"], dtype=np.object_))], None
    return picture_inputs(cell_png(), UM_PER_PIXEL), ONE_PROBE


def _info(answer: Any) -> str:
    try:
        info = json.loads(answer.as_numpy("INFO")[0])
        return f"{info['name']}: {len(info['classes'])} classes"
    except (TypeError, IndexError, KeyError, ValueError) as error:
        raise ProbeFailed(f"service_info did not answer with its JSON ({error!r}); is this a CytoServe?") from None


def _cell(answer: Any, sent: str = "drawn cell") -> str:
    """Check what holds for every correct answer, whatever class it gives a drawn cell."""
    label, posterior, decision = (answer.as_numpy(name) for name in ("LABEL", "POSTERIOR", "DECISION"))
    if any(array is None for array in (label, posterior, decision)):
        raise ProbeFailed("cell_analysis answered without LABEL, POSTERIOR or DECISION; is this a CytoServe?")
    if posterior.shape[0] != 1 or label.shape != (1,) or decision.shape != (1,):
        raise ProbeFailed(f"one cell was sent, and posteriors of shape {posterior.shape} came back")
    if not np.isfinite(posterior).all() or abs(float(posterior.sum()) - 1) > 1e-3:
        raise ProbeFailed(
            f"the posterior {posterior[0].tolist()} is not a distribution; the denoiser's numbers are wrong"
        )
    if int(label[0]) != int(posterior[0].argmax()):
        raise ProbeFailed(f"label {int(label[0])} is not the most probable class of {posterior[0].tolist()}")
    return f"one {sent} answered: class {int(label[0])} of {posterior.shape[1]}, decision {int(decision[0])}"
