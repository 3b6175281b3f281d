//! The tasks, one file each.

pub mod gen_behaviour;
pub mod gen_resources;
pub mod gen_schema;
