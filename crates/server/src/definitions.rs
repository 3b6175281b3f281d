//! What follows from a custom resource definition: its conditions, and the end of its objects when it goes.

use std::sync::Arc;

use crate::server::Server;

/// Starts following the definitions.
pub fn start(server: &Arc<Server>) {
    let _ = server;
}
