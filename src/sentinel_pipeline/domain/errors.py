"""Every error of the pipeline, as a tree.

SentinelError                      one sentence; ``remedy`` says what to do about it
├── ConfigError                    bad usage or configuration (exit code 2)
├── StreamError                    a camera's connection failed; worth another try
│   ├── StreamRefused              the camera answered and said no (401, 404 …): retried slowly
│   ├── StreamStalled              nothing came within the time-out
│   └── StreamEnded                the camera closed the stream
├── PublishError                   an output failed; worth another try
├── ModelError                     the model cannot be loaded, or an inference failed
│   ├── ModelBusy                  the picture grew too old before its turn came: not run, the model is well
│   └── ModelTimeout               an inference did not come back in time
├── CommandRefused                 a server asked for something that cannot be done
├── OutboxError                    events cannot be stored durably
│   ├── OutboxFull                 the configured bound is reached and the policy is ``refuse``
│   └── EventUnfit                 JSON cannot carry the event: no later try will store it
└── TransportError                 one attempt to deliver a batch failed
    ├── DeliveryError              resend later, under the same idempotency key
    ├── PayloadTooLarge            resend in smaller batches (413)
    ├── Unauthorised               resend when the operator has repaired the credentials (401, 403)
    ├── SinkGone                   never call again (410)
    └── Rejected                   never resend this batch (other 4xx)
"""

from __future__ import annotations


class SentinelError(Exception):
    """An error that a person reads: one sentence, and the remedy.

    Messages never carry credentials: whoever builds one from foreign text passes that text through ``redact`` first.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.remedy})" if self.remedy else message


class ConfigError(SentinelError):
    """The configuration or the command line is unusable; nothing was started."""


class StreamError(SentinelError):
    """A camera's connection could not be opened or broke."""


class StreamRefused(StreamError):
    """The camera answered and refused: wrong password, wrong path, unsupported transport.

    ``status``: the answer's status code (401, 404 …), None where there was none.
    """

    def __init__(self, message: str, *, remedy: str = "", status: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class StreamStalled(StreamError):
    """The camera sent nothing within the time-out."""


class StreamEnded(StreamError):
    """The camera, or the server in front of it, ended the stream."""


class PublishError(SentinelError):
    """An output (FFmpeg, the media server) failed."""


class ModelError(SentinelError):
    """A model file cannot be used, or an inference failed."""


class ModelBusy(ModelError):
    """A picture was not looked at: it had grown too old when its turn came. The model is well, and too busy."""


class ModelTimeout(ModelError):
    """An inference did not come back within its deadline."""


class CommandRefused(SentinelError):
    """A command from a server cannot be carried out; the message is the answer."""


class OutboxError(SentinelError):
    """Events could not be stored durably."""


class OutboxFull(OutboxError):
    """The outbox has reached its bound and its policy is to refuse."""


class EventUnfit(OutboxError):
    """The event cannot be written as JSON, and never will be."""


class TransportError(SentinelError):
    """One attempt to deliver a batch failed; the subclass says what happens to the batch.

    ``retry_after_s``: seconds that the receiver asked for (``Retry-After``, RFC 9110 section 10.2.3), or None. Before
    they are over nothing is sent to it, whatever happens to the batch.
    """

    def __init__(self, message: str, *, remedy: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s


class DeliveryError(TransportError):
    """The batch may be sent again under the same idempotency key."""


class PayloadTooLarge(TransportError):
    """The receiver takes smaller batches only (HTTP 413)."""


class Unauthorised(TransportError):
    """The receiver refuses our credentials (HTTP 401, 403): keep the data, raise an alarm, try slowly."""


class SinkGone(TransportError):
    """The receiver never wants to be called again (HTTP 410)."""


class Rejected(TransportError):
    """The receiver will never take this batch (other 4xx): its events go to the dead-letter table."""
