//! The behaviours that every store is held to.
