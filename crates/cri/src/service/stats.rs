//! What containers and pods use.

use std::path::Path;

use cgroup::Stats;
use runtime::{ContainerState, Sandbox};

use super::{Container, Pod, Service, now, shown};
use crate::messages::*;
use grpc::Failure;

fn number(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(stats: &Stats) -> CpuUsage {
    // The rate is the caller's to make: it knows the time between two looks.
    CpuUsage { timestamp: now(), usage_core_nano_seconds: number(stats.cpu_usage_ns), usage_nano_cores: None }
}

fn memory(stats: &Stats) -> MemoryUsage {
    let memory = &stats.memory;
    MemoryUsage {
        timestamp: now(),
        working_set_bytes: number(memory.working_set),
        available_bytes: number(memory.limit.unwrap_or(0).saturating_sub(memory.working_set)),
        usage_bytes: number(memory.usage),
        rss_bytes: number(memory.rss),
        page_faults: number(memory.page_faults),
        major_page_faults: number(memory.major_page_faults),
    }
}

/// Bytes and inodes of what a container wrote; what vanishes meanwhile is not counted.
fn measure(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut inodes) = (0, 0);
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

impl Service {
    pub(super) async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Failure> {
        let container = self.container(&request.container_id)?;
        let sandbox = self.pod(&container.record.pod)?.sandbox;
        Ok(ContainerStatsResponse { stats: Some(self.stats_of(container, sandbox).await?) })
    }

    pub(super) async fn list_container_stats(&self, request: ListContainerStatsRequest) -> Result<ListContainerStatsResponse, Failure> {
        let filter = request.filter.unwrap_or_default();
        let matching: Vec<(Container, Option<Sandbox>)> = {
            let state = self.state.lock();
            let running = state.containers.values().filter(|container| container.status.state == ContainerState::Running);
            let matching = running.filter(|container| {
                let labels = container.record.config.as_ref().map(|config| &config.labels);
                (filter.id.is_empty() || container.record.id.starts_with(&filter.id))
                    && (filter.pod_sandbox_id.is_empty() || container.record.pod.starts_with(&filter.pod_sandbox_id))
                    && labels.is_none_or(|labels| shown::selects(&filter.label_selector, labels))
            });
            let sandbox = |container: &Container| state.pods.get(&container.record.pod).and_then(|pod| pod.sandbox.clone());
            matching.map(|container| (container.clone(), sandbox(container))).collect()
        };
        let mut stats = Vec::new();
        for (container, sandbox) in matching {
            stats.push(self.stats_of(container, sandbox).await?);
        }
        Ok(ListContainerStatsResponse { stats })
    }

    async fn stats_of(&self, container: Container, sandbox: Option<Sandbox>) -> Result<ContainerStats, Failure> {
        let config = container.record.config.unwrap_or_default();
        let used = sandbox.and_then(|sandbox| sandbox.stats(&container.status.id).ok());
        let writable = self.records.writable(&container.record.id);
        let measured = tokio::task::spawn_blocking(move || measure(&writable)).await;
        let (bytes, inodes) = measured.map_err(|error| Failure::internal(&error))?;
        Ok(ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.record.id,
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
            }),
            cpu: used.as_ref().map(cpu),
            memory: used.as_ref().map(memory),
            writable_layer: Some(FilesystemUsage {
                timestamp: now(),
                fs_id: Some(FilesystemIdentifier { mountpoint: self.images.dir().to_string_lossy().into_owned() }),
                used_bytes: number(bytes),
                inodes_used: number(inodes),
            }),
        })
    }

    pub(super) async fn pod_sandbox_stats(&self, request: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse, Failure> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        Ok(PodSandboxStatsResponse { stats: Some(self.pod_stats(pod).await?) })
    }

    pub(super) async fn list_pod_sandbox_stats(&self, request: ListPodSandboxStatsRequest) -> Result<ListPodSandboxStatsResponse, Failure> {
        let filter = request.filter.unwrap_or_default();
        let matching: Vec<Pod> = {
            let state = self.state.lock();
            let running = state.pods.values().filter(|pod| pod.sandbox.is_some());
            let matching = running.filter(|pod| {
                let labels = pod.record.config.as_ref().map(|config| &config.labels);
                (filter.id.is_empty() || pod.record.id.starts_with(&filter.id))
                    && labels.is_none_or(|labels| shown::selects(&filter.label_selector, labels))
            });
            matching.cloned().collect()
        };
        let mut stats = Vec::new();
        for pod in matching {
            stats.push(self.pod_stats(pod).await?);
        }
        Ok(ListPodSandboxStatsResponse { stats })
    }

    async fn pod_stats(&self, pod: Pod) -> Result<PodSandboxStats, Failure> {
        let shown = shown::pod(&pod);
        let used = pod.sandbox.as_ref().and_then(|sandbox| sandbox.cgroup().stats().ok());
        let filter = ContainerStatsFilter { pod_sandbox_id: pod.record.id.clone(), ..ContainerStatsFilter::default() };
        let containers = self.list_container_stats(ListContainerStatsRequest { filter: Some(filter) }).await?.stats;
        Ok(PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: shown.id,
                metadata: shown.metadata,
                labels: shown.labels,
                annotations: shown.annotations,
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: used.as_ref().map(cpu),
                memory: used.as_ref().map(memory),
                network: None,
                process: used.as_ref().map(|stats| ProcessUsage { timestamp: now(), process_count: number(stats.pids) }),
                containers,
            }),
        })
    }
}
