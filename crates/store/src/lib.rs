//! The six-method store trait and its embedded implementation.
