//! What a container says at its end: its termination message file, or the end of its log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

/// Bytes of a message from the file.
const MAX_FILE: u64 = 4096;
/// Bytes of a message from the log.
const MAX_LOG: u64 = 2048;
/// Lines of a message from the log.
const MAX_LINES: usize = 80;

/// The message of an ended attempt. The container wrote the file, so that it is read bounded and without following links.
pub fn message(container: &Container, file: &Path, log: &Path, code: i32) -> String {
    let said = read_end(file, MAX_FILE).unwrap_or_default();
    let fallback = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && code != 0;
    if !said.is_empty() || !fallback {
        return String::from_utf8_lossy(&said).into_owned();
    }
    // Each line of the log begins with time, stream and tag.
    let lines = read_end(log, MAX_LOG * 4).unwrap_or_default();
    let text = String::from_utf8_lossy(&lines).into_owned();
    let contents: Vec<String> = text.lines().filter_map(said_in).collect();
    let mut message = contents[contents.len().saturating_sub(MAX_LINES)..].concat();
    while message.len() as u64 > MAX_LOG {
        message.remove(0);
    }
    message
}

/// What the container wrote for one line of the log; a line that it did not end (tag P) has no line feed.
fn said_in(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ').skip(2);
    let (tag, text) = (parts.next()?, parts.next()?);
    Some(if tag.starts_with('P') { text.to_owned() } else { format!("{text}\n") })
}

fn read_end(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(most)))?;
    }
    let mut data = Vec::new();
    file.take(most).read_to_end(&mut data)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_far_as_they_may_go() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        std::fs::write(at("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(at("secret"), at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
        std::fs::File::create(at("endless")).and_then(|file| file.set_len(1 << 40)).unwrap();
        std::fs::write(at("said"), "why").unwrap();
        let plain = Container::default();
        let fallback = Container { termination_message_policy: Some("FallbackToLogsOnError".into()), ..Container::default() };
        assert_eq!(message(&plain, &at("said"), &at("none"), 1), "why");
        assert_eq!(message(&plain, &at("endless"), &at("none"), 1).len() as u64, MAX_FILE);
        std::fs::write(at("long"), format!("{}end", "x".repeat(5000))).unwrap();
        let said = message(&plain, &at("long"), &at("none"), 1);
        assert!(said.len() as u64 == MAX_FILE && said.ends_with("xend"), "the end counts");
        for name in ["link", "pipe", "none"] {
            assert_eq!(message(&plain, &at(name), &at("none"), 1), "", "{name}");
            assert_eq!(message(&fallback, &at("none"), &at(name), 1), "", "{name} as a log");
        }
    }
}
