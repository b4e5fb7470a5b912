"""Telling someone that a job has ended: a command of the user's, a webhook. Off by default."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger(__name__)

TIMEOUT_S = 30.0


def message(job: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of the webhook."""
    return {
        "job": job["id"],
        "name": job["name"],
        "kind": job["kind"],
        "state": job["state"],
        "reason": job["reason"],
        "started": job["started"],
        "ended": job["ended"],
    }


def tell(job: Mapping[str, Any], *, command: str, webhook: str) -> threading.Thread | None:
    """Run the command and post to the webhook in the background; failures go to the log.

    Returns:
        The thread that does it, or None when neither is set.
    """
    if not command and not webhook:
        return None
    thread = threading.Thread(
        target=_tell, args=(message(job), command, webhook), name="notify", daemon=True
    )
    thread.start()
    return thread


def _tell(body: dict[str, Any], command: str, webhook: str) -> None:
    if command:
        _run(command, body)
    if webhook:
        _post(webhook, body)


def _run(command: str, body: dict[str, Any]) -> None:
    env = {**os.environ}
    for key in ("name", "state", "reason", "kind"):
        env[f"MODELOPS_{key.upper()}"] = str(body[key])
    env["MODELOPS_JOB"] = str(body["job"])
    try:
        # the user's own setting; what comes from the job is in the environment, never in the text
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            text = done.stderr.decode(errors="replace").strip()[-300:]
            _log.warning("the notification command left with %d: %s", done.returncode, text)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("the notification command failed: %s", error)


def _post(webhook: str, body: dict[str, Any]) -> None:
    # 40 ms: only when a webhook is set
    import urllib.error
    import urllib.request

    if not webhook.startswith(("http://", "https://")):
        _log.warning("the webhook is not an http(s) address: %s", webhook)
        return
    request = urllib.request.Request(
        webhook,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "modelops-tui"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read(1024)
    except (urllib.error.URLError, OSError, ValueError) as error:
        _log.warning("the webhook %s failed: %s", webhook, error)
