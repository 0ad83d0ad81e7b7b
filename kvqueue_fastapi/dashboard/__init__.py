"""The dashboard: a router that shows the queue of an app and puts it right.

It needs the extra `dashboard`. Nothing else of the package imports it.
"""

from importlib.util import find_spec

if find_spec("jinja2") is None:
    _MISSING = "The dashboard needs Jinja2. Run: pip install 'kvqueue_fastapi[dashboard]'"
    raise ModuleNotFoundError(_MISSING, name="jinja2")

from kvqueue_fastapi.dashboard.router import dashboard_router

__all__ = ["dashboard_router"]
