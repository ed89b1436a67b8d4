//! Whole-system tests: see `tests/`. There is no library.
