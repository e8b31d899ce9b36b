"""An S3 store in this process: the fixtures that tests/conftest.py makes known, and what fills it."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tst_lightning.data.storage import ObjectStorage


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Its endpoint, on a free port of the loopback interface."""
    from moto.server import ThreadedMotoServer  # takes a second

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket. The environment leads this process and those it starts to the server."""
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        # Nothing of the machine's own settings.
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    import boto3

    bucket = f"test-{uuid4().hex[:12]}"
    boto3.Session().client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


def upload_folder(folder: Path, url: str) -> str:
    """Put every file below ``folder`` at the same place below ``url``; returns ``url``."""
    storage = ObjectStorage(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.put(path, path.relative_to(folder).as_posix())
    return url
