"""Searching a history for the commit that made the memmap wrong, or changed what a bind takes."""
