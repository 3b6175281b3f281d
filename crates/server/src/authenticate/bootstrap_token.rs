//! Bootstrap tokens: secrets of a type of their own in `kube-system`, with which nodes join.

use api::Object;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::BootstrapToken;

use super::Found;
use crate::server::Server;
use crate::user::User;

const GROUP: &str = "system:bootstrappers";

/// The joining machine that a token stands for.
pub fn authenticate(server: &Server, token: &str) -> Found {
    if BootstrapToken::parse(token).is_err() {
        return Found::Nothing;
    }
    let Some((id, secret)) = token.split_once('.') else { return Found::Nothing };
    let key = store::Kind::new("/registry/secrets/").key(format!("kube-system/bootstrap-token-{id}"));
    let Some(entry) = server.store.mvcc().get(&key).value else {
        return Found::Refused("bootstrap token does not exist".into());
    };
    let Some(object) = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value) else { return Found::Nothing };
    let data = |field: &str| {
        STANDARD.decode(object.text_at(&["data", field])).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    let usable = object.text_at(&["type"]) == "bootstrap.kubernetes.io/token"
        && entry.header.deletion_timestamp.is_none()
        && data("token-id") == id
        && same(data("token-secret").as_bytes(), secret.as_bytes())
        && data("usage-bootstrap-authentication") == "true";
    let expired = data("expiration").parse::<jiff::Timestamp>().is_ok_and(|end| end < jiff::Timestamp::now());
    if !usable || expired {
        return Found::Refused("bootstrap token is not usable".into());
    }
    let mut groups = vec![GROUP.to_owned()];
    groups.extend(data("auth-extra-groups").split(',').filter(|group| !group.is_empty()).map(str::to_owned));
    Found::User(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

/// Compares without telling by time where two secrets differ.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (one, two)| sum | (one ^ two)) == 0
}
