//! Callers without credentials.

use crate::server::Server;
use crate::user::User;

/// `system:anonymous`, where such calls are on.
pub fn authenticate(server: &Server) -> Option<User> {
    server.config.anonymous.then(User::anonymous)
}
