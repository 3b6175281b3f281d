//! Tokens of service accounts: verified by key, then against the objects that they are bound to.

use api::Object;
use pki::{BoundObject, VerifiedToken, VerifyError};
use store::Entry;

use super::Found;
use crate::server::Server;
use crate::user::User;

/// How long a token outlives the deletion of its pod.
const GRACE_SECONDS: i64 = 60;

/// The service account of a token.
pub fn authenticate(server: &Server, token: &str, audiences: &[String]) -> Found {
    if !server.tokens.claims_to_be_ours(token) {
        return Found::Nothing;
    }
    match server.tokens.verify(token, audiences) {
        Ok(verified) => match check_objects(server, &verified) {
            Ok(()) => Found::User(user(server, &verified)),
            Err(why) => Found::Refused(why),
        },
        Err(VerifyError::NotOurs) => Found::Nothing,
        Err(error) => Found::Refused(error.to_string()),
    }
}

fn user(_server: &Server, token: &VerifiedToken) -> User {
    User {
        name: token.user_name(),
        uid: token.service_account_uid.clone(),
        groups: token.groups(),
        extra: token.extra().into_iter().collect(),
    }
}

fn find(server: &Server, prefix: &str, rest: &str) -> Option<std::sync::Arc<Entry>> {
    server.store.mvcc().get(&store::Kind::new(prefix).key(rest)).value
}

/// The account and whatever the token is bound to must still be there.
fn check_objects(server: &Server, token: &VerifiedToken) -> Result<(), String> {
    let name = format!("{}/{}", token.namespace, token.service_account);
    let account = find(server, "/registry/serviceaccounts/", &name).ok_or("service account has been deleted")?;
    if deleted_for_long(&account) {
        return Err("service account is being deleted".into());
    }
    if *account.header.uid != *token.service_account_uid {
        return Err("service account UID does not match claim".into());
    }
    if let Some(pod) = &token.pod {
        bound(server, "/registry/pods/", &format!("{}/{}", token.namespace, pod.name), pod, "pod")?;
    }
    if let Some(secret) = &token.secret {
        let rest = format!("{}/{}", token.namespace, secret.name);
        if token.legacy {
            let entry = find(server, "/registry/secrets/", &rest).ok_or("service account token has been invalidated")?;
            let object = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value).unwrap_or_default();
            if object.text_at(&["data", "token"]).is_empty() {
                return Err("service account token has been invalidated".into());
            }
        } else {
            bound(server, "/registry/secrets/", &rest, secret, "secret")?;
        }
    }
    if let (Some(node), None) = (&token.node, &token.pod) {
        bound(server, "/registry/minions/", &node.name, node, "node")?;
    }
    Ok(())
}

fn bound(server: &Server, prefix: &str, rest: &str, wanted: &BoundObject, what: &str) -> Result<(), String> {
    let entry = find(server, prefix, rest).ok_or_else(|| format!("{what} has been deleted"))?;
    if *entry.header.uid != *wanted.uid {
        return Err(format!("{what} UID does not match claim"));
    }
    if deleted_for_long(&entry) {
        return Err(format!("{what} is being deleted"));
    }
    Ok(())
}

fn deleted_for_long(entry: &Entry) -> bool {
    let Some(at) = entry.header.deletion_timestamp.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
        return false;
    };
    jiff::Timestamp::now().as_second() > at.as_second() + GRACE_SECONDS
}
