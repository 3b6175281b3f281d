//! All reviews, one file each.

use std::sync::OnceLock;

use super::Review;
use super::{access, bindings, component_statuses, self_subject_review, self_subject_rules, token_review};

/// Every review.
pub(super) fn all() -> &'static [Box<dyn Review>] {
    static ALL: OnceLock<Vec<Box<dyn Review>>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            access::subject(),
            access::local_subject(),
            access::self_subject(),
            bindings::review(),
            component_statuses::review(),
            self_subject_review::review(),
            self_subject_rules::review(),
            token_review::review(),
        ]
    })
}
