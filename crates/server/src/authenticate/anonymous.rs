//! Callers without credentials.

use crate::server::Server;
use crate::user::User;

/// `system:anonymous`, where such calls are served.
pub fn authenticate(server: &Server, path: &str) -> Option<User> {
    server.issuers.allows_anonymous(path, server.config.anonymous).then(User::anonymous)
}
