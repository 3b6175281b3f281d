//! The rules of tidy, one file each.

use anyhow::Result;

use crate::tree::Tree;

mod edges;
mod fresh;
mod length;
mod marks;
mod opening;
mod unsafe_places;

/// Something that must hold.
pub struct Rule {
    /// Shown before each breach.
    pub name: &'static str,
    /// The breaches, one line each.
    pub check: fn(&Tree) -> Result<Vec<String>>,
}

/// Every rule.
pub const ALL: &[Rule] = &[edges::rule(), length::rule(), opening::rule(), fresh::rule(), marks::rule(), unsafe_places::rule()];
