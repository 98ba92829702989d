"""Output folders: where they may be, what they replace, and what of them a stop leaves."""
