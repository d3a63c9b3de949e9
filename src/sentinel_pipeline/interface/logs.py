"""How the program logs: text on a terminal, JSON lines otherwise; never a credential."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.settings import LogFormat, LogLevel
from sentinel_pipeline.interface.outlet import StandardError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(log_format: LogFormat = "auto", level: LogLevel = "info") -> None:
    """Send this package's log to standard error, every text through ``redact``; libraries from warnings upwards."""
    as_text = sys.stderr.isatty() if log_format == "auto" else log_format == "console"
    renderer: Any = structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _format_exception,
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: StandardError(),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_end


def _log_thread_end(args: threading.ExceptHookArgs) -> None:
    """Python's own hook prints the traceback as it is, with whatever a foreign exception carries."""
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else ""
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        structlog.get_logger(__name__).error("a thread ended by an exception", thread=name, exc_info=info)


class _ToStructlog(logging.Handler):
    """Bridges the standard library's logging, which the libraries use."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def _format_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turn the exception into text: only text can be redacted."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[0] is not None:
        event["exception"] = "".join(traceback.format_exception(*info))
    return event


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: _clean(value) for key, value in event.items() if value is not None}


def _clean(value: Any) -> Any:
    """Redact text wherever it hides; what is no JSON value (an exception, a path) becomes text first."""
    match value:
        case str():
            return redact(value)
        case bool() | int() | float() | None:
            return value
        case Mapping():
            return {str(key): _clean(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(item) for item in value]
    return redact(str(value))
