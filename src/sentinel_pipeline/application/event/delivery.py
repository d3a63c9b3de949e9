"""The at-least-once loop of one sink: take the next batch, send it, do what the answer means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog

from sentinel_pipeline.application.event.delivery_policy import (
    DOING,
    BatchSize,
    Circuit,
    Decision,
    SinkState,
    Verdict,
    decide,
    explain,
    explain_defect,
)
from sentinel_pipeline.application.event.outages import Condition, Doing
from sentinel_pipeline.application.event.tally import Tally
from sentinel_pipeline.application.ports import Batch, EventTransport, Outbox
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import OutboxError

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Also without a wake-up the outbox is looked at: the operator's ``events replay`` writes from another process.
LOOK_S = 2.0
CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How one sink is served. Times in seconds.

    max_events, max_wait: a batch goes out when it is full, or this long after its first event was noticed.
    base_delay, max_delay: waits between tries while the receiver fails.
    paused_delay, paused_max_delay: the same while it refuses our credentials.
    send_timeout: longest one ``send`` may take; beyond it the try has failed.
    """

    max_events: int = 100
    max_wait: float = 0.2
    base_delay: float = 0.5
    max_delay: float = 30.0
    paused_delay: float = 30.0
    paused_max_delay: float = 300.0
    send_timeout: float = 120.0


class Delivery:
    """Delivers the events of one sink, in order, at least once; the next batch only after the last one is settled.

    ``run`` lives in one event loop; the counters, ``state`` and ``circuit`` may be read from any thread.
    ``progress()`` is called after each batch that is settled. ``sleep`` waits between tries.

    delivered: events; retried: tries that failed and were, or will be, repeated.
    in_hand: whether a batch is under way that has not been settled and counted.
    """

    def __init__(
        self,
        sink: str,
        outbox: Outbox,
        transport: EventTransport,
        settings: DeliverySettings | None = None,
        *,
        progress: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.sink = sink
        self.state = SinkState.IDLE
        self.circuit = Circuit.CLOSED
        self.delivered = 0
        self.retried = 0
        self.in_hand = False
        self._reason = self._trouble = ""  # of the state; of the outbox, while it makes us wait
        self._outbox = outbox
        self._transport = transport
        self._settings = settings or DeliverySettings()
        self._progress = progress
        self._sleep = sleep
        self._size = BatchSize(self._settings.max_events)
        self._parked_in_a_row = 0
        self._refusal = ""
        self._parked = Tally(self._report_parked)
        self._retries = self._slow_retries = Retry()
        self._start_over()

    def __repr__(self) -> str:
        return f"<Delivery to {self.sink!r}, {self.state}, delivered {self.delivered}>"

    @property
    def reason(self) -> str:
        """Why nothing is delivered, in one sentence: the outbox where it is that, else the receiver; else empty."""
        return self._trouble or self._reason

    def condition(self) -> Condition:
        """Return how the sink is doing, for whoever tells of outages.

        While the outbox fails nothing is known of the receiver, which is not called.
        """
        trouble = self._trouble
        return Condition(Doing.NOTHING if trouble else DOING[self.state], trouble or self._reason, self.delivered)

    async def run(self) -> None:
        """Deliver until cancelled, or until the receiver asks never to be called again. Closes the transport."""
        wake = asyncio.Event()
        forget = self._outbox.on_append(_waker(asyncio.get_running_loop(), wake))
        try:
            await self._be_patient()
            await self._open()
            while self.state is not SinkState.STOPPED:
                await self._due(wake)
                batch = await self._stored(lambda: self._outbox.next_batch(self.sink, self._size.now))
                if batch is None:
                    self.in_hand = False  # a limit took it away while we waited
                else:
                    await self._deliver(batch)
        finally:
            forget()
            self._parked.flush(now=True)
            await self._close()

    async def _be_patient(self) -> None:
        """Wait as long as the receiver asked an earlier life of the program to leave it alone."""
        left = await self._stored(lambda: self._outbox.deferred(self.sink))
        if left > 0:
            self._move(
                SinkState.RETRYING, f"before the restart the receiver asked to be left alone: {left:.0f} s are left"
            )
            await self._leave_alone(left)

    async def _open(self) -> None:
        while self.state is not SinkState.STOPPED:
            try:
                await self._transport.open()
            except Exception as exc:  # noqa: BLE001 - judged like a failed delivery, see below
                await self._wait(self._judge(exc, 0))
            else:
                return

    async def _due(self, wake: asyncio.Event) -> None:
        """Return when a batch should go out: it is full, or its first event has waited long enough."""
        if self.in_hand:  # no reason to wait for company
            return
        while (pending := await self._pending(wake)) == 0:
            await _woken(wake, asyncio.sleep(LOOK_S))
        if pending < self._size.now and self._settings.max_wait > 0:
            patience = asyncio.ensure_future(self._sleep(self._settings.max_wait))
            try:
                while not patience.done() and await self._pending(wake) < self._size.now:
                    await _woken(wake, asyncio.shield(patience))
            finally:
                patience.cancel()

    async def _pending(self, wake: asyncio.Event) -> int:
        wake.clear()  # before looking: what is appended after the look wakes again
        return (await self._stored(lambda: self._outbox.backlog(self.sink))).pending

    async def _deliver(self, batch: Batch) -> None:
        """Send one batch once and settle it, or leave it for the next round."""
        self.in_hand = True
        try:
            async with asyncio.timeout(self._settings.send_timeout):
                await self._transport.send(batch)
        except Exception as exc:  # noqa: BLE001 - nothing is swallowed: what is not a TransportError is reported
            await self._settle(batch, self._judge(exc, len(batch.bodies)))
            return
        await self._stored(lambda: self._outbox.ack(batch))
        self._parked_in_a_row = 0
        self.delivered += len(batch.bodies)
        self.in_hand = False
        self._size.delivered()
        self._start_over()
        self.circuit = Circuit.CLOSED
        self._move(SinkState.UP, "")
        self._progress()

    def _judge(self, exc: Exception, size: int) -> Decision:
        decision = decide(exc, size)
        if decision.defect and decision.reason != self._reason:  # the same defect again and again is one line
            log.error("a transport failed in an unforeseen way", sink=self.sink, traceback=explain_defect(exc))
        return decision

    async def _settle(self, batch: Batch, decision: Decision) -> None:
        match decision.verdict:
            case Verdict.SPLIT:
                await self._stored(lambda: self._outbox.split(batch))
                self._size.split(len(batch.bodies))
                if decision.not_before_s > 0:
                    await self._wait(decision)
            case Verdict.PARK:
                await self._park(batch, decision)
            case _:
                await self._wait(decision)

    async def _park(self, batch: Batch, decision: Decision) -> None:
        """Move a batch to the dead letters.

        One bad event is passed at once. A receiver that refuses everything (a wrong path) is asked slowly, so that the
        backlog stays in the outbox while somebody repairs it.
        """
        await self._stored(lambda: self._outbox.park(batch, decision.reason))
        self.in_hand = False
        self._refusal = decision.reason
        self._parked.add(len(batch.bodies))
        self._progress()
        self._parked_in_a_row += 1
        if self._parked_in_a_row > 1:
            reason = f"every event is refused: {decision.reason}"
            await self._wait(Decision(Verdict.RETRY, reason, decision.not_before_s))
            return
        self._size.reset()
        if decision.not_before_s > 0:
            await self._wait(decision)
        self._start_over()
        self.circuit = Circuit.CLOSED  # it has answered
        self._move(SinkState.UP if self.delivered else SinkState.IDLE, "")

    async def _wait(self, decision: Decision) -> None:
        """Take the state that the failure means, and wait: never less than the receiver asked for."""
        if decision.verdict is Verdict.STOP:
            self.circuit = Circuit.OPEN
            self._move(SinkState.STOPPED, decision.reason)
            return
        paused = decision.verdict is Verdict.PAUSE
        self.retried += self.in_hand
        self._move(SinkState.PAUSED if paused else SinkState.RETRYING, decision.reason)
        if decision.not_before_s > 0:
            with suppress(OutboxError):  # this life keeps it in any case
                self._outbox.defer(self.sink, decision.not_before_s)
        delay = (self._slow_retries if paused else self._retries).failed(0.0)
        await self._leave_alone(max(delay or 0.0, decision.not_before_s))

    async def _leave_alone(self, seconds: float) -> None:
        self.circuit = Circuit.OPEN
        await self._sleep(seconds)
        self.circuit = Circuit.HALF_OPEN

    async def _stored(self, operation: Callable[[], T]) -> T:
        """Do ``operation`` on the outbox until the disk lets it, so that what was delivered is not sent again."""
        retries = self._fast()
        while True:
            try:
                result = operation()
            except OutboxError as exc:
                self._hinder(explain(exc))
            else:
                self._hinder("")
                return result
            await self._sleep(retries.failed(0.0) or 0.0)

    def _hinder(self, trouble: str) -> None:
        """Note what is wrong with the outbox, or that nothing is; only changes from one to the other are logged."""
        if trouble and not self._trouble:
            log.warning("the outbox fails: nothing is delivered meanwhile", sink=self.sink, reason=trouble)
        elif self._trouble and not trouble:
            log.info("the outbox works again", sink=self.sink)
        self._trouble = trouble

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._transport.close()
        except Exception as exc:  # noqa: BLE001
            # The sink ends all the same: a transport that cannot close must not keep the program from exiting.
            log.warning("a transport did not close", sink=self.sink, reason=explain(exc))

    def _start_over(self) -> None:
        self._retries = self._fast()
        self._slow_retries = Retry(self._settings.paused_delay, self._settings.paused_max_delay)

    def _fast(self) -> Retry:
        return Retry(self._settings.base_delay, self._settings.max_delay)

    def _move(self, state: SinkState, reason: str) -> None:
        """Take a state; only changes are logged."""
        old, self.state, self._reason = self.state, state, reason
        if state is old:
            return
        match state:
            case SinkState.RETRYING:
                log.warning("delivery fails and will be repeated; the events are kept", sink=self.sink, reason=reason)
            case SinkState.PAUSED:
                log.error(
                    "the receiver refuses our credentials: repair them; the events are kept",
                    sink=self.sink,
                    reason=reason,
                )
            case SinkState.STOPPED:
                log.error(
                    "the receiver asked never to be called again; stopped until a restart",
                    sink=self.sink,
                    reason=reason,
                )
            case SinkState.UP if old is not SinkState.IDLE:
                log.info("delivery works again", sink=self.sink)

    def _report_parked(self, news: int, total: int) -> None:
        log.error(
            "the receiver refuses events for good: they are in the dead-letter table (sentinel events dead)",
            sink=self.sink,
            events=news,
            events_total=total,
            reason=self._refusal,
        )


async def _woken(wake: asyncio.Event, timer: Awaitable[object]) -> None:
    """Return when ``wake`` is set or ``timer`` is over, whichever is first; both are cancelled at the end."""
    waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(timer)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _waker(loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> Callable[[], None]:
    def call() -> None:
        try:
            loop.call_soon_threadsafe(wake.set)
        except RuntimeError:
            return  # the loop was closed a moment ago: the sink has ended, nobody needs to be woken

    return call
