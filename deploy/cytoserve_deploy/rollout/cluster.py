"""The API server: a kubeconfig's connection, objects as plain dictionaries, its refusals as typed errors.

InferenceServices travel as dictionaries through ``CustomObjectsApi``, as in the kserve package's own client; that
package is not imported, because its protobuf messages and tritonclient's refuse to live in one process, and the
checks need the latter. The server's schema judges what is sent (``fieldValidation: Strict``).
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from cytoserve_client.loopback import is_loopback
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from cytoserve_deploy.errors import (
    ClusterUnreachable,
    ConflictRemains,
    KServeMissing,
    NotAuthenticated,
    NotDeployed,
    ObjectRefused,
    PermissionDenied,
    RolloutError,
)
from cytoserve_deploy.rollout.names import GROUP, MANAGER

Object = dict[str, Any]

TRIES: Final = 6
"""Reads and writes of one change, while others change the same object."""
FIRST_PAUSE_S: Final = 0.05


@dataclass(frozen=True)
class Kind:
    """A kind of object: ``Kind(group, version, plural)``; the core group is empty."""

    group: str
    version: str
    plural: str

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


INFERENCE_SERVICE: Final = Kind(GROUP, "v1beta1", "inferenceservices")
SERVING_RUNTIME: Final = Kind(GROUP, "v1alpha1", "servingruntimes")
SERVICE: Final = Kind("", "v1", "services")
POD: Final = Kind("", "v1", "pods")
EVENT: Final = Kind("", "v1", "events")
ENDPOINTS: Final = Kind("discovery.k8s.io", "v1", "endpointslices")


class Cluster:
    """A namespace of a cluster; by default that of the kubeconfig's current context, else ``default``.

    The kubeconfig is by default $KUBECONFIG or ~/.kube/config, and inside a pod its service account. With ``dry_run``
    the API server checks every change, schema and permissions included, and keeps none.

    Raises
    ------
    ClusterUnreachable
        No usable kubeconfig.
    """

    def __init__(
        self,
        namespace: str | None = None,
        kubeconfig: str | None = None,
        context: str | None = None,
        dry_run: bool = False,
    ) -> None:
        settings = client.Configuration()
        found = _load(settings, kubeconfig, context)
        # A write whose answer was lost is not sent twice behind our back; conflicts are handled below.
        settings.retries = False
        _spare_loopback_the_proxy(settings)
        self.namespace = namespace or found
        self.dry_run = dry_run
        self.api = client.ApiClient(settings)
        self.core: Any = client.CoreV1Api(self.api)
        self.custom: Any = client.CustomObjectsApi(self.api)

    def get(self, kind: Kind, name: str) -> Object | None:
        """Return an object, or None where there is none of that name.

        Raises
        ------
        RolloutError
            As `asking`; `KServeMissing` where the cluster does not know the kind.
        """
        try:
            with asking("get", kind, name, self.namespace):
                if kind.group:
                    return dict(self.custom.get_namespaced_custom_object(*self._custom(kind), name))
                return self._core("read", kind, name, self.namespace)
        except _Absent:
            return None

    def list(self, kind: Kind, labels: str = "", fields: str = "") -> list[Object]:
        """Return the objects that fit the selectors."""
        chosen = {key: value for key, value in (("label_selector", labels), ("field_selector", fields)) if value}
        with asking("list", kind, "", self.namespace):
            if kind.group:
                found = self.custom.list_namespaced_custom_object(*self._custom(kind), **chosen)
            else:
                found = self._core("list", kind, self.namespace, **chosen)
        return list(found.get("items") or [])

    def create(self, kind: Kind, body: Object) -> Object:
        """Create an object.

        Raises
        ------
        ConflictRemains
            If one of that name appeared in the meantime.
        """
        with asking("create", kind, body["metadata"]["name"], self.namespace):
            if kind.group:
                return dict(self.custom.create_namespaced_custom_object(*self._custom(kind), body, **self._writing()))
            return self._core("create", kind, self.namespace, body, **self._writing())

    def change(self, kind: Kind, name: str, edit: Callable[[Object], bool]) -> tuple[Object, bool]:
        """Read an object, edit it, write it back; read again and repeat where somebody else was faster (409).

        ``edit`` changes the object in place and returns whether it changed anything. It is called once per try with
        what the server holds then, so it must decide from the object alone. Returned are the object as it stands, and
        whether this call changed it.

        Raises
        ------
        NotDeployed
            If it is not there.
        ConflictRemains
            If others were faster `TRIES` times.
        """
        for attempt in range(TRIES):
            found = self.get(kind, name)
            if found is None:
                raise NotDeployed(f"{kind} {name} is not in namespace {self.namespace}; see `cytoserve deploy status`")
            body = copy.deepcopy(found)
            if not edit(body):
                return found, False
            try:
                return self._replace(kind, name, body), True
            except ConflictRemains:
                time.sleep(random.uniform(0, FIRST_PAUSE_S * 2**attempt))
        raise ConflictRemains(
            f"{kind} {name} was changed by somebody else {TRIES} times while it was written here; "
            "find out who (another roll-out, a GitOps controller) and try again"
        )

    def delete(self, kind: Kind, name: str) -> bool:
        """Delete an object and what belongs to it; return whether there was one."""
        how: dict[str, Any] = {"propagation_policy": "Background", **self._dry()}
        try:
            with asking("delete", kind, name, self.namespace):
                if kind.group:
                    self.custom.delete_namespaced_custom_object(*self._custom(kind), name, **how)
                else:
                    self._core("delete", kind, name, self.namespace, **how)
        except _Absent:
            return False
        return True

    def _replace(self, kind: Kind, name: str, body: Object) -> Object:
        with asking("update", kind, name, self.namespace):
            if kind.group:
                where = (*self._custom(kind), name, body)
                return dict(self.custom.replace_namespaced_custom_object(*where, **self._writing()))
            return self._core("replace", kind, name, self.namespace, body, **self._writing())

    def _custom(self, kind: Kind) -> tuple[str, str, str, str]:
        return kind.group, kind.version, self.namespace, kind.plural

    def _core(self, verb: str, kind: Kind, *arguments: Any, **options: Any) -> Object:
        """Call a method of the core group; its answer is not turned into typed models.

        Those refuse what a server may well send: deleting a Service is answered with a ``Status`` or the Service.
        """
        method = getattr(self.core, f"{verb}_namespaced_{kind.plural[:-1]}")
        answer = method(*arguments, _preload_content=False, **options)
        data = answer.data or answer.read()
        if not 200 <= answer.status <= 299:
            refusal = ApiException(status=answer.status, reason=answer.reason)
            refusal.body = data
            raise refusal
        return dict(json.loads(data))

    def _dry(self) -> dict[str, Any]:
        return {"dry_run": "All"} if self.dry_run else {}

    def _writing(self) -> dict[str, Any]:
        return {"field_manager": MANAGER, "field_validation": "Strict", **self._dry()}


class _Absent(Exception):
    """404 for an object of a kind that the cluster knows."""


@contextmanager
def asking(verb: str, kind: Kind, name: str, namespace: str) -> Iterator[None]:
    """Turn what the API server refuses into typed errors.

    Raises
    ------
    ClusterUnreachable
        Nobody answers there.
    NotAuthenticated, PermissionDenied, ObjectRefused, ConflictRemains
        401, 403, 400 and 422, 409.
    RolloutError
        Any other refusal.
    """
    try:
        yield
    except ApiException as error:
        raise _typed(error, verb, kind, name, namespace) from None
    except (HTTPError, OSError) as error:
        raise ClusterUnreachable(
            f"the API server does not answer ({_short(error)}); is the kubeconfig's cluster there, and the VPN up?"
        ) from None


def _typed(error: ApiException, verb: str, kind: Kind, name: str, namespace: str) -> Exception:
    status = _status(error)
    said = status.get("message") or error.reason or ""
    what = f"{kind} {name}".strip()
    if error.status == 401:
        return NotAuthenticated(f"the API server does not accept the credentials ({said}); log in again")
    if error.status == 403:
        return PermissionDenied(
            f"not allowed: {verb} {kind} in namespace {namespace}. A role needs apiGroups: [{kind.group!r}], "
            f"resources: [{kind.plural!r}], verbs: [{verb!r}] (the whole role: docs/rollout.md). "
            f"The server said: {said}"
        )
    if error.status == 404:
        # An absent object is named in the details; an absent kind is the server's plain "page not found".
        if kind.group == GROUP and not (status.get("details") or {}).get("name"):
            return KServeMissing(
                f"this cluster does not know {kind} ({kind.version}): install KServe 0.15 or newer, or use the "
                "chart's mode=deployment, where `helm upgrade` and `helm rollback` do this work"
            )
        return _Absent()
    if error.status == 409:
        return ConflictRemains(f"{what} is there already, or was changed in the meantime: {said}")
    if error.status in (400, 422):
        return ObjectRefused(f"the API server finds {what} wrong: {said}")
    return RolloutError(f"{verb} {what} in namespace {namespace}: the API server answered {error.status}: {said}")


def _status(error: ApiException) -> Object:
    """Return the ``Status`` object of a refusal, {} where the body is none."""
    try:
        found = json.loads(error.body or "{}")
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _short(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)[:300]


def _load(settings: client.Configuration, kubeconfig: str | None, context: str | None) -> str:
    """Fill the settings; return the context's namespace."""
    try:
        config.load_kube_config(kubeconfig, context, client_configuration=settings)
        contexts, current = config.list_kube_config_contexts(kubeconfig)
    except (ConfigException, OSError) as error:
        if kubeconfig or context:
            raise ClusterUnreachable(f"the kubeconfig cannot be used: {error}") from None
        return _load_in_cluster(settings, error)
    chosen = next((item for item in contexts if item["name"] == context), current)
    return str(chosen.get("context", {}).get("namespace") or "default")


def _spare_loopback_the_proxy(settings: client.Configuration) -> None:
    """Ask an API server of this machine directly (``kubectl proxy``, kind); a ``proxy-url`` of the kubeconfig stays."""
    host = urlsplit(settings.host).hostname or ""
    if is_loopback(host) and settings.proxy in getproxies().values():
        settings.proxy = None


def _load_in_cluster(settings: client.Configuration, outside: Exception) -> str:
    from pathlib import Path

    try:
        config.load_incluster_config(client_configuration=settings)
    except ConfigException:
        raise ClusterUnreachable(
            f"no kubeconfig ({outside}) and not inside a pod: set KUBECONFIG or give --kubeconfig"
        ) from None
    file = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else "default"
