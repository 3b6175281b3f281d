//! The node as an object: registration, status and heartbeat.

pub mod addresses;
pub mod facts;
pub mod heartbeat;
pub mod register;
pub mod status;
