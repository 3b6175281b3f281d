//! Garbage collection: which images go, least recently used first.

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

impl GcPolicy {
    pub(crate) fn is_overdue(&self, image: &Image) -> bool {
        self.max_unused_age.is_some_and(|age| self.unused_for(image) > age)
    }

    /// A clock that jumped back makes images young, not old.
    fn unused_for(&self, image: &Image) -> Duration {
        self.now.duration_since(image.last_used).unwrap_or_default()
    }
}

/// What may go, in the order in which it goes.
pub(crate) fn candidates(mut images: Vec<Image>, policy: &GcPolicy, held: &HashSet<String>) -> Vec<Image> {
    images.retain(|image| {
        !image.pinned
            && !image.imported
            && !held.contains(&image.id)
            && !policy.in_use.contains(&image.id)
            && policy.unused_for(image) >= policy.min_age
    });
    images.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
    images
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageConfigView;

    #[test]
    fn pinned_held_used_and_young_images_stay() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let image = |id: &str, age: u64| Image {
            id: id.into(),
            names: Vec::new(),
            digests: Vec::new(),
            size: 1,
            config: ImageConfigView::default(),
            pinned: id == "pinned",
            imported: id == "imported",
            last_used: now - Duration::from_secs(age),
        };
        let images = vec![
            image("young", 1),
            image("b", 200),
            image("pinned", 900),
            image("imported", 900),
            image("held", 900),
            image("used", 900),
            image("a", 500),
        ];
        let policy = GcPolicy {
            bytes_to_free: 0,
            min_age: Duration::from_secs(120),
            max_unused_age: Some(Duration::from_secs(300)),
            in_use: HashSet::from(["used".to_string()]),
            now,
        };
        let going = candidates(images, &policy, &HashSet::from(["held".to_string()]));
        assert_eq!(going.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(policy.is_overdue(&going[0]) && !policy.is_overdue(&going[1]));
    }
}
