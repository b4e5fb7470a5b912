"""The Chat screen: one model or two side by side."""
