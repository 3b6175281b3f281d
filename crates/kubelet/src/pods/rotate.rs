//! Logs of containers at another runtime, which writes them but never ends a file: that is left to the kubelet. Our own
//! runtime ends its files itself while it writes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use runtime::ContainerState;

use super::model;
use crate::Kubelet;

/// Time between two looks at the sizes, as upstream's.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks after the logs until the future is dropped.
pub async fn run(kubelet: Arc<Kubelet>) {
    if kubelet.runtime.other().is_none() {
        return;
    }
    loop {
        tokio::time::sleep(PERIOD).await;
        for pod in kubelet.pods.pods() {
            let Some(sandbox) = kubelet.pods.sandbox(model::uid(&pod)) else { continue };
            for status in sandbox.status().await.unwrap_or_default() {
                let Some(log) = status.log_path.as_deref().filter(|_| status.state == ContainerState::Running) else { continue };
                if std::fs::metadata(log).map_or(0, |file| file.len()) < kubelet.config.log_max_size {
                    continue;
                }
                let outcome = async {
                    let aside = move_aside(log)?;
                    if let Err(error) = sandbox.reopen_log(&status.id).await {
                        std::fs::rename(&aside, log)?;
                        return Err(io::Error::other(error));
                    }
                    forget_oldest(log, kubelet.config.log_max_files)
                };
                if let Err(error) = outcome.await {
                    tracing::warn!(log = %log.display(), %error, "log was not rotated");
                }
            }
        }
    }
}

fn move_aside(log: &Path) -> io::Result<PathBuf> {
    let mut name = log.as_os_str().to_owned();
    name.push(Timestamp::now().strftime(".%Y%m%d-%H%M%S").to_string());
    let aside = PathBuf::from(name);
    std::fs::rename(log, &aside)?;
    Ok(aside)
}

/// Keeps so many files, the present one included.
fn forget_oldest(log: &Path, most: u32) -> io::Result<()> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else { return Ok(()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = std::fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    let mut old: Vec<PathBuf> =
        entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))).collect();
    old.sort();
    let keep = usize::try_from(most.max(1) - 1).unwrap_or(usize::MAX);
    old.iter().take(old.len().saturating_sub(keep)).try_for_each(std::fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_of_one_log_go() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20260101-000001", "0.log.20260101-000002", "0.log.20260101-000003", "1.log", "1.log.20250101-000000"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        forget_oldest(&dir.path().join("0.log"), 2).unwrap();
        let mut left: Vec<String> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["0.log", "0.log.20260101-000003", "1.log", "1.log.20250101-000000"]);
    }
}
