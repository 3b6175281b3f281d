//! How a read says what it wants, and what it gets.

use std::sync::Arc;

use crate::{Entry, Key, Prefix, Revision};

/// Which state a read sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Everything committed before the read began.
    Latest,
    /// Some state that includes this revision.
    NotOlderThan(Revision),
    /// The state right after this revision, within the kept history.
    Exact(Revision),
}

/// What was read, and the revision whose state it is.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// The state that was read.
    pub revision: Revision,
    /// The answer.
    pub value: T,
}

/// The keys of a list.
#[derive(Clone, Debug)]
pub struct Range {
    /// All keys come from this set.
    pub prefix: Prefix,
    /// Only keys behind this one: the last key of the page before.
    pub start_after: Option<Key>,
}

impl From<Prefix> for Range {
    fn from(prefix: Prefix) -> Range {
        Range { prefix, start_after: None }
    }
}

/// How much of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At most this many entries.
    pub entries: usize,
    /// Whether to count what lies behind the page; costs a walk over the rest of the range.
    pub count_remaining: bool,
}

impl Limit {
    /// Everything.
    pub const NONE: Limit = Limit { entries: usize::MAX, count_remaining: false };

    /// A page of at most this many, with the number of those left.
    pub fn page(entries: usize) -> Limit {
        Limit { entries, count_remaining: true }
    }
}

/// A part of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order of their keys.
    pub entries: Vec<Arc<Entry>>,
    /// Whether the range has more behind the last entry.
    pub more: bool,
    /// How many, if that was asked for.
    pub remaining: Option<u64>,
}
