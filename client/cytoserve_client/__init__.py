"""CytoServe's client: blood-cell triage over gRPC, typed. For research use; not a medical device.

>>> from cytoserve_client import Client
>>> with Client("localhost:8001") as client:                     # doctest: +SKIP
...     analysis = client.analyze("field.png")
"""

from cytoserve_files.selection import Skipped

from cytoserve_client._config import TLS, Expectation, RetryPolicy, TokenProvider
from cytoserve_client._constants import DEFAULT_TIMEOUT_S
from cytoserve_client._contract import ReferralInfo, ServiceInfo, SiteInfo
from cytoserve_client.async_client import AsyncClient
from cytoserve_client.client import Client
from cytoserve_client.errors import (
    AccessDenied,
    BadParameter,
    BadScale,
    BadShape,
    ClientClosed,
    ConfigurationError,
    ContractMismatch,
    CytoserveClientError,
    DeadlineExceeded,
    EmptyImage,
    InvalidAnswer,
    InvalidArray,
    InvalidImage,
    InvalidInput,
    NotAnImage,
    OwnOverlay,
    ServerError,
    ServerUnavailable,
    TooManyBytes,
    TooManyPixels,
    TooSmall,
    TruncatedImage,
    UnreadableFile,
    UnsupportedMode,
)
from cytoserve_client.images import EncodedImage, ImageLike
from cytoserve_client.options import Priority
from cytoserve_client.reasons import Reason
from cytoserve_client.results import (
    Anomaly,
    Box,
    Cell,
    CellAnswer,
    CellsAnalysis,
    Decision,
    Failure,
    Familiarity,
    FieldAnalysis,
    Kind,
    ModelInfo,
    SampleFamiliarity,
    SlideRegion,
    SmearAnalysis,
)
from cytoserve_client.streaming import AsyncFieldStream, FieldStream, Streamed

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "TLS",
    "AccessDenied",
    "Anomaly",
    "AsyncClient",
    "AsyncFieldStream",
    "BadParameter",
    "BadScale",
    "BadShape",
    "Box",
    "Cell",
    "CellAnswer",
    "CellsAnalysis",
    "Client",
    "ClientClosed",
    "ConfigurationError",
    "ContractMismatch",
    "CytoserveClientError",
    "DeadlineExceeded",
    "Decision",
    "EmptyImage",
    "EncodedImage",
    "Expectation",
    "Failure",
    "Familiarity",
    "FieldAnalysis",
    "FieldStream",
    "ImageLike",
    "InvalidAnswer",
    "InvalidArray",
    "InvalidImage",
    "InvalidInput",
    "Kind",
    "ModelInfo",
    "NotAnImage",
    "OwnOverlay",
    "Priority",
    "Reason",
    "ReferralInfo",
    "RetryPolicy",
    "SampleFamiliarity",
    "ServerError",
    "ServerUnavailable",
    "ServiceInfo",
    "SiteInfo",
    "Skipped",
    "SlideRegion",
    "SmearAnalysis",
    "Streamed",
    "TokenProvider",
    "TooManyBytes",
    "TooManyPixels",
    "TooSmall",
    "TruncatedImage",
    "UnreadableFile",
    "UnsupportedMode",
]
