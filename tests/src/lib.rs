//! What the crates promise together, tried from outside. The tests are in this package's `tests/`.
