"""The tests that a kernel developer reads and edits."""
