"""Large uploads that go on where they were: parts that are there with the right MD5 stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PART_BYTES = 16 << 20
_MAX_PARTS = 10_000
_WORKERS = 4

Progress = Callable[[int], None]


def part_size(size: int) -> int:
    """Bytes a part has: the same for every attempt at the same file, so that parts fit again."""
    return max(PART_BYTES, -(-size // _MAX_PARTS))


def upload_parts(client: Any, bucket: str, key: str, path: Path, progress: Progress) -> int:
    """Upload ``path`` in parts, keeping those that an earlier attempt left.

    Returns:
        How many parts were kept.
    """
    size = path.stat().st_size
    step = part_size(size)
    upload_id, there = _interrupted(client, bucket, key)
    if upload_id is None:
        upload_id = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    numbers = range(1, -(-size // step) + 1)
    kept = 0

    def one(number: int) -> tuple[dict[str, Any], bool]:
        with open(path, "rb") as file:
            file.seek((number - 1) * step)
            data = file.read(step)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        old = there.get(number)
        if old is not None and old[1] == len(data) and old[0].strip('"') == md5:
            progress(len(data))
            return {"PartNumber": number, "ETag": old[0]}, True
        done = client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=data
        )
        progress(len(data))
        return {"PartNumber": number, "ETag": done["ETag"]}, False

    with ThreadPoolExecutor(_WORKERS) as pool:
        parts = []
        for part, was_there in pool.map(one, numbers):
            parts.append(part)
            kept += was_there
    client.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
    )
    return kept


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
