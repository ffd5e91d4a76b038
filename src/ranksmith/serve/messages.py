"""What the processes tell each other inside frames, as JSON: never a pickle.

supervisor ── WorkerSpec ──► worker      on the command line of its start
worker ── Hello ──► supervisor, front ends      once it is warm
supervisor ── Routing ──► front ends      whenever a worker comes or goes
front end ── Ask ──► worker ── Answer or Failure ──► front end      beside the tensors of a request
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from ranksmith.results import Preprocess

__all__ = [
    "AdminReply",
    "AdminRequest",
    "Answer",
    "Ask",
    "Code",
    "Deploy",
    "Drained",
    "Failure",
    "GenerationStatus",
    "Hello",
    "Prediction",
    "Receipt",
    "Rollback",
    "Routing",
    "Status",
    "StatusReply",
    "SwapOutcome",
    "TensorInfo",
    "WorkerAt",
    "WorkerSpec",
    "dumps",
    "loads",
]

MessageT = TypeVar("MessageT")

Code = Literal["invalid", "deadline", "unavailable", "internal"]
SwapOutcome = Literal["deployed", "rolled_back", "refused"]


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker serves, and how.

    Attributes:
        name: the model's name in requests.
        model: path of the ONNX file.
        generation: counts the loaded versions of this model; it is the version that clients see.
        preprocess: of images; None: guessed from the input's shape.
        labels: one class a line; None: none are known.
        threads: of the session.
        max_batch: most rows that run together.
        golden: path of the bundle's golden samples, which the model has to answer as it did when it was built.
        is_checked: whether the file is checked as one that came from elsewhere: `onnx.checker`, no custom operators.
    """

    name: str
    model: str
    generation: int
    preprocess: Preprocess | None = None
    labels: list[str] | None = None
    provider: str = "cpu"
    threads: int = 1
    max_batch: int = 16
    golden: str | None = None
    is_checked: bool = False


class TensorInfo(msgspec.Struct, frozen=True):
    """An input or output. `shape` has −1 for what is symbolic."""

    name: str
    datatype: str
    shape: list[int]


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is loaded and warm.

    Attributes:
        max_batch: rows of one request; 1 where the model's batch is fixed.
        limit: rows that are worth running together.
        alpha_ms, beta_ms: latency_ms ≈ alpha + beta · rows, as it was measured while warming up.
        takes_images: whether `IMAGE` frames can be answered.
        notes: what was guessed, in sentences.
    """

    name: str
    generation: int
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    max_batch: int
    limit: int
    alpha_ms: float
    beta_ms: float
    takes_images: bool
    notes: list[str] = []


class WorkerAt(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker listens."""

    worker: int
    name: str
    generation: int
    path: str


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """The workers there are, the generation that new requests of each model go to, and what else is told of models.

    Attributes:
        restarts: by model, how many workers were started in the place of one that died.
        swaps: by model, how many swaps were deployed, rolled back and refused.
    """

    workers: list[WorkerAt]
    active: dict[str, int]
    restarts: dict[str, int] = {}
    swaps: dict[str, dict[SwapOutcome, int]] = {}


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="ranksmith.failure/1"):
    """Why a request, a model or a swap is refused.

    Attributes:
        message: of a request it goes to the client: no path, no trace.
        hint: what to do about it, told to who runs the server.
    """

    code: Code
    message: str
    hint: str | None = None


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """A front end that has no request of these generations any more, by model."""

    active: dict[str, int]


class Deploy(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """
    Attributes:
        bundle: absolute path of its directory.
        model: which of the models it replaces; None: the only one.
        force: whether inputs and outputs may differ from what is served.
    """

    bundle: str
    model: str | None = None
    force: bool = False


class Rollback(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Back to what was active before the last deployment."""

    model: str | None = None


class Status(msgspec.Struct, frozen=True, tag=True):
    """What is served."""


AdminRequest = Deploy | Rollback | Status


class Receipt(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="ranksmith.swap/1"):
    """One swap.

    Attributes:
        verb: what was asked for.
        checks: what was checked, in order.
        load_s: from the start of the new workers until they were warm.
        total_s: until the new generation was active.
    """

    verb: Literal["deploy", "rollback"]
    model: str
    source: str
    old_generation: int
    new_generation: int
    created: str
    checks: list[str]
    load_s: float
    total_s: float


class GenerationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    Attributes:
        workers: process ids of those that are ready.
    """

    model: str
    generation: int
    source: str
    is_active: bool
    workers: list[int]


class StatusReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="ranksmith.status/1"):
    supervisor: int
    http: str
    grpc: str | None
    generations: list[GenerationStatus]
    http_uds: str | None = None


AdminReply = Receipt | StatusReply | Failure


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of an `INFER` or `IMAGE` frame.

    Attributes:
        ids: what logs call the frame's requests.
        outputs: names of the outputs wanted; empty: all.
        top_k: of an image, how many classes are told.
        alone: run it in a batch of its own, since a worker died with it before.
    """

    ids: list[str] = []
    outputs: list[str] = []
    top_k: int = 5
    alone: bool = False

    @property
    def id(self) -> str:
        """What logs call the first of them."""
        return self.ids[0] if self.ids else ""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    label: str | None
    index: int
    probability: float


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a `RESULT` frame.

    Attributes:
        decode_ms: until the image was decoded and prepared, after which it waited.
        rows: that ran together, this request's among them.
    """

    queue_ms: float
    compute_ms: float
    rows: int
    decode_ms: float = 0.0
    predictions: list[Prediction] | None = None


def dumps(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message)


def loads(content: bytes | memoryview, kind: type[MessageT]) -> MessageT:
    """
    Raises:
        msgspec.DecodeError: not a `kind`.
    """
    return msgspec.json.decode(content, type=kind)
