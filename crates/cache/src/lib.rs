//! A shared read-only view of a kind, kept by list and watch.
