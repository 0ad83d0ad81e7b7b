"""The shop does what its docstring says, also when it is killed on the way."""

import importlib.util
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

ROOT = Path(__file__).parents[2]
Wait = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def open_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TestClient]:
    def open_shop(**environment: str) -> TestClient:
        monkeypatch.chdir(tmp_path)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("orders", ROOT / "examples" / "orders.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # pydantic looks a model's module up by its name
        monkeypatch.setitem(sys.modules, "orders", module)
        spec.loader.exec_module(module)
        return TestClient(module.app)

    return open_shop


def basket(item: str = "teapot") -> dict[str, object]:
    return {"item": item, "quantity": 2, "email": "ada@example.org"}


def test_one_order_has_four_effects(open_shop: Callable[..., TestClient], eventually: Wait) -> None:
    with open_shop(SHOP_PARTNER_FAILS="0") as shop:
        answer = shop.post("/orders", json=basket())
        order_id = answer.json()["order_id"]
        events = eventually(lambda: len(e := shop.get(f"/orders/{order_id}").json()) == 4 and e)

    assert answer.status_code == 202
    assert len(answer.json()["message_ids"]) == 4
    assert {event.partition(" ")[2] for event in events} == {
        f"invoice in orders.db-files/{order_id}.pdf",
        "mail to ada@example.org: 2 teapot, thank you",
        "2 teapot reserved",
        "the partner knows of 2 teapot, attempt 1",
    }
    assert Path(f"orders.db-files/{order_id}.pdf").read_bytes().startswith(b"%PDF-1.4")


def test_rejected_reservation_is_a_dead_letter_to_requeue(
    open_shop: Callable[..., TestClient], eventually: Wait
) -> None:
    with open_shop(SHOP_PARTNER_FAILS="0") as shop:
        shop.post("/orders", json=basket("kettle"))
        (letter,) = eventually(lambda: shop.get("/admin/queue").json()["dead_letters"])
        requeued = shop.post(f"/admin/dead-letters/{letter['id']}/requeue").json()
        (again,) = eventually(
            lambda: [
                one
                for one in shop.get("/admin/queue").json()["dead_letters"]
                if one["id"] == requeued["message_id"]
            ]
        )
        absent = shop.post("/admin/dead-letters/999/requeue")

    assert letter["reason"] == "Reject: there is no kettle"
    assert letter["attempt"] == 1
    assert again["requeued_from"] == letter["id"]
    assert absent.status_code == 404


def test_webhook_is_tried_four_times_and_then_its_key_is_written(
    open_shop: Callable[..., TestClient], eventually: Wait
) -> None:
    with open_shop(SHOP_PARTNER_FAILS="1") as shop:
        order_id = shop.post("/orders", json=basket()).json()["order_id"]
        (letter,) = eventually(lambda: shop.get("/admin/queue").json()["dead_letters"])
        events = "\n".join(shop.get(f"/orders/{order_id}").json())
    with closing(sqlite3.connect("orders.db")) as database:
        ((key, value),) = database.execute("SELECT key, value FROM kvqueue_kv").fetchall()

    assert letter["type"] == "webhook.call"
    assert re.findall(r"webhook failed in attempt (\d)", events) == ["1", "2", "3", "4"]
    assert b"undelivered" in key
    assert order_id.encode() in key
    assert json.loads(value)["type"] == "webhook.call"
    assert json.loads(value)["data"]["order_id"] == order_id


def test_full_queue_is_a_503(open_shop: Callable[..., TestClient], eventually: Wait) -> None:
    with open_shop(KVQUEUE_LISTEN="false", KVQUEUE_MAX_PENDING="3") as shop:
        # The count behind the limit may be a tenth of a second old.
        busy = eventually(
            lambda: (answer := shop.post("/orders", json=basket())).status_code != 202 and answer
        )

    assert busy.status_code == 503
    assert busy.headers["Retry-After"] == "5"
    assert "limit is 3" in busy.json()["detail"]


@contextmanager
def served(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            # the checkout, for `uvicorn examples.orders:app`; all files go to where the log is
            cwd=ROOT,
            env={
                **os.environ,
                "PORT": str(port),
                "KVQUEUE_URL": str(log.parent / "orders.db"),
                "SHOP_FILES": str(log.parent / "files"),
                "SHOP_PARTNER_FAILS": "0",
            },
            stdout=output,
            stderr=output,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def call(url: str, body: object = None) -> Any:
    """GET, or POST where there is a body; None: nobody answers yet."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def test_killed_shop_finishes_its_orders_after_the_next_start(
    tmp_path: Path, eventually: Wait
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log.txt"

    with served([sys.executable, "examples/orders.py"], port, log) as process:
        eventually(lambda: call(f"{url}/admin/queue"))
        ids = [call(f"{url}/orders", basket())["order_id"] for _ in range(4)]
        # Each invoice takes 0.3 s, two at a time: some run, some wait.
        process.kill()
    before = len(list((tmp_path / "files").glob("*.pdf")))
    uvicorn = [sys.executable, "-m", "uvicorn", "examples.orders:app", "--port", str(port)]
    with served(uvicorn, port, log):
        eventually(lambda: call(f"{url}/admin/queue"))
        for order_id in ids:
            events = eventually(lambda i=order_id: has_four_effects(call(f"{url}/orders/{i}")))
            assert events

    assert before < 4
    assert len(list((tmp_path / "files").glob("*.pdf"))) == 4


def has_four_effects(events: list[str]) -> bool:
    text = "\n".join(events)
    return all(word in text for word in ("mail to", "reserved", "partner knows", "invoice in"))
