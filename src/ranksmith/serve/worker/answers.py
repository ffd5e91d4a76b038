"""What a batch has given, as the frames that its requests get."""

from __future__ import annotations

from typing import Any

import numpy as np

from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.messages import Answer, dumps
from ranksmith.serve.oip.datatypes import datatype_name
from ranksmith.serve.worker.model import Feeds, ServedModel
from ranksmith.serve.worker.request import Request

__all__ = ["answers"]


def answers(
    model: ServedModel, batch: list[Request], outputs: Feeds, started_s: float, compute_ms: float
) -> list[Frame]:
    """A frame for each of the batch, with its own rows of the outputs that it asked for."""
    rows = sum(request.rows for request in batch)
    frames = []
    first = 0
    for request in batch:
        part = slice(first, first + request.rows) if model.is_batchable else slice(None)
        first += request.rows
        predictions = None
        tensors: tuple[Tensor, ...] = ()
        if request.is_image:
            logits = outputs[model.session.outputs[0].name][part]
            predictions = model.predictions(logits[0], request.ask.top_k)
        else:
            wanted = request.ask.outputs or outputs
            tensors = tuple(_tensor(name, array[part]) for name, array in outputs.items() if name in wanted)
        answer = Answer(
            queue_ms=1e3 * (started_s - request.arrived_s),
            compute_ms=compute_ms,
            rows=rows,
            decode_ms=request.decode_ms,
            predictions=predictions,
        )
        frames.append(
            Frame(
                Kind.RESULT,
                request.numbers[0],
                model.spec.generation,
                meta=dumps(answer),
                tensors=tensors,
                others=request.numbers[1:],
            )
        )
    return frames


def _tensor(name: str, array: Any) -> Tensor:
    whole = np.ascontiguousarray(array)
    return Tensor(name, datatype_name(whole.dtype), whole.shape, whole.reshape(-1).view(np.uint8).data)
