//! Garbage collection: which images go, oldest use first, and what that frees.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use crate::image::Image;

/// What the caller wants freed and what it forbids.
#[derive(Clone, Debug)]
pub struct GcPolicy {
    /// Stop when this many bytes are freed. `u64::MAX` removes all that may be removed.
    pub bytes_to_free: u64,
    /// Images used later than this ago stay.
    pub min_age: Duration,
    /// Images unused for longer go, whatever `bytes_to_free` says.
    pub max_unused_age: Option<Duration>,
    /// Ids of images in use by containers. Held ones ([`crate::ImageStore::hold`]) are added.
    pub in_use: HashSet<String>,
    /// The present, by the caller's clock.
    pub now: SystemTime,
}

/// What a collection did.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// Images that are gone.
    pub removed: Vec<Image>,
    /// Bytes of the layers that went with them.
    pub freed: u64,
}
