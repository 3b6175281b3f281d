//! Other encodings of entries, kept for as long as there is room.
//!
//! The primary encoding is JSON (ADR 2). A client that asks for another one gets it made from the
//! entry; many clients ask for the same, so the result stays in a slot of the entry until the cache is
//! over its limit (a tenth of the live bytes) and the oldest slots are emptied.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::Entry;

/// Which other encoding: a number that the caller gives to each pair of media type and API version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form(pub u32);

/// The cache is allowed this much even when there is nearly nothing in the store.
const SMALLEST_LIMIT: usize = 1 << 20;

/// The accounts of all derived forms in one store. The forms themselves sit in their entries.
#[derive(Debug)]
pub struct DerivedCache {
    account: Arc<Account>,
    /// Entries with a filled slot, oldest first, and some whose slot is empty again.
    filled: Mutex<VecDeque<Weak<Entry>>>,
}

#[derive(Debug)]
struct Account {
    used: AtomicUsize,
    slots: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for DerivedCache {
    fn default() -> DerivedCache {
        let account = Account { used: 0.into(), slots: 0.into(), limit: SMALLEST_LIMIT.into() };
        DerivedCache { account: Arc::new(account), filled: Mutex::default() }
    }
}

impl DerivedCache {
    /// The bytes of `entry` in `form`: those that are kept, or those that `make` makes now.
    pub fn get_or_make<E>(&self, entry: &Arc<Entry>, form: Form, make: impl FnOnce(&Entry) -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(bytes) = entry.derived.get(form) {
            return Ok(bytes);
        }
        let bytes = make(entry)?;
        if bytes.len() <= self.limit() / 8 {
            self.keep(entry, form, bytes.clone());
        }
        Ok(bytes)
    }

    /// Bytes of derived forms that are kept now.
    pub fn used(&self) -> usize {
        self.account.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be kept.
    pub fn limit(&self) -> usize {
        self.account.limit.load(Ordering::Relaxed)
    }

    /// Follows the size of what is stored: a tenth of it may be kept again in other forms.
    pub(crate) fn set_live(&self, live: usize) {
        self.account.limit.store((live / 10).max(SMALLEST_LIMIT), Ordering::Relaxed);
    }

    fn keep(&self, entry: &Arc<Entry>, form: Form, bytes: Bytes) {
        let first = {
            let mut slot = entry.derived.0.lock();
            let first = slot.is_none();
            let forms = slot.get_or_insert_with(|| Box::new(Forms::open(self.account.clone())));
            forms.add(form, bytes);
            first
        };
        let mut filled = self.filled.lock();
        if first {
            filled.push_back(Arc::downgrade(entry));
        }
        while self.used() > self.limit() {
            let Some(oldest) = filled.pop_front() else {
                break;
            };
            if let Some(oldest) = oldest.upgrade() {
                oldest.derived.0.lock().take();
            }
        }
        // A weak reference holds the memory of its dead entry, so the dead ones may not pile up.
        if filled.len() > 64 + 2 * self.account.slots.load(Ordering::Relaxed) {
            filled.retain(|entry| entry.upgrade().is_some_and(|entry| entry.derived.0.lock().is_some()));
        }
    }
}

/// The place in an entry for its other encodings.
#[derive(Default)]
pub(crate) struct DerivedSlot(Mutex<Option<Box<Forms>>>);

impl DerivedSlot {
    fn get(&self, form: Form) -> Option<Bytes> {
        let slot = self.0.lock();
        slot.as_ref()?.forms.iter().find(|(kept, _)| *kept == form).map(|(_, bytes)| bytes.clone())
    }
}

impl fmt::Debug for DerivedSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedSlot")
    }
}

/// The forms of one entry. Leaves the account when it is dropped, with its entry or by eviction.
struct Forms {
    forms: SmallVec<[(Form, Bytes); 1]>,
    account: Arc<Account>,
}

impl Forms {
    fn open(account: Arc<Account>) -> Forms {
        account.slots.fetch_add(1, Ordering::Relaxed);
        Forms { forms: SmallVec::new(), account }
    }

    fn add(&mut self, form: Form, bytes: Bytes) {
        if self.forms.iter().all(|(kept, _)| *kept != form) {
            self.account.used.fetch_add(bytes.len(), Ordering::Relaxed);
            self.forms.push((form, bytes));
        }
    }
}

impl Drop for Forms {
    fn drop(&mut self) {
        let size = self.forms.iter().map(|(_, bytes)| bytes.len()).sum();
        self.account.used.fetch_sub(size, Ordering::Relaxed);
        self.account.slots.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, Kind, Revision};

    fn entry(name: &str) -> Arc<Entry> {
        let key = Kind::new("/registry/pods/").key(name);
        Arc::new(Entry::new(key, Revision(1), Revision(1), Bytes::from_static(b"{}"), Header::default()))
    }

    fn make(cache: &DerivedCache, entry: &Arc<Entry>, form: u32, size: usize) -> bool {
        let mut made = false;
        let made_now = |_: &Entry| {
            made = true;
            Ok::<_, ()>(Bytes::from(vec![0; size]))
        };
        assert_eq!(cache.get_or_make(entry, Form(form), made_now).unwrap().len(), size);
        made
    }

    #[test]
    fn each_form_is_made_once() {
        let cache = DerivedCache::default();
        let entry = entry("a");
        assert!(make(&cache, &entry, 1, 10));
        assert!(!make(&cache, &entry, 1, 10));
        assert!(make(&cache, &entry, 2, 20));
        assert_eq!(cache.used(), 30);
        drop(entry);
        assert_eq!(cache.used(), 0);
    }

    #[test]
    fn the_oldest_go_first_and_the_limit_holds() {
        let cache = DerivedCache::default();
        let size = cache.limit() / 8;
        let entries: Vec<_> = (0..20).map(|i| entry(&format!("e{i}"))).collect();
        for entry in &entries {
            assert!(make(&cache, entry, 1, size));
            assert!(cache.used() <= cache.limit());
        }
        assert!(!make(&cache, &entries[19], 1, size));
        assert!(make(&cache, &entries[0], 1, size));
    }

    #[test]
    fn dead_entries_do_not_pile_up() {
        let cache = DerivedCache::default();
        for i in 0..10_000 {
            make(&cache, &entry(&i.to_string()), 1, 1);
        }
        assert_eq!(cache.used(), 0);
        assert!(cache.filled.lock().len() <= 66);
    }
}
