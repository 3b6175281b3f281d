//! Who calls: the authenticators in order, then impersonation.

use api::Status;

use crate::audit;
use crate::authenticate::{self, impersonate};
use crate::request::{Call, Caller};
use crate::server::Server;
use crate::user::User;

/// Somebody whose identity is settled.
pub struct Identified {
    user: User,
}

impl Identified {
    /// The caller.
    pub fn user(&self) -> &User {
        &self.user
    }

    pub(super) fn into_user(self) -> User {
        self.user
    }
}

/// Settles who calls.
///
/// # Errors
/// 401 for credentials that are wrong (or none, where anonymous calls are off), 403 for a refused impersonation.
pub async fn identify(server: &Server, call: &mut Call) -> Result<Identified, Status> {
    let user = match &call.caller {
        Caller::InProcess(user) => User::clone(user),
        Caller::Connection(connection) => {
            let connection = connection.clone();
            authenticate::authenticate(server, &mut call.parts, &connection).await?
        }
    };
    audit::identified(&user, call).await?;
    let caller = user.clone();
    let user = impersonate::impersonate(server, user, &mut call.parts)?;
    if user != caller {
        audit::impersonated(&user);
    }
    Ok(Identified { user })
}
