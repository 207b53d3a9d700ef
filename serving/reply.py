"""What every reply has in common."""

from typing import Any

from starlette.responses import Response

from model.schema import encode_json

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def answer(value: Any, status: int = 200) -> Response:
    """A reply in JSON."""
    return Response(encode_json(value), status, HEADERS, media_type="application/json")
