"""An app whose handlers need what its lifespan opens; also by a factory, and its module alone."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from served import Work, note, sleep

from kvqueue_fastapi import KvQueueModule, Message, on_queue_message

tools: list[str] = []


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    tools.append("saw")
    note("startup")
    yield
    tools.clear()
    note("shutdown")


@on_queue_message("build")
async def build(work: Work, message: Message) -> None:
    await sleep(work, message)
    note("built", id=message.id, version=" ".join(tools))


@on_queue_message("hold up")
async def hold_up(work: Work, message: Message) -> None:
    note("begun", id=message.id)
    time.sleep(work.seconds)  # noqa: ASYNC251 because a careless handler is the case


queue_module = KvQueueModule(consumers=[build, hold_up], listen=False)


def create_app() -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    queue_module.install(app)
    return app


app = create_app()
