//! Pods run where their volumes can be reached, or where volumes can be made for them.

use smallvec::SmallVec;

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::plugin::{Filtering, Happenings, Plugin};
use crate::shape::Shape;
use crate::verdict::Verdict;
use crate::volumes::{Standing, Volume};

const NOT_REACHED: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const NO_ROOM: &str = "node(s) did not have enough free storage";
const LOST: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(filter),
        wakes: Happenings::NODE_ADDED.and(Happenings::NODE_LABELS).and(Happenings::VOLUMES),
        ..Plugin::named("VolumeBinding", 8)
    }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    if shape.claims.is_empty() {
        return Filtering::Skip;
    }
    let mut bound: SmallVec<[&Volume; 2]> = SmallVec::new();
    let (mut lost, mut waits) = (false, false);
    for name in &shape.claims {
        match cluster.volumes.standing(&format!("{}/{name}", shape.key.namespace)) {
            Standing::Missing => return Filtering::Nowhere(format!("persistentvolumeclaim \"{name}\" not found")),
            Standing::Terminating => return Filtering::Nowhere(format!("persistentvolumeclaim \"{name}\" is being deleted")),
            Standing::Unbound => return Filtering::Nowhere("pod has unbound immediate PersistentVolumeClaims".into()),
            Standing::Lost => lost = true,
            Standing::Bound(volume) => bound.push(volume),
            Standing::Waits(..) => waits = true,
        }
    }
    Filtering::Ask(Box::new(move |node: NodeIndex| {
        if lost {
            return Verdict::hopeless(LOST);
        }
        if !bound.iter().all(|volume| volume.reaches(&cluster.nodes, &cluster.symbols, node)) {
            return Verdict::hopeless(NOT_REACHED);
        }
        if !waits {
            return Verdict::Fits;
        }
        let namespace = &shape.key.namespace;
        let Some(steps) = cluster.volumes.plan(&cluster.nodes, &cluster.symbols, namespace, &shape.claims, node) else {
            return Verdict::hopeless(NO_VOLUME);
        };
        let mut made = cluster.volumes.to_be_made(namespace, &steps);
        let room = made
            .all(|(provisioner, class, size)| cluster.drivers.has_room(&cluster.nodes, &cluster.symbols, node, provisioner, class, size));
        Verdict::fits_or_hopeless(room, NO_ROOM)
    }))
}
