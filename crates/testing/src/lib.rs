//! A real cluster in a temporary directory, for tests.
