//! Images that nobody uses are removed when the disk fills, least recently used first; pinned and imported ones stay, since they
//! cannot be had again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use client::EventKind;
use image::{GcPolicy, GcReport};

use crate::Kubelet;
use crate::config::ImageGc;
use crate::pods::model;

/// Time between two looks at the disk, as upstream's.
const PERIOD: Duration = Duration::from_secs(300);

/// Looks at the disk until the future is dropped.
pub async fn run(kubelet: Arc<Kubelet>) {
    if kubelet.config.image_gc.high_percent >= 100 {
        return;
    }
    loop {
        tokio::time::sleep(PERIOD).await;
        collect(&kubelet).await;
    }
}

async fn collect(kubelet: &Arc<Kubelet>) {
    let Ok(stat) = rustix::fs::statvfs(kubelet.images.dir()) else {
        return;
    };
    let excess = excess(&kubelet.config.image_gc, stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
    if excess == 0 {
        return;
    }
    let freed = remove_unused(kubelet, excess).await.freed;
    if freed < excess {
        let text = format!(
            "Failed to garbage collect required amount of images. Attempted to free {excess} bytes, but only found {freed} bytes eligible to free."
        );
        kubelet.node_event(EventKind::Warning, "FreeDiskSpaceFailed", &text);
    }
}

/// Bytes that must go; none below the upper mark.
fn excess(marks: &ImageGc, capacity: u64, available: u64) -> u64 {
    let available = available.min(capacity);
    let share = |part: u64| part.checked_mul(100).map_or(part / capacity.max(1), |part| part / capacity.max(1));
    if capacity == 0 || 100 - share(available) < u64::from(marks.high_percent) {
        return 0;
    }
    let free = u128::from(capacity) * u128::from(100 - marks.low_percent.min(100)) / 100;
    u64::try_from(free).unwrap_or(u64::MAX).saturating_sub(available)
}

/// Removes images that no container runs from until so many bytes are free.
pub async fn remove_unused(kubelet: &Arc<Kubelet>, bytes: u64) -> GcReport {
    let mut in_use = HashSet::new();
    for pod in kubelet.pods.pods() {
        let Some(sandbox) = kubelet.pods.sandbox(model::uid(&pod)) else {
            continue;
        };
        match sandbox.status().await {
            Ok(attempts) => {
                in_use.extend(attempts.into_iter().filter_map(|mut attempt| attempt.annotations.remove(model::ANNOTATION_STORED)))
            }
            Err(error) => {
                // Nobody knows what this pod runs from, so that nothing may go.
                tracing::warn!(pod = model::name(&pod), %error, "no images are removed");
                return GcReport::default();
            }
        }
    }
    let policy =
        GcPolicy { bytes_to_free: bytes, min_age: kubelet.config.image_gc.min_age, max_unused_age: None, in_use, now: SystemTime::now() };
    let report = kubelet.images.collect_garbage(policy).await;
    for image in &report.removed {
        tracing::info!(image = image.id, names = ?image.names, "removed an image that nobody uses");
    }
    if !report.removed.is_empty() {
        let at = SystemTime::now();
        kubelet.image_access.forget_others(&kubelet.images.list().await, at);
        kubelet.status_changed.notify_one();
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_begins_at_the_upper_mark_and_goes_on_to_the_lower() {
        let marks = ImageGc { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120) };
        for (capacity, available, expected) in
            [(1000, 200, 0), (1000, 160, 0), (1000, 150, 50), (1000, 100, 100), (1000, 0, 200), (0, 0, 0), (1 << 62, 0, (1u64 << 62) / 5)]
        {
            assert_eq!(excess(&marks, capacity, available), expected, "{available} of {capacity}");
        }
    }
}
