//! Service accounts.

use crate::kind::Kind;
use crate::object::Object;
use crate::print;
use crate::read::Write;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: only_names,
        prepare_update: |new, _old| only_names(new),
        columns: Some(print::name_and_age),
        warnings,
        ..Kind::plain("", "ServiceAccount")
    }
}

/// Of the secrets only the names count.
fn only_names(account: &mut Object) {
    for secret in account.0.maps_mut("secrets") {
        secret.retain(|field, _| field == "name");
    }
}

fn warnings(account: &Object) -> Vec<String> {
    const OLD: &str = "kubernetes.io/enforce-mountable-secrets";
    let text =
        format!("metadata.annotations[{OLD}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets");
    if account.annotation(OLD).is_some() { vec![text] } else { Vec::new() }
}
