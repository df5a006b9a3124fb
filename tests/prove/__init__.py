"""The proof that anyone can run again: `make prove`, and the same parts, shorter, in the tests."""
