"""Libraries that draw progress bars and warn at length, kept silent: our events tell the tale."""

from __future__ import annotations

import logging as stdlib_logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, transformers and huggingface_hub draw no bars and log errors only."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # read when tqdm is imported: bars that bypass transformers' own switch
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # bitsandbytes warns at import about kernels it would download
    stdlib_logging.getLogger("bitsandbytes").setLevel(stdlib_logging.ERROR)
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(level)
