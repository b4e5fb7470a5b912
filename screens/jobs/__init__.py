"""The Jobs screen: what runs, what waits and why, how far, until when."""
