"""harlequin, posting and toolong, each in an environment of its own, made when first asked for.

They need other versions of Textual than this project. ``MODELOPS_BENCH_CACHE`` says where the
environments go (else under ``$XDG_CACHE_HOME`` or ``~/.cache``); delete the folder to make them
anew. A peer that can't be installed is left out of the table, and the reason is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """A program to measure beside ours."""

    name: str
    requirements: tuple[str, ...]
    program: str
    ready: str
    """What its first whole frame shows."""


HARLEQUIN = Peer("harlequin", ("harlequin==2.17.0",), "harlequin", "Run Query")
#: Its Textual 6.1 dies of a segmentation fault with tree-sitter 0.26.
POSTING = Peer("posting", ("posting==2.11.1", "tree-sitter<0.26"), "posting", "Send")
TOOLONG = Peer("toolong", ("toolong==1.5.0",), "tl", "Line nos")


class Unavailable(Exception):
    """The peer can't be installed here; the message says why."""


def cache() -> Path:
    """Where the environments are kept."""
    given = os.environ.get("MODELOPS_BENCH_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "modelops-tui-bench"


def installed(peer: Peer) -> Path:
    """The peer's program, installed now where it was not yet.

    Raises:
        Unavailable: pip could not install it.
    """
    place = cache() / "-".join(part.replace("==", "-") for part in peer.requirements[:1])
    program = place / "bin" / peer.program
    stamp = place / ".installed"
    wanted = "\n".join(peer.requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return program
    print(f"installing {peer.name} into {place}", file=sys.stderr, flush=True)
    venv.create(place, clear=True, with_pip=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *peer.requirements]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{peer.name}: {done.stderr.strip().splitlines()[-1:]}")
    stamp.write_text(wanted)
    return program


def home(folder: Path) -> dict[str, str]:
    """An environment in which a peer finds and leaves nothing of the user's."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"HOME": "", "XDG_CONFIG_HOME": "c", "XDG_DATA_HOME": "d", "XDG_CACHE_HOME": "k"}
    return {name: str(folder / part) for name, part in names.items()}
