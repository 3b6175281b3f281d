//! Who may do what: one authorizer a file, asked in order; the first that allows decides.

mod modes;
pub mod node;
pub mod rbac;
mod webhook;

use crate::attributes::Attributes;
use crate::server::Server;
use crate::user::{MASTERS, User};

pub use modes::{Authorizers, Mode};
pub use node::NodeGraph;
pub use rbac::Rbac;
use webhook::Opinion;

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be done.
    pub allowed: bool,
    /// Whether somebody refused it for good.
    pub denied: bool,
    /// Why, or why not; often empty.
    pub reason: String,
}

impl Verdict {
    fn yes(reason: impl Into<String>) -> Verdict {
        Verdict { allowed: true, denied: false, reason: reason.into() }
    }

    fn no(reason: impl Into<String>) -> Verdict {
        Verdict { allowed: false, denied: false, reason: reason.into() }
    }
}

/// Asks the authorizers. Where one of them is a webhook, the thread waits for it.
pub fn decide(server: &Server, user: &User, attributes: &Attributes) -> Verdict {
    let modes = server.authorizers.current();
    if modes.iter().any(|mode| matches!(mode, Mode::Webhook(_))) && !user.in_group(MASTERS) {
        return crate::wait::wait(in_turn(server, &modes, user, attributes));
    }
    let mut reasons = Reasons::default();
    local(server, &modes, user, attributes, &mut reasons).unwrap_or_else(|| reasons.no())
}

/// Asks the authorizers without holding up the thread.
pub async fn decide_async(server: &Server, user: &User, attributes: &Attributes) -> Verdict {
    let modes = server.authorizers.current();
    in_turn(server, &modes, user, attributes).await
}

async fn in_turn(server: &Server, modes: &[Mode], user: &User, attributes: &Attributes) -> Verdict {
    let mut reasons = Reasons::default();
    let mut rest = modes;
    loop {
        let webhook = rest.iter().position(|mode| matches!(mode, Mode::Webhook(_)));
        let (here, there) = rest.split_at(webhook.unwrap_or(rest.len()));
        if let Some(verdict) = local(server, here, user, attributes, &mut reasons) {
            return verdict;
        }
        let Some((Mode::Webhook(webhook), after)) = there.split_first() else { return reasons.no() };
        match webhook.ask(user, attributes).await {
            Opinion::Allow(reason) => return Verdict::yes(reason),
            Opinion::Deny(reason) => {
                reasons.add(reason);
                return Verdict { denied: true, ..reasons.no() };
            }
            Opinion::None(reason) => reasons.add(reason),
        }
        rest = after;
    }
}

/// Why nobody allowed it.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    fn add(&mut self, reason: String) {
        self.0.extend(Some(reason).filter(|reason| !reason.is_empty()));
    }

    fn no(self) -> Verdict {
        Verdict::no(self.0.join(", "))
    }
}

/// Asks the authorizers that need not wait; none where no one of them decides.
fn local(server: &Server, modes: &[Mode], user: &User, attributes: &Attributes, reasons: &mut Reasons) -> Option<Verdict> {
    if user.in_group(MASTERS) {
        return Some(Verdict::yes(""));
    }
    for mode in modes {
        let verdict = match mode {
            Mode::Node => match user.node_name() {
                Some(node) => node::authorize(server, node, attributes),
                None => continue,
            },
            Mode::Rbac => server.rbac.read().authorize(user, attributes),
            Mode::AlwaysAllow => Verdict::yes(""),
            Mode::AlwaysDeny => Verdict::no("Everything is forbidden."),
            Mode::Webhook(_) => continue,
        };
        if verdict.allowed {
            return Some(verdict);
        }
        reasons.add(verdict.reason);
    }
    None
}
