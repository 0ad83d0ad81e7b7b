"""Gunicorn with uvicorn's workers: `gunicorn -c gunicorn.conf.py shop:app`.

Needs `pip install gunicorn uvicorn-worker`; uvicorn's own `uvicorn.workers` is deprecated. Each
worker process has a listener of its own, unless KVQUEUE_LISTEN=false and a worker of
`kvqueue worker shop:app` handles the messages.
"""

import os
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from kvqueue_fastapi import KvQueueSettings

REQUESTS_S = 10
"""How long requests may go on when a worker stops."""


class Worker(UvicornWorker):  # type: ignore[misc] # it has no types
    """Stops in time: without a limit, uvicorn waits for ever for a client that keeps reading."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **UvicornWorker.CONFIG_KWARGS,
        "timeout_graceful_shutdown": REQUESTS_S,
    }


bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = Worker

# A queue must be opened after the fork, by the lifespan of each worker: its threads, locks and
# connections do not come through one. A preloaded app that only says what it consists of would
# do; one that has opened anything would not.
preload_app = False

# When a worker stops, it ends its requests, then its handlers (shutdown_timeout_s), and then gives
# back what is unfinished. Killed before that, its messages come again all the same, a moment later.
graceful_timeout = round(REQUESTS_S + KvQueueSettings().shutdown_timeout_s + 5)

# A worker whose event loop does not answer for so long is killed. Handlers that compute belong
# into `def` handlers, which run in threads.
timeout = 60
