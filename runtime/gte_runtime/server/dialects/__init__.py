"""One file per dialect: requests as a family of clients sends them, answers and errors as it reads them."""

from .. import playground
from ..routes import Route
from . import cohere, infinity, native, openai, operation, rerank, score, tei

NATIVE = native.DIALECT


def routes() -> list[Route]:
    return [
        route
        for module in (native, openai, infinity, tei, rerank, cohere, score, operation, playground)
        for route in module.routes()
    ]
