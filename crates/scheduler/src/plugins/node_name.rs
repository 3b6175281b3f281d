//! A pod that names its node runs there or nowhere.

use crate::cluster::Cluster;
use crate::plugin::{Filtering, Happenings, Plugin};
use crate::shape::Shape;
use crate::verdict::Verdict;

const REFUSAL: &str = "node(s) didn't match the requested node name";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin { filter: Some(filter), wakes: Happenings::NODE_ADDED, ..Plugin::named("NodeName", 1) }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    let name = &shape.key.spec.node_name;
    if name.is_empty() {
        return Filtering::Skip;
    }
    Filtering::Ask(Box::new(move |node| Verdict::fits_or_hopeless(**cluster.nodes.name(node) == **name, REFUSAL)))
}
