"""Buckets of Amazon S3 (and what speaks its protocol) and Google Cloud Storage, with errors to act on.

Not litdata's file-system providers: they are private, their import brings torch into every process that only
uploads, they retry a thousand times before an unreachable endpoint is an error, and their delete takes
everything whose name begins with the given one ("chunk-1.bin" and "chunk-1.bin.old").
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tst_lightning.errors import UserError

CONNECT_SECONDS = 5
READ_SECONDS = 60


class Bucket(Protocol):
    """Objects by key. All methods raise ``UserError`` if the store refuses or cannot be reached."""

    def upload(self, local: Path, key: str) -> None:
        """Write or replace an object: readers see the old one or the new one."""

    def download(self, key: str, local: Path) -> None:
        """Write an object's bytes to ``local``; what is there if it fails is undefined.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def delete(self, key: str) -> None:
        """Remove an object, if there is one."""


class S3Bucket:
    """A bucket of S3, or of another store at AWS_ENDPOINT_URL. Credentials, region and profile as boto3 finds them.

    Args:
        name: of the bucket.
        attempts: per request, with waits between them that grow to 20 seconds.
    """

    def __init__(self, name: str, attempts: int) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self.name = name
        config = Config(
            retries={"total_max_attempts": attempts, "mode": "standard"},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
        )
        try:
            # A session of its own: boto3's default one is not safe to share between threads.
            self._client = boto3.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise UserError(
                f"cannot use 's3://{name}' ({_line(error)}): correct AWS_ENDPOINT_URL, AWS_PROFILE or AWS_REGION"
            ) from error

    def upload(self, local: Path, key: str) -> None:
        with self._explained("write", key), open(local, "rb") as file:
            self._client.upload_fileobj(file, self.name, key)

    def download(self, key: str, local: Path) -> None:
        with self._explained("read", key), open(local, "wb") as file:
            self._client.download_fileobj(self.name, key, file)

    def exists(self, key: str) -> bool:
        try:
            with self._explained("read", key):
                self._client.head_object(Bucket=self.name, Key=key)
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        with self._explained("delete", key):
            self._client.delete_object(Bucket=self.name, Key=key)

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            EndpointConnectionError,
            HTTPClientError,
            NoCredentialsError,
        )
        from s3transfer.exceptions import RetriesExceededError

        failed = f"cannot {action} 's3://{self.name}/{key}'"
        try:
            yield
        except NoCredentialsError as error:
            raise UserError(
                f"{failed} (no credentials): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        except (EndpointConnectionError, HTTPClientError, RetriesExceededError) as error:
            endpoint = self._client.meta.endpoint_url
            raise UserError(
                f"{failed} ({_line(error)}): check the network, the region, and AWS_ENDPOINT_URL; "
                f"the endpoint is {endpoint}"
            ) from error
        except ClientError as error:
            raise self._refusal(failed, error) from error
        except (BotoCoreError, Boto3Error) as error:
            raise UserError(f"{failed} ({_line(error)}): correct the URL or the AWS settings") from error

    def _refusal(self, failed: str, error: Any) -> Exception:
        """The exception for an answer of the store that is an error."""
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code == "NoSuchBucket" or (status == 404 and self._is_absent()):
            return UserError(f"{failed} (there is no bucket '{self.name}'): correct the URL, or make the bucket")
        if status == 404:
            return FileNotFoundError(f"{failed}: there is no such object")
        if status in (401, 403):
            return UserError(
                f"{failed} ({_line(error)}): the credentials are wrong, have expired, or lack the permission "
                "(to list the bucket as well: without that S3 says the same of an absent object)"
            )
        return UserError(f"{failed} ({_line(error)}): try again later, or correct the URL or the AWS settings")

    def _is_absent(self) -> bool:
        # A HEAD request has no body, so "no such object" and "no such bucket" look alike.
        from botocore.exceptions import ClientError

        try:
            self._client.head_bucket(Bucket=self.name)
        except ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"] == 404
        return False


class GoogleBucket:
    """A bucket of Google Cloud Storage, with Google's default credentials. Needs google-cloud-storage."""

    def __init__(self, name: str) -> None:
        try:
            from google.auth.exceptions import DefaultCredentialsError
            from google.cloud import storage
        except ImportError as error:
            raise UserError(
                f"'gs://{name}' needs a package that is not installed: `pip install google-cloud-storage`"
            ) from error
        self.name = name
        try:
            self._bucket = storage.Client().bucket(name)
        except DefaultCredentialsError as error:
            raise UserError(
                f"cannot use 'gs://{name}' (no credentials): run `gcloud auth application-default login`, or set "
                "GOOGLE_APPLICATION_CREDENTIALS"
            ) from error

    def upload(self, local: Path, key: str) -> None:
        with self._explained("write", key):
            self._bucket.blob(key).upload_from_filename(os.fspath(local))

    def download(self, key: str, local: Path) -> None:
        with self._explained("read", key):
            self._bucket.blob(key).download_to_filename(os.fspath(local))

    def exists(self, key: str) -> bool:
        with self._explained("read", key):
            return self._bucket.blob(key).exists()

    def delete(self, key: str) -> None:
        try:
            with self._explained("delete", key):
                self._bucket.blob(key).delete()
        except FileNotFoundError:
            pass

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[None]:
        from google.api_core.exceptions import GoogleAPIError, NotFound
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        failed = f"cannot {action} 'gs://{self.name}/{key}'"
        try:
            yield
        except NotFound as error:
            if "bucket does not exist" in str(error):
                remedy = "correct the URL, or make the bucket"
                raise UserError(f"{failed} (there is no bucket '{self.name}'): {remedy}") from error
            raise FileNotFoundError(f"{failed}: there is no such object") from error
        except (GoogleAPIError, GoogleAuthError, RequestException) as error:
            raise UserError(f"{failed} ({_line(error)}): check the network and the credentials' permissions") from error


def open_bucket(scheme: str, name: str, attempts: int) -> Bucket:
    """A bucket by the scheme of its URL.

    Raises:
        UserError: another scheme than s3 and gs, no name, or the store's package or credentials are missing.
    """
    if scheme not in ("s3", "gs") or not name:
        raise UserError(f"'{scheme}://{name}' is no object storage: give s3://BUCKET/PATH or gs://BUCKET/PATH")
    return S3Bucket(name, attempts) if scheme == "s3" else GoogleBucket(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
