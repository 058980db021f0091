"""What the nightly uses of avocado-framework 113, which has no types of its own."""
