//! Likes nodes that have the pod's images already.

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::plugin::{Plugin, Score};
use crate::shape::Shape;

/// Less than this need not be fetched anyway.
const LEAST: i64 = 23 << 20;
/// More than this for each container counts no more.
const MOST: i64 = 1000 << 20;

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin { score: Some(Score { weight: 1, of: score }), ..Plugin::named("ImageLocality", 21) }
}

fn score(cluster: &Cluster, shape: &Shape, nodes: &[NodeIndex], scores: &mut [i64]) -> bool {
    let spec = &shape.key.spec;
    let images: Vec<String> = spec.containers.iter().chain(&spec.init_containers).map(|container| full_name(&container.image)).collect();
    // An image that few nodes have counts less, so that a crowd does not gather where it happens to be.
    let all = cluster.nodes.alive();
    let weights: Vec<f64> = images.iter().map(|image| cluster.nodes.image_holders(image) as f64 / all.len().max(1) as f64).collect();
    if weights.iter().all(|weight| *weight == 0.0) {
        return false;
    }
    let most = MOST * images.len() as i64;
    for (score, node) in scores.iter_mut().zip(nodes) {
        let has = images.iter().zip(&weights).filter_map(|(image, weight)| Some(cluster.nodes.image(*node, image)? as f64 * weight));
        let sum = (has.sum::<f64>() as i64).clamp(LEAST, most);
        *score = 100 * (sum - LEAST) / (most - LEAST);
    }
    true
}

/// Images without a tag or digest are the latest ones.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}
