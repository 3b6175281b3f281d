//! The loop that all controllers share: queue, back-off, caches, metrics.
