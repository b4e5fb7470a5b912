"""``jobs.db``: the truth about every job. Functions take a connection from ``schema.open_store``.

``submit`` accepts jobs, ``read`` answers questions, ``requests`` records what a person wants
(cancel, pause, retry), ``run`` is the engine's side (claim, finish), all by compare-and-set.
"""
