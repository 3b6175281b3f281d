//! Service accounts.

use crate::kind::Kind;
use crate::print;

/// The kind.
pub const fn kind() -> Kind {
    Kind { columns: Some(print::name_and_age), ..Kind::plain("", "ServiceAccount") }
}
