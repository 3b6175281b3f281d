//! Client certificates: the common name is the user, the organizations are the groups.

use std::time::Duration;

use pki::ClientCertError;

use super::{Connection, Found, remember, remembered};
use crate::server::Server;
use crate::user::User;

/// How long a verified chain is not verified again on its connection.
pub const TRUST_FOR: Duration = Duration::from_secs(60);

/// The user of the connection's certificate.
pub fn authenticate(server: &Server, connection: &Connection) -> Found {
    if connection.chain.is_empty() {
        return Found::Nothing;
    }
    let identity = match remembered(connection, server.client_authorities.since()) {
        Some(identity) => identity,
        None => match server.client_authorities.verify(&connection.chain) {
            Ok(identity) => {
                remember(connection, &identity);
                identity
            }
            Err(ClientCertError::Missing) => return Found::Nothing,
            Err(error) => return Found::Refused(error.to_string()),
        },
    };
    let mut user = User { name: identity.user, uid: identity.uid.unwrap_or_default(), groups: identity.groups, ..User::default() };
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![identity.credential_id]);
    Found::User(user)
}
