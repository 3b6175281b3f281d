//! The few kinds whose versions differ in shape: one file each, with the mapping in both directions.

pub mod autoscaler;
pub mod event;
