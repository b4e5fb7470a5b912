"""Widgets of our own, one a file; none of them reads anything but what it is given."""
