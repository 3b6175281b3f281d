//! Claims, volumes and classes as far as they decide where a pod can run.

/// All claims, volumes and classes.
#[derive(Default)]
pub struct Volumes {}
