//! What tokens are asked to say and what verified tokens say.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a bound token shall say.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// Name space of the account.
    pub namespace: String,
    /// Name of the account.
    pub service_account: String,
    /// UID of the account.
    pub service_account_uid: String,
    /// Audiences.
    pub audiences: Vec<String>,
    /// Seconds of validity.
    pub expiration_seconds: i64,
    /// Seconds after which use is to be warned about; set when the server extends a pod's one-hour token to a year.
    pub warn_after_seconds: Option<i64>,
    /// Bound pod.
    pub pod: Option<BoundObject>,
    /// Bound secret.
    pub secret: Option<BoundObject>,
    /// Bound node, or the node of the bound pod.
    pub node: Option<BoundObject>,
}

/// Name and UID of an object that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObject {
    /// Its name.
    pub name: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
}

/// What a token of a Secret says.
#[derive(Clone, Debug)]
pub struct LegacyToken {
    /// Name space.
    pub namespace: String,
    /// Name of the secret.
    pub secret: String,
    /// Account.
    pub service_account: String,
    /// UID of the account.
    pub service_account_uid: String,
}

/// A verified token.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedToken {
    /// Name space of the account.
    pub namespace: String,
    /// Name of the account.
    pub service_account: String,
    /// UID of the account as of minting.
    pub service_account_uid: String,
    /// Audiences in the token that the caller accepts.
    pub audiences: Vec<String>,
    /// Token id.
    pub jti: Option<String>,
    /// Bound pod.
    pub pod: Option<BoundObject>,
    /// Bound secret (for legacy tokens: the secret, without UID).
    pub secret: Option<BoundObject>,
    /// Bound node.
    pub node: Option<BoundObject>,
    /// Minted.
    pub issued_at: Option<Timestamp>,
    /// Expiry; none for legacy tokens.
    pub expires_at: Option<Timestamp>,
    /// From when on use is to be warned about.
    pub warn_after: Option<Timestamp>,
    /// A token of a Secret.
    pub legacy: bool,
}

impl VerifiedToken {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub fn user_name(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }

    /// `system:serviceaccounts`, `system:serviceaccounts:<namespace>`; `system:authenticated` is the server's to add.
    pub fn groups(&self) -> Vec<String> {
        vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", self.namespace)]
    }

    /// The extra of the user: credential id, pod and node.
    pub fn extra(&self) -> Vec<(String, Vec<String>)> {
        let mut extra = Vec::new();
        let mut add = |name: &str, value: String| {
            extra.push((format!("authentication.kubernetes.io/{name}"), vec![value]));
        };
        if let Some(jti) = &self.jti {
            add("credential-id", format!("JTI={jti}"));
        }
        for (kind, object) in [("node", &self.node), ("pod", &self.pod)] {
            let Some(object) = object else { continue };
            add(&format!("{kind}-name"), object.name.clone());
            if !object.uid.is_empty() {
                add(&format!("{kind}-uid"), object.uid.clone());
            }
        }
        extra
    }
}
