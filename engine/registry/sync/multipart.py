"""Large uploads that go on where they were: parts that are there with the right MD5 stay.

A part goes from the file's pages to the socket without a copy, signed with the SHA-256 of just that
part; boto3's own ``upload_part`` copies it, and adds a CRC: 2.6 times the CPU, measured.
"""

from __future__ import annotations

import hashlib
import mmap
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PART_BYTES = 16 << 20
_MAX_PARTS = 10_000
_WORKERS = 4
_TRIES = 5
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")

Progress = Callable[[int], None]


def part_size(size: int) -> int:
    """Bytes a part has: the same for every attempt at the same file, so that parts fit again."""
    return max(PART_BYTES, -(-size // _MAX_PARTS))


@dataclass(frozen=True)
class Access:
    """How to reach a bucket: keys, region, and the CA to believe (None: the system's)."""

    key: str
    secret: str
    token: str | None
    region: str
    ca: str | None = None


class Sender:
    """Puts parts to an S3 server, each signed (SigV4) with its own SHA-256."""

    def __init__(self, url: str, access: Access) -> None:
        from botocore.auth import S3SigV4Auth
        from botocore.credentials import Credentials
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        class KnownPayload(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
            """Signs the hash that was made already instead of reading the body again."""

            def payload(self, request: Any) -> str:
                return str(request.context["sha256"])

        self._url = url
        self._auth = KnownPayload(
            Credentials(access.key, access.secret, access.token), "s3", access.region
        )
        self._session = URLLib3Session(
            verify=access.ca or True,
            proxies=get_environ_proxies(url),
            timeout=(10, 60),
            max_pool_connections=_WORKERS,
        )

    def put(self, upload_id: str, number: int, body: memoryview) -> str:
        """Send one part; a broken connection or a busy server is tried again.

        Returns:
            The part's ETag.

        Raises:
            botocore.exceptions.BotoCoreError, ClientError: it was refused, or never went through.
        """
        from botocore.exceptions import HTTPClientError

        digest = hashlib.sha256(body).hexdigest()
        for attempt in range(1, _TRIES + 1):
            try:
                answer = self._session.send(self._signed(upload_id, number, body, digest))
            except HTTPClientError:
                if attempt == _TRIES:
                    raise
            else:
                if answer.status_code < 300:
                    return str(answer.headers["ETag"])
                if answer.status_code < 500 or attempt == _TRIES:
                    raise _refused(answer)
            time.sleep(random.uniform(0, 0.2 * 2**attempt))  # noqa: S311
        raise AssertionError("unreachable")

    def _signed(self, upload_id: str, number: int, body: memoryview, digest: str) -> Any:
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(
            "PUT",
            self._url,
            params={"partNumber": number, "uploadId": upload_id},
            headers={"Content-Length": str(len(body))},
        )
        request.context["sha256"] = digest
        self._auth.add_auth(request)
        prepared = request.prepare()
        prepared.body = body
        return prepared


def _refused(answer: Any) -> Exception:
    from botocore.exceptions import ClientError

    code, message = _CODE.search(answer.text), _MESSAGE.search(answer.text)
    error: Exception = ClientError(
        {
            "Error": {
                "Code": code[1] if code else str(answer.status_code),
                "Message": message[1] if message else answer.text[:200],
            },
            "ResponseMetadata": {"HTTPStatusCode": answer.status_code},
        },
        "UploadPart",
    )
    return error


def upload_parts(
    client: Any, access: Access, bucket: str, key: str, path: Path, progress: Progress
) -> int:
    """Upload ``path`` in parts, keeping those that an earlier attempt left.

    Args:
        client: a boto3 client, for everything but the parts' bytes.
        access: the same credentials, to sign the parts.
        bucket: the bucket.
        key: the object.
        path: a file of more than 0 bytes that nobody changes (a blob).
        progress: told the bytes of each part that is there.

    Returns:
        How many parts were kept.
    """
    size = path.stat().st_size
    step = part_size(size)
    upload_id, there = _interrupted(client, bucket, key)
    if upload_id is None:
        upload_id = str(client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"])
    # where the object lies (path or host style) is for boto3 to say
    place = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": key})
    sender = Sender(place.partition("?")[0], access)
    kept = 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:

        def one(number: int) -> tuple[dict[str, Any], bool]:
            with memoryview(pages) as whole, whole[(number - 1) * step : number * step] as data:
                old = there.get(number)
                if old is not None and old[1] == len(data) and old[0].strip('"') == _md5(data):
                    progress(len(data))
                    return {"PartNumber": number, "ETag": old[0]}, True
                tag = sender.put(upload_id, number, data)
                progress(len(data))
                return {"PartNumber": number, "ETag": tag}, False

        with ThreadPoolExecutor(_WORKERS) as pool:
            parts = []
            for part, was_there in pool.map(one, range(1, -(-size // step) + 1)):
                parts.append(part)
                kept += was_there
    client.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
    )
    return kept


def _md5(data: memoryview) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _interrupted(
    client: Any, bucket: str, key: str
) -> tuple[str | None, dict[int, tuple[str, int]]]:
    """The newest unfinished upload of a key, and its parts: number -> (ETag, size)."""
    found = client.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads") or []
    mine = [upload for upload in found if upload["Key"] == key]
    if not mine:
        return None, {}
    newest = max(mine, key=lambda upload: upload["Initiated"])
    parts: dict[int, tuple[str, int]] = {}
    marker = 0
    while True:
        page = client.list_parts(
            Bucket=bucket, Key=key, UploadId=newest["UploadId"], PartNumberMarker=marker
        )
        for part in page.get("Parts") or []:
            parts[part["PartNumber"]] = (part["ETag"], part["Size"])
        if not page.get("IsTruncated"):
            return newest["UploadId"], parts
        marker = page["NextPartNumberMarker"]
