"""The injector module: binds the queue, and installs it in an app."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

from fastapi import FastAPI
from injector import Binder, Injector, InstanceProvider, Module

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.errors import HandlerError, KvQueueError, shown
from kvqueue_fastapi.handlers.wiring import is_bound
from kvqueue_fastapi.kv import Kv
from kvqueue_fastapi.lifespan import STATE_KEY, Runtime, around, refuse_other_injector
from kvqueue_fastapi.middleware import Hooks, Middleware
from kvqueue_fastapi.queue import KvQueue
from kvqueue_fastapi.redaction import Redact, Redaction
from kvqueue_fastapi.settings import KvQueueSettings, overruled


class KvQueueModule(Module):
    """Puts a durable queue into an injector container and a FastAPI app.

    Example:
        queue_module = KvQueueModule("orders.db", consumers=[OrderService])
        queue_module.install(app, Injector([queue_module, ShopModule()]))

    Args:
        url: where the store is: a path, `sqlite:///relative`, `sqlite:////absolute`,
            `:memory:`. None: the setting `url`.
        consumers: classes whose methods are marked with `@on_queue_message`, interfaces that
            are bound to such classes, and marked functions.
        settings: None: `KvQueueSettings()`, which reads `KVQUEUE_…` from the environment.
        listen: False: this process only sends. None: the setting `listen`.
        redact: a plain function that gives what may be shown or logged in the place of a
            value. It is called with the message type and a payload, with headers as a dict,
            and with the text, the traceback or the reason of an error. `KvQueueAdmin` and the
            log show what it gives; handlers and the store have the value itself. Where it
            raises, nothing of the value is shown. Message types and ordering keys are always
            shown. None: everything may be.
        middleware: what is called around sends and handlers; the first is the outermost.

    An argument wins over `settings`, that over the environment, that over the default.

    Idea: Danet's `KvQueueModule` (docs.danet.land).
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        consumers: Iterable[Any] = (),
        settings: KvQueueSettings | None = None,
        listen: bool | None = None,
        redact: Redact | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> None:
        given = {"url": url, "listen": listen}
        chosen = {name: value for name, value in given.items() if value is not None}
        if settings is None:
            self._settings = KvQueueSettings.model_validate(chosen)
        else:
            self._settings = overruled(settings, chosen)
        self._consumers = _listed(consumers)
        self._redaction = Redaction(redact)
        self._hooks = Hooks(middleware)
        self._injector: Injector | None = None
        self._runtimes: WeakSet[Runtime] = WeakSet()

    def configure(self, binder: Binder) -> None:
        """Bind `KvQueue`, `Kv` and `KvQueueAdmin`, one of each for this container."""
        parts = (self._settings, self._consumers, self._redaction, self._hooks)
        runtime = Runtime(binder.injector, *parts)
        binder.bind(Runtime, to=InstanceProvider(runtime))
        binder.bind(KvQueue, to=InstanceProvider(runtime.queue))
        binder.bind(Kv, to=InstanceProvider(runtime.kv))
        binder.bind(KvQueueAdmin, to=InstanceProvider(runtime.admin))
        self._injector = binder.injector
        self._runtimes.add(runtime)

    def install(self, app: FastAPI, injector: Injector | None = None) -> None:
        """Run the queue with an app's lifespan.

        Call it once, before the app starts, and after every `include_router` whose router has
        a lifespan of its own that handlers rely on.

        Args:
            app: whose lifespan is to open and close the queue.
            injector: the container that has this module, or a child of it; None: the one that
                this module was configured in, else a new one with this module alone.

        Raises:
            KvQueueError: the app has a queue or another container already, or has started; or
                the container lacks this module or has another one that won.
        """
        runtime = self.runtime(injector)
        if hasattr(app.state, STATE_KEY):
            msg = "This app has a queue already. Call install once for an app."
            raise KvQueueError(msg)
        if app.middleware_stack is not None:
            msg = "This app has started already. Call install before it starts."
            raise KvQueueError(msg)
        refuse_other_injector(app, runtime.injector)
        setattr(app.state, STATE_KEY, runtime)
        # The attribute that fastapi-injector reads as well.
        app.state.injector = runtime.injector
        app.router.lifespan_context = around(runtime, app.router.lifespan_context)

    @asynccontextmanager
    async def running(self, injector: Injector | None = None) -> AsyncGenerator[KvQueue]:
        """Run the queue without an app: workers, scripts, tests.

        Args:
            injector: as for `install`.

        Raises:
            KvQueueError: this queue runs already.
            HandlerError: a handler or its wiring is wrong.
            StoreError: the database cannot be opened.
        """
        runtime = self.runtime(injector)
        async with runtime.running():
            yield runtime.queue

    def runtime(self, injector: Injector | None = None) -> Runtime:
        """Give what `install` and `running` run, to the rooms of this package that do likewise.

        Args:
            injector: as for `install`.

        Raises:
            KvQueueError: the container lacks this module or has another one that won.
        """
        chosen = injector or self._injector or Injector([self])
        if not is_bound(chosen, Runtime):
            msg = (
                "The injector does not have this KvQueueModule. Make it with "
                "Injector([queue_module, …]), and install that one."
            )
            raise KvQueueError(msg)
        runtime = chosen.get(Runtime)
        if runtime not in self._runtimes:
            msg = (
                "The injector has another KvQueueModule, which came later and so won. "
                "Install that one, or give each queue an injector of its own."
            )
            raise KvQueueError(msg)
        return runtime.within(chosen)


def _listed(consumers: Any) -> tuple[Any, ...]:
    if isinstance(consumers, type | str) or not isinstance(consumers, Iterable):
        msg = (
            f"consumers is {shown(consumers)}, allowed is a list of classes and functions. "
            "Write consumers=[OrderService]."
        )
        raise HandlerError(msg)
    return tuple(consumers)
