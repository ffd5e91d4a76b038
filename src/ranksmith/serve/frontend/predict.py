"""`POST /predict`: an image in, its most probable classes out."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend.answers import as_json
from ranksmith.serve.frontend.asking import Asking
from ranksmith.serve.frontend.bodies import Bodies, image_in
from ranksmith.serve.frontend.guard import id_of
from ranksmith.serve.frontend.reply import RefusedError
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.messages import Ask
from ranksmith.serve.oip.schema import Predictions
from ranksmith.serve.oip.signature import InvalidRequestError, quoted

__all__ = ["Predict"]

_MOST_CLASSES = 1000


@dataclass(frozen=True, eq=False)
class Predict:
    asking: Asking
    bodies: Bodies

    async def predict(self, request: Request) -> Response:
        served = self._served(request)
        if not served.hello.takes_images:
            raise RefusedError(400, f"the model {served.hello.name!r} takes no images")
        ask = Ask(ids=[id_of(request)], top_k=_top_k(request))
        with self.bodies.held() as parts:
            body = await self.bodies.read(request, parts)
            encoded = await image_in(request, body)
            image = Tensor("image", "UINT8", (len(encoded),), encoded)
            reply = await self.asking.reply(request.scope, served, Kind.IMAGE, (image,), ask, rows=1)
        predictions = reply.answer.predictions or []
        if "text/plain" in request.headers.get("accept", ""):
            best = predictions[0]
            return PlainTextResponse(f"{best.label if best.label is not None else best.index}\n")
        return as_json(Predictions(served.hello.name, str(reply.generation), predictions))

    def _served(self, request: Request) -> Served:
        """The model that the path names, or the only one there is."""
        pool, path = self.asking.pool, request.path_params
        if "model" in path:
            return pool.served(path["model"], path.get("version"))
        if len(pool.names) != 1:
            raise RefusedError(404, f"say which model: /v2/models/NAME/predict, NAME one of {', '.join(pool.names)}")
        return pool.served(pool.names[0])


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k", "5")
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_CLASSES))
    if not is_number or not 1 <= int(text) <= _MOST_CLASSES:
        raise InvalidRequestError(f"top_k is {quoted(text)}: it must be a number from 1 to {_MOST_CLASSES}")
    return int(text)
