"""Read-only HTTP API (the first part of design section 8): status, streams, sinks, models, health."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

import sentinel_pipeline

Report = Mapping[str, Any]
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})


def make_app(report: Callable[[], Report], token: str) -> FastAPI:
    """Return the API. ``report`` is called per request; with a ``token`` all but the health probes ask for it."""
    app = FastAPI(
        title="Sentinel Pipeline",
        version=sentinel_pipeline.__version__,
        docs_url="/docs",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    _guard(app, token)
    _routes(app, report)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(Exception, _problem)
    return app


def _routes(app: FastAPI, report: Callable[[], Report]) -> None:
    # Plain functions: FastAPI runs them in its thread pool, so that collecting a report never holds up the loop.
    @app.get("/api/v1/status")
    def status() -> Report:
        """Return the whole report of design section 7."""
        return report()

    @app.get("/api/v1/streams")
    def streams() -> Report:
        """Return all streams by id."""
        found: Report = report()["streams"]
        return found

    @app.get("/api/v1/streams/{stream_id}")
    def stream(stream_id: str) -> Report:
        """Return one stream."""
        streams = report()["streams"]
        if stream_id not in streams:
            raise HTTPException(404, f"there is no stream {stream_id!r}")
        found: Report = streams[stream_id]
        return found

    @app.get("/api/v1/sinks")
    def sinks() -> Report:
        """Return all sinks by id."""
        found: Report = report()["sinks"]
        return found

    @app.get("/api/v1/models")
    def models() -> Report:
        """Return all models by id."""
        found: Report = report()["models"]
        return found

    @app.get("/health/live")
    def live() -> Report:
        """Say that the process answers."""
        return {"status": "live"}

    @app.get("/health/ready")
    def ready(response: Response) -> Report:
        """Say whether at least one stream runs; 503 while none does."""
        streams = report()["streams"]
        running = sum(stream["state"] == "RUNNING" for stream in streams.values())
        if not running and streams:
            response.status_code = 503
        return {"status": "ready" if response.status_code != 503 else "not ready", "running": running}


def _guard(app: FastAPI, token: str) -> None:
    @app.middleware("http")
    async def authorise(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("authorization", "")
        if token and request.url.path not in OPEN_PATHS and not _same(given, f"Bearer {token}"):
            refused = HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
            return _problem(request, refused)
        return await proceed(request)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _problem(_: Request, exc: Exception) -> Response:
    """Answer with problem details (RFC 9457)."""
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    detail = exc.detail if isinstance(exc, HTTPException) else "internal error"
    headers = exc.headers if isinstance(exc, HTTPException) else None
    body = {"type": "about:blank", "status": status, "title": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")
