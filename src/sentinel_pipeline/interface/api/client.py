"""Asks a running program for its report."""

from __future__ import annotations

from typing import Any

import httpx

from sentinel_pipeline.domain.errors import ConfigError, SentinelError

_PARTS = ("streams", "sinks", "outbox", "models", "process")


def ask_status(host: str, port: int, token: str) -> dict[str, Any]:
    """Return the report. Raises ``SentinelError`` when nothing answers there, or something else does."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - translating, not binding
    where = f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"
    if not token.isascii() or not token.isprintable():
        raise ConfigError("the API token has characters that HTTP cannot carry", remedy="correct SENTINEL_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        reply = httpx.get(f"http://{where}/api/v1/status", headers=headers, timeout=5.0, trust_env=False)
        reply.raise_for_status()
        report = reply.json()
        if not isinstance(report, dict) or not all(isinstance(report.get(part), dict) for part in _PARTS):
            raise ValueError
    except httpx.HTTPStatusError as exc:
        remedy = "give the program's --config, or set SENTINEL_TOKEN" if exc.response.status_code == 401 else ""
        raise SentinelError(f"{where} answered {exc.response.status_code}", remedy=remedy) from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise SentinelError(
            f"no program answers at {where}", remedy="start one with `sentinel run`, or name its --config"
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise SentinelError(f"what answers at {where} is not sentinel", remedy="name the program's --config") from exc
    return report
