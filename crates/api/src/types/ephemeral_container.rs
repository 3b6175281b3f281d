//! `core.v1.EphemeralContainer`: a container added to a running pod, with the defaults of any container.

use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default: super::container::default, ..Rules::of("core.v1.EphemeralContainer") }
}
