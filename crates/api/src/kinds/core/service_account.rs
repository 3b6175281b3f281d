//! Service accounts.

use crate::kind::Kind;
use crate::object::Object;
use crate::print;

/// The kind.
pub const fn kind() -> Kind {
    Kind { columns: Some(print::name_and_age), warnings, ..Kind::plain("", "ServiceAccount") }
}

fn warnings(account: &Object) -> Vec<String> {
    const OLD: &str = "kubernetes.io/enforce-mountable-secrets";
    let text = format!("metadata.annotations[{OLD}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets");
    if account.annotation(OLD).is_some() { vec![text] } else { Vec::new() }
}
