"""A model as clients see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ranksmith.serve.messages import Hello
from ranksmith.serve.oip.known import KnownRequests
from ranksmith.serve.oip.signature import ModelSignature, TensorSpec

__all__ = ["Served"]


@dataclass(eq=False)
class Served:
    """The active generation of a model."""

    hello: Hello
    generation: int

    @property
    def is_batched(self) -> bool:
        """Whether everything that goes in and out has a batch dimension."""
        return all(info.shape[:1] == [-1] for info in (*self.hello.inputs, *self.hello.outputs))

    @cached_property
    def signature(self) -> ModelSignature:
        """What requests are checked against."""
        inputs, outputs = (
            tuple(TensorSpec(info.name, info.datatype, tuple(info.shape)) for info in infos)
            for infos in (self.hello.inputs, self.hello.outputs)
        )
        return ModelSignature(self.hello.name, inputs, outputs, self.hello.max_batch)

    @cached_property
    def known(self) -> KnownRequests:
        """Requests that have been read before."""
        return KnownRequests(self.signature)
