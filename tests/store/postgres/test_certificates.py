"""A server that shows a certificate which does not fit."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kvqueue_fastapi.store.postgres.connector import _connected

pytestmark = pytest.mark.skipif(
    not shutil.which("openssl"), reason="openssl makes the certificate, and is not here"
)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of another.example, with its key."""
    file = tmp_path / "both.pem"
    parts = (tmp_path / "key.pem", tmp_path / "certificate.pem")
    kind = (
        "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=another.example"
    )
    command = ["openssl", "req", *kind.split(), "-keyout", str(parts[0]), "-out", str(parts[1])]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text("".join(part.read_text() for part in parts))
    return file


@pytest.fixture
def port(certificate: Path) -> Iterator[int]:
    """Of a server that goes on with TLS, as PostgreSQL does, and no further."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            client, _ = listening.accept()
            with client:
                client.recv(8)
                client.sendall(b"S")
                context.wrap_socket(client, server_side=True)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    yield listening.getsockname()[1]
    listening.close()


async def test_certificate_that_does_not_fit_is_no_fault_of_the_url(
    port: int, certificate: Path
) -> None:
    url = f"postgresql://ada:secret@127.0.0.1:{port}/shop?sslmode=verify-full"

    with pytest.raises(ssl.SSLCertVerificationError, match="certificate") as refused:
        await _connected(f"{url}&sslrootcert={certificate}", {"timeout": 10})

    assert "secret" not in str(refused.value)
