//! A claim that is for one pod only is used by one pod only.

use crate::cluster::Cluster;
use crate::plugin::{Filtering, Happenings, Plugin};
use crate::shape::Shape;
use crate::verdict::Verdict;

const REFUSAL: &str = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin { filter: Some(filter), wakes: Happenings::POD_GONE.and(Happenings::VOLUMES), ..Plugin::named("VolumeRestrictions", 6) }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    let taken = shape.claims.iter().any(|name| cluster.volumes.is_taken(&format!("{}/{name}", shape.key.namespace)));
    if taken { Filtering::Ask(Box::new(|_| Verdict::refused(REFUSAL))) } else { Filtering::Skip }
}
