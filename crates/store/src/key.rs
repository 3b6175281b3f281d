//! Names of things in the store: revisions, kinds, keys and prefixes.
//!
//! They are types of their own so that a position in the history is never taken for a generation, and
//! a namespace never for a name. All of them are cheap to clone.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A position in the one history of all changes. 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before everything.
    pub const ZERO: Revision = Revision(0);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The part of a key that all objects of one kind share, such as `/registry/pods/`. Opaque to the
/// store, which keeps one ordered map per kind; no kind may be the beginning of another kind's keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(Arc<str>);

impl Kind {
    /// A kind by its whole prefix, up to and including the last slash.
    pub fn new(prefix: impl Into<Arc<str>>) -> Kind {
        Kind(prefix.into())
    }

    /// The prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of one object: `rest` is `namespace/name`, or the name of an object without namespace.
    pub fn key(&self, rest: impl Into<Arc<str>>) -> Key {
        Key { kind: self.clone(), rest: rest.into() }
    }

    /// All objects of this kind.
    pub fn all(&self) -> Prefix {
        Prefix { kind: self.clone(), scope: Scope::Kind }
    }

    /// The objects of this kind in one namespace.
    pub fn namespace(&self, namespace: &str) -> Prefix {
        Prefix { kind: self.clone(), scope: Scope::Namespace(format!("{namespace}/").into()) }
    }
}

impl Deref for Kind {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Kind {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One handle per kind, however often its prefix is read.
#[derive(Default)]
pub(crate) struct Kinds(HashSet<Kind>);

impl Kinds {
    pub(crate) fn get(&mut self, prefix: &str) -> Kind {
        if let Some(kind) = self.0.get(prefix) {
            return kind.clone();
        }
        let kind = Kind::new(prefix);
        self.0.insert(kind.clone());
        kind
    }
}

/// The name of one object: its kind's prefix and the rest, as in `/registry/pods/` + `default/web-1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The part shared by all objects of the kind.
    pub kind: Kind,
    /// `namespace/name`, or `name`.
    pub rest: Arc<str>,
}

impl Key {
    /// The namespace part, empty for an object without one.
    pub fn namespace(&self) -> &str {
        self.rest.rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name part.
    pub fn name(&self) -> &str {
        self.rest.rsplit_once('/').map_or(&*self.rest, |(_, name)| name)
    }

    /// The prefix that covers this key alone.
    pub fn alone(&self) -> Prefix {
        Prefix { kind: self.kind.clone(), scope: Scope::Name(self.rest.clone()) }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind, self.rest)
    }
}

/// A set of keys of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The kind.
    pub kind: Kind,
    /// Which of its keys.
    pub scope: Scope,
}

/// Which keys of a kind a [`Prefix`] covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of them.
    Kind,
    /// Those whose rest begins with this, which ends in a slash: one namespace.
    Namespace(Arc<str>),
    /// The one with this rest.
    Name(Arc<str>),
}

impl Prefix {
    /// Whether `key` is in the set.
    pub fn covers(&self, key: &Key) -> bool {
        self.kind == key.kind && self.covers_rest(&key.rest)
    }

    /// Whether the key of this kind with this rest is in the set.
    pub fn covers_rest(&self, rest: &str) -> bool {
        match &self.scope {
            Scope::Kind => true,
            Scope::Namespace(namespace) => rest.starts_with(&**namespace),
            Scope::Name(name) => rest == &**name,
        }
    }

    /// No covered rest is smaller than this.
    pub fn lower_bound(&self) -> &str {
        match &self.scope {
            Scope::Kind => "",
            Scope::Namespace(rest) | Scope::Name(rest) => rest,
        }
    }
}
