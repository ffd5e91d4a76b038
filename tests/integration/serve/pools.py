"""Pools that answer by themselves."""

from __future__ import annotations

from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.messages import Hello, TensorInfo

__all__ = ["introduce"]


def introduce(pool: Pool, tensor: TensorInfo, *, takes_images: bool) -> None:
    """Have the pool know a model `m` that takes and gives such a tensor, though no worker runs it."""
    hello = Hello(
        name="m",
        generation=1,
        inputs=[tensor],
        outputs=[tensor],
        max_batch=4,
        limit=4,
        alpha_ms=1,
        beta_ms=1,
        takes_images=takes_images,
    )
    pool.models["m"] = Served(hello, 1)
    pool._names.add("m")
