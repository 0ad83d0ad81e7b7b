"""The shop's dashboard is closed, and a keeper mends an invoice in it."""

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

ROOT = Path(__file__).parents[2]
KEEPER = ("keeper", "teapot")
ORIGIN = {"origin": "http://testserver"}
Wait = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_PASSWORD", KEEPER[1])
    spec = importlib.util.spec_from_file_location("shop", ROOT / "examples" / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # pydantic looks a model's module up by its name
    monkeypatch.setitem(sys.modules, "shop", module)
    spec.loader.exec_module(module)
    with TestClient(module.app) as client:
        yield client


@pytest.mark.parametrize("place", ["/queue/", "/queue/static/dashboard.css", "/seen/"])
def test_dashboard_is_closed_to_all_but_its_keeper(shop: TestClient, place: str) -> None:
    for wrong in (None, ("keeper", ""), ("keeper", "wrong"), ("other", "teapot"), ("é", "é")):
        answer = shop.get(place, auth=wrong)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")

    assert shop.get(place, auth=KEEPER).status_code == 200


def test_nobody_gets_in_where_no_password_is_set(
    shop: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_PASSWORD")

    assert shop.get("/queue/", auth=("keeper", "")).status_code == 401


def test_keeper_mends_an_invoice(
    shop: TestClient,
    eventually: Wait,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "kvqueue_fastapi.audit")
    shop.auth = KEEPER
    asked = shop.post("/invoices", json={"order_id": 42, "email": "ada@example.org"}).json()
    edit = f"/queue/messages/{asked['message_id']}/edit"
    page = eventually(lambda: "Requeue with this" in (page := shop.get(edit).text) and page)
    token = re.search(r'name="token" value="([^"]+)"', page)
    assert token is not None

    data = '{"order_id": 42, "email": "ada@example.org", "vat_number": "DE 1"}'
    form = {"token": token[1], "id": asked["message_id"], "data": data}
    answer = shop.post("/queue/actions/requeue-as", data=form, headers=ORIGIN)

    assert "is mended and requeued as message" in answer.text
    told = "invoice for order 42 to ada@example.org, VAT DE 1"
    eventually(lambda: told in capsys.readouterr().out)
    assert 'user="keeper"' in caplog.records[-1].getMessage()


def test_colleagues_who_only_look_have_no_buttons(shop: TestClient) -> None:
    assert 'method="post"' not in shop.get("/seen/", auth=KEEPER).text
