"""Any S3 server: obstore moves the data, boto3 resumes large uploads.

Credentials come from the environment or the AWS configuration chain, never from our files.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

from engine.errors import (
    BadInput,
    Conflict,
    IntegrityError,
    MissingPart,
    ModelOpsError,
    NotFound,
    Refused,
)
from engine.registry.blobs import CHUNK
from engine.registry.sync.arrival import Arrival, Progress
from engine.registry.sync.transport import check_key

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Above this a blob goes up in parts that are resumed after an interruption.
MULTIPART_ABOVE = 64 << 20
_INSTALL = "pip install 'modelops-tui[s3]'"


@dataclass(frozen=True)
class Place:
    """Where a bucket is: ``s3://bucket/prefix?endpoint=https://host:port&region=...&ca=/file.pem``."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str = "us-east-1"
    ca: str | None = None

    @classmethod
    def parse(cls, url: str) -> Place:
        """Read a remote's URL.

        Raises:
            BadInput: no bucket, unknown options, or credentials in it.
        """
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise BadInput(
                "a remote's URL holds no credentials",
                why="it is kept in a file and shown in lists",
                hint="export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an AWS profile",
            )
        options = dict(parse_qsl(parts.query))
        odd = set(options) - {"endpoint", "region", "ca"}
        prefix = parts.path.strip("/")
        if not parts.netloc or odd:
            raise BadInput(
                f"{url!r} is no S3 address",
                why=f"unknown: {', '.join(sorted(odd))}" if odd else "it names no bucket",
                hint="s3://bucket/prefix?endpoint=http://127.0.0.1:9000",
            )
        if prefix:
            check_key(prefix)
        return cls(
            parts.netloc,
            prefix,
            options.get("endpoint"),
            options.get("region") or os.environ.get("AWS_REGION", "us-east-1"),
            options.get("ca"),
        )


class S3:
    """A remote in a bucket."""

    def __init__(self, url: str, *, conditional: bool = True) -> None:
        self.url = url
        self.conditional = conditional
        self.place = Place.parse(url)
        self._store = _obstore(self.place)
        self._boto: Any = None

    def _key(self, key: str) -> str:
        check_key(key)
        return f"{self.place.prefix}/{key}" if self.place.prefix else key

    def get(self, key: str, limit: int) -> tuple[bytes, str]:
        import obstore

        with explained(self.url, key):
            result = obstore.get(self._store, self._key(key))
            size = int(result.meta["size"])
            if size > limit:
                raise IntegrityError(f"{key} is refused", why=f"it has {size} bytes, not {limit}")
            data = b""
            for chunk in result.stream(min_chunk_size=1 << 16):
                data += bytes(chunk)
                if len(data) > limit:
                    raise IntegrityError(f"{key} is refused", why=f"more than {limit} bytes came")
            if len(data) != size:
                raise IntegrityError(
                    f"{key} is refused", why=f"{len(data)} of {size} bytes came: it was cut short"
                )
            return data, str(result.meta["e_tag"] or "")

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with explained(self.url, key):
            try:
                obstore.put(self._store, self._key(key), data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        if tag is None:
            return self.create(key, data)
        if not self.conditional:
            return self._overwrite(key, data, tag)
        if self._put_if(key, data, tag):
            return True
        bare = tag.strip('"')
        # some servers (Ceph 16) refuse the quoted form although it is still that version
        if bare != tag and self._tag(key).strip('"') == bare:
            return self._put_if(key, data, bare)
        return False

    def _put_if(self, key: str, data: bytes, tag: str) -> bool:
        import obstore
        from obstore.exceptions import PreconditionError

        with explained(self.url, key):
            try:
                obstore.put(
                    self._store, self._key(key), data, mode={"e_tag": tag}, use_multipart=False
                )
            except PreconditionError:
                return False
        return True

    def _overwrite(self, key: str, data: bytes, tag: str) -> bool:
        """Single-writer mode: look, then write. Only one machine may push to such a server."""
        import obstore

        if self._tag(key).strip('"') != tag.strip('"'):
            return False
        with explained(self.url, key):
            obstore.put(self._store, self._key(key), data, use_multipart=False)
        return True

    def _tag(self, key: str) -> str:
        import obstore

        with explained(self.url, key):
            return str(obstore.head(self._store, self._key(key))["e_tag"] or "")

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        import obstore

        cut = len(self.place.prefix) + 1 if self.place.prefix else 0
        with explained(self.url, prefix):
            for page in obstore.list(self._store, prefix=self._key(prefix)):
                for item in page:
                    yield str(item["path"])[cut:], int(item["size"])

    def upload(self, key: str, path: Path, progress: Progress) -> None:
        size = path.stat().st_size
        if size > MULTIPART_ABOVE:
            from engine.registry.sync.multipart import Access, upload_parts

            with explained(self.url, key):
                access = Access(*credentials(self.place), self.place.region, self.place.ca)
                where = self.place.bucket, self._key(key)
                upload_parts(self._client(), access, *where, path, progress)
            return
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        # somebody else's push may be quicker; a pull checks the bytes in any case
        # the pages go to the socket as they are: given a path, obstore copies them (2.8x the CPU)
        with (
            explained(self.url, key),
            suppress(AlreadyExistsError, PreconditionError),
            open(path, "rb") as file,
            _pages(file, size) as data,
        ):
            obstore.put(self._store, self._key(key), data, mode="create", use_multipart=False)
        progress(size)

    def download(
        self, key: str, path: Path, size: int, progress: Progress, *, resume: bool = False
    ) -> str:
        with (
            explained(self.url, key),
            Arrival(path, size, key, progress, resume=resume) as into,
        ):
            return into.take(self._chunks(key, size, into.done)).finish()

    def _chunks(self, key: str, size: int, done: int) -> Iterator[Buffer]:
        """An object's bytes from ``done`` on; a connection that breaks on the way is made anew."""
        import obstore
        from obstore import exceptions as said

        while done < size:
            begun = done
            try:
                options: Any = {"range": {"offset": done}} if done else None
                result = obstore.get(self._store, self._key(key), options=options)
                announced = int(result.meta["size"])
                if announced != size:
                    raise IntegrityError(
                        f"{key} is refused", why=f"it has {announced} bytes, signed are {size}"
                    )
                # the chunks are buffers of obstore's own: hashed and written without a copy
                for chunk in result.stream(min_chunk_size=CHUNK):
                    done += len(chunk)
                    yield chunk
            except said.BaseError:
                if done - begun < CHUNK:
                    raise  # nothing comes through any more
            else:
                return

    def delete(self, key: str) -> None:
        import obstore

        with explained(self.url, key):
            obstore.delete(self._store, self._key(key))

    def _client(self) -> Any:
        if self._boto is None:
            self._boto = boto_client(self.place)
        return self._boto


@contextmanager
def _pages(file: BinaryIO, size: int) -> Iterator[Buffer]:
    """A file's bytes as a buffer, without reading them into memory of our own."""
    if size == 0:
        yield b""  # an empty file can't be mapped
        return
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as pages:
        yield pages


def _obstore(place: Place) -> Any:
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise MissingPart("syncing with S3 needs obstore", why=str(error), hint=_INSTALL) from error
    access = credentials(place)
    client: dict[str, Any] = {"timeout": "60s", "connect_timeout": "10s"}
    if place.endpoint and place.endpoint.startswith("http://"):
        client["allow_http"] = True
    if place.ca:
        client["root_certificate"] = Path(place.ca).read_bytes()
    options: dict[str, Any] = {
        "region": place.region,
        "checksum_algorithm": "SHA256",
        "virtual_hosted_style_request": place.endpoint is None,
        "access_key_id": access[0],
        "secret_access_key": access[1],
    }
    if access[2]:
        options["token"] = access[2]
    if place.endpoint:
        options["endpoint"] = place.endpoint
    return S3Store(
        place.bucket,
        config=options,
        client_options=client,
        retry_config={"max_retries": 5, "retry_timeout": _seconds(60)},
    )


def _seconds(count: int) -> Any:
    from datetime import timedelta

    return timedelta(seconds=count)


def credentials(place: Place) -> tuple[str, str, str | None]:
    """Access key, secret and token: environment, AWS configuration, or the system's keyring.

    Raises:
        Refused: there are none.
    """
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return key, secret, os.environ.get("AWS_SESSION_TOKEN")
    try:
        import boto3

        found = boto3.Session().get_credentials()
    except ImportError:
        found = None
    if found is not None:
        frozen = found.get_frozen_credentials()
        return str(frozen.access_key), str(frozen.secret_key), frozen.token
    kept = _from_keyring(place)
    if kept is not None:
        return kept
    raise Refused(
        f"there are no credentials for {place.endpoint or 'S3'}",
        why="neither the environment, nor the AWS configuration, nor the keyring has any",
        hint="export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...",
    )


def _from_keyring(place: Place) -> tuple[str, str, str | None] | None:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return None
    try:
        text = keyring.get_password("modelops-tui", place.endpoint or "s3")
    except (KeyringError, OSError):
        return None
    key, _, secret = (text or "").partition(":")
    return (key, secret, None) if key and secret else None


def boto_client(place: Place) -> Any:
    """A boto3 client for the same place.

    Raises:
        MissingPart: boto3 is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise MissingPart("large uploads need boto3", why=str(error), hint=_INSTALL) from error
    key, secret, token = credentials(place)
    return boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        region_name=place.region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        verify=place.ca or None,
        config=Config(
            retries={"max_attempts": 5, "mode": "standard"},
            connect_timeout=10,
            read_timeout=60,
            s3={"addressing_style": "path" if place.endpoint else "auto"},
            request_checksum_calculation="when_required",
        ),
    )


@contextmanager
def explained(url: str, key: str) -> Iterator[None]:
    """Turn what the S3 libraries raise into our errors, with the reason.

    Raises:
        NotFound, Refused, Conflict, ModelOpsError: by what happened.
    """
    from obstore import exceptions as said

    try:
        yield
    except ModelOpsError:
        raise
    except (said.NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"{url} has no {key}", why=_short(error)) from error
    except (said.PermissionDeniedError, said.UnauthenticatedError) as error:
        raise _denied(url, error) from error
    except (said.PreconditionError, said.AlreadyExistsError) as error:
        raise Conflict(f"{key} changed at {url}", why=_short(error)) from error
    except Exception as error:
        text = str(error)
        if "RequestTimeTooSkewed" in text or "SignatureDoesNotMatch" in text or "403" in text[:400]:
            raise _denied(url, error) from error
        if not isinstance(error, said.BaseError) and not _is_boto(error):
            raise
        raise ModelOpsError(
            f"{url} could not be reached or answered wrongly",
            why=_short(error),
            hint="what was moved stays; run the same command again to go on",
        ) from error


def _is_boto(error: Exception) -> bool:
    return type(error).__module__.startswith(("botocore", "boto3", "urllib3"))


def _denied(url: str, error: Exception) -> Refused:
    if "RequestTimeTooSkewed" in str(error):
        return Refused(
            f"{url} refused the request", why="this machine's clock is wrong", hint="timedatectl"
        )
    return Refused(
        f"{url} refused the credentials",
        why=_short(error),
        hint="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and this machine's clock",
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
