"""Hooks around sending and handling: what traces, metrics and error reports are built on."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial, reduce
from typing import Any, Final, TypeVar

from kvqueue_fastapi.errors import HandlerError, shown
from kvqueue_fastapi.message import Message
from kvqueue_fastapi.model import Delivery
from kvqueue_fastapi.outgoing import CallSend, OutgoingMessage

T = TypeVar("T")

CallHandler = Callable[[Message[Any]], Awaitable[None]]
"""The rest of the way to a handler."""


class Middleware:
    """Around each commit that sends, around each call of a handler, and after each delivery.

    Override what you need; what is not overridden costs nothing. Give instances to
    `KvQueueModule(middleware=[…])`: the first is the outermost. One instance serves all messages
    of a process, many at a time, so keep what belongs to one message in local variables.

        class Timed(Middleware):
            async def handle(self, message: Message, call_next: CallHandler) -> None:
                began = time.monotonic()
                try:
                    await call_next(message)
                finally:
                    log.info("%s took %.3f s", message.type, time.monotonic() - began)
    """

    async def send(self, messages: Sequence[OutgoingMessage], call_next: CallSend) -> list[int]:
        """Around a commit that sends, be it a message, many, or an atomic operation's.

        What the keeper sends again or requeues does not come here.

        Args:
            messages: what is sent, checked already.
            call_next: to be awaited to its end, once, or again where it has raised. It takes as
                many, in the same order: these, or others in their place, such as with more
                headers. It raises what the commit raises; where a `StoreError` says that nobody
                knows whether they were stored, they are sent twice by another try, unless they
                have idempotency keys.

        Returns:
            What `call_next` gave: the ids, in order; [] where a check failed and nothing was sent.

        What it raises reaches the sender; before `call_next`, nothing is sent then.
        """
        return await call_next(messages)

    async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
        """Around each call of a handler, the retries among them.

        It runs on the event loop, also where the handler is a `def` in a thread.

        Args:
            message: what is handled.
            call_next: calls the handler, once, or again where that has raised, and raises what
                that raises, `Reject` and `RetryLater` among it. Cut off, a `def` handler in its
                thread is waited for all the same. What this method raises is how the handler
                failed; where it returns, the message is handled. So let `asyncio.CancelledError`
                through: at a shutdown it says that the handler was cut off, and that the message
                is to come again.
        """
        await call_next(message)

    def settled(self, delivery: Delivery) -> None:
        """Told how a delivery has ended, once that is written down.

        It must be quick: the event loop waits. During a shutdown it may be called in the thread
        of a `def` handler that outlived it. What it raises is logged.
        """


class Hooks:
    """The middlewares of a queue, as its sender and its listener call them.

    Attributes:
        send: around a commit that sends; None: no middleware has anything to do there.
        handle: around a handler; likewise.
        settled: what is told of each delivery.
    """

    def __init__(self, middleware: Iterable[Middleware] = ()) -> None:
        stack = _checked(middleware)
        senders = [one.send for one in stack if _overrides(one, "send")]
        handlers = [one.handle for one in stack if _overrides(one, "handle")]
        self.send = partial(_send_through, senders) if senders else None
        self.handle = partial(_handle_through, handlers) if handlers else None
        self.settled = tuple(one.settled for one in stack if _overrides(one, "settled"))


def _send_through(
    senders: Sequence[Callable[[Sequence[OutgoingMessage], CallSend], Awaitable[list[int]]]],
    messages: Sequence[OutgoingMessage],
    commit: CallSend,
) -> Awaitable[list[int]]:
    call: CallSend = reduce(
        lambda inner, sender: lambda given: _awaitable(sender(given, inner), sender),
        reversed(senders),
        commit,
    )
    return call(messages)


def _handle_through(
    handlers: Sequence[Callable[[Message[Any], CallHandler], Awaitable[None]]],
    message: Message[Any],
    handle: CallHandler,
) -> Awaitable[None]:
    call: CallHandler = reduce(
        lambda inner, handler: lambda given: _awaitable(handler(given, inner), handler),
        reversed(handlers),
        handle,
    )
    return call(message)


def _awaitable(given: Awaitable[T], method: Callable[..., Any]) -> Awaitable[T]:
    if inspect.isawaitable(given):
        return given
    name = getattr(method, "__qualname__", shown(method))
    msg = f"{name} has given {shown(given)}, which cannot be awaited. Write it as an `async def`."
    raise HandlerError(msg)


def _overrides(middleware: Middleware, name: str) -> bool:
    method = getattr(middleware, name)
    return getattr(method, "__func__", method) is not getattr(Middleware, name)


def _checked(middleware: Any) -> tuple[Middleware, ...]:
    if isinstance(middleware, Iterable) and not isinstance(middleware, str):
        stack = tuple(middleware)
        wrong = [one for one in stack if not isinstance(one, Middleware)]
        if not wrong:
            _refuse_uncallable(stack)
            _refuse_async_settled(stack)
            return stack
        middleware = wrong[0]
    msg = (
        f"middleware is {shown(middleware)}, allowed are instances of Middleware. Write "
        "middleware=[MyMiddleware()], where MyMiddleware is a subclass."
    )
    raise HandlerError(msg)


def _refuse_uncallable(stack: Sequence[Middleware]) -> None:
    for one in stack:
        for name in ("send", "handle", "settled"):
            if not callable(method := getattr(one, name)):
                msg = (
                    f"{type(one).__qualname__}.{name} is {shown(method)}, allowed is a method. "
                    "Leave it out where there is nothing to do."
                )
                raise HandlerError(msg)


def _refuse_async_settled(stack: Sequence[Middleware]) -> None:
    for one in stack:
        if inspect.iscoroutinefunction(one.settled):
            msg = (
                f"{type(one).__qualname__}.settled is an `async def`, allowed is a `def`: it is "
                "called and not awaited. Write `def settled`, and begin a task there for what "
                "takes longer."
            )
            raise HandlerError(msg)


NO_HOOKS: Final = Hooks()
"""Of a queue without middleware."""
