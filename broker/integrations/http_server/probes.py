"""What every gateway answers to probes and to Prometheus."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from broker.inspection.metrics import CONTENT_TYPE, prometheus
from broker.integrations.http_server.gateway import BaseGateway
from broker.integrations.http_server.requests import in_time
from broker.integrations.http_server.routes import Route

HEALTH: Final = "/healthz"
READY: Final = "/readyz"
METRICS: Final = "/metrics"
#: The paths that need no token: they say nothing about the run.
PUBLIC: Final = frozenset({HEALTH, READY})


def probes(gateway: BaseGateway) -> list[Route]:
    """The routes.

    `/healthz`: this process lives. `/readyz`: the server answers and has the run. `/metrics`: the run's numbers.
    """

    async def healthy(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        await gateway.stats()
        return JSONResponse({"status": "ok"})

    async def metrics(_request: Request) -> Response:
        return Response(prometheus([await gateway.stats()]), media_type=CONTENT_TYPE)

    return [
        Route("GET", HEALTH, healthy, traced=False),
        Route("GET", READY, in_time(ready), traced=False),
        Route("GET", METRICS, in_time(metrics), traced=False),
    ]
