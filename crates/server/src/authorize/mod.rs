//! Who may do what: one authorizer a file, asked in order; the first that allows decides.

pub mod node;
pub mod rbac;

use crate::attributes::Attributes;
use crate::server::Server;
use crate::user::{MASTERS, User};

pub use node::NodeGraph;
pub use rbac::Rbac;

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why, or why not; often empty.
    pub reason: String,
}

impl Verdict {
    fn yes(reason: impl Into<String>) -> Verdict {
        Verdict { allowed: true, reason: reason.into() }
    }

    fn no(reason: impl Into<String>) -> Verdict {
        Verdict { allowed: false, reason: reason.into() }
    }
}

/// Asks the authorizers.
pub fn decide(server: &Server, user: &User, attributes: &Attributes) -> Verdict {
    if user.in_group(MASTERS) {
        return Verdict::yes("");
    }
    let mut reasons: Vec<String> = Vec::new();
    if let Some(node) = user.node_name() {
        let verdict = node::authorize(server, node, attributes);
        if verdict.allowed {
            return verdict;
        }
        reasons.extend(Some(verdict.reason).filter(|reason| !reason.is_empty()));
    }
    let verdict = server.rbac.read().authorize(user, attributes);
    if verdict.allowed {
        return verdict;
    }
    reasons.extend(Some(verdict.reason).filter(|reason| !reason.is_empty()));
    Verdict::no(reasons.join(", "))
}
