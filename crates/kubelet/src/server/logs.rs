//! Container logs: read from the CRI files that the keeper writes, with tail, since, limits, timestamps and following.
//!
//! Following is woken by the kernel (inotify), never by a timer.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::stream::Body;
use bytes::Bytes;
use futures_util::stream::poll_fn;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use rustix::fs::inotify;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::route::{self, Target, query};
use super::text;
use crate::Kubelet;
use crate::pods::model;

/// What a caller wants of a log.
#[derive(Debug, Clone, Default)]
struct Wish {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<usize>,
    only: Option<&'static str>,
}

/// What is said to options that mean nothing.
const INVALID: &str = "Invalid request.";

/// Serves a log.
pub async fn serve(kubelet: &Arc<Kubelet>, target: &Target, query: &str) -> Response<Body> {
    let wish = match wish(query) {
        Ok(wish) => wish,
        Err(message) => {
            let mut refused = super::json(&json!({"message": message}));
            *refused.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
            return refused;
        }
    };
    let pod = match pod(kubelet, target) {
        Some(pod) => pod,
        None => return text(StatusCode::NOT_FOUND, &format!("pod {:?} does not exist", target.pod)),
    };
    if !pod.spec.iter().flat_map(model::members).any(|member| member.spec.name == target.container) {
        return text(StatusCode::NOT_FOUND, &format!("container {:?} not found in pod {:?}", target.container, target.pod));
    }
    let attempt = match attempt(kubelet, &pod, target, &wish).await {
        Ok(attempt) => attempt,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    let directory = kubelet.log_dir(&pod).join(&target.container);
    let path = directory.join(format!("{attempt}.log"));
    let mut reader = match Reader::open(&path, &wish) {
        Ok(reader) => reader,
        Err(error) => {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("failed to try resolving symlinks in path {:?}: {error}", path.display()),
            );
        }
    };
    reader.watching = if wish.follow { Watching::new(kubelet.clone(), &pod, target, attempt, &path).ok() } else { None };
    let (sender, mut receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = reader.next() => next,
                () = sender.closed() => return,
            };
            match next {
                Ok(Some(chunk)) => {
                    if sender.send(chunk).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "log");
                    return;
                }
            }
        }
    });
    let chunks = poll_fn(move |context| receiver.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk)))));
    let mut response: Response<Body> = Response::new(BodyExt::boxed(StreamBody::new(chunks)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    response
}

fn wish(text: &str) -> Result<Wish, String> {
    let flag = |name: &str| query(text, name).is_some_and(|value| value != "false" && value != "0");
    let number = |name: &str| -> Result<Option<i64>, String> {
        query(text, name).map(|value| value.parse::<i64>().map_err(|_| INVALID.to_owned())).transpose()
    };
    let at_least =
        |least: i64, number: Option<i64>| if number.is_some_and(|number| number < least) { Err(INVALID.to_owned()) } else { Ok(number) };
    let seconds = at_least(1, number("sinceSeconds")?)?;
    let since = match (seconds, query(text, "sinceTime")) {
        (Some(seconds), _) => Timestamp::from_second(Timestamp::now().as_second() - seconds).ok(),
        (None, Some(time)) => Some(time.parse().map_err(|_| INVALID.to_owned())?),
        (None, None) => None,
    };
    let only = match query(text, "stream").as_deref() {
        Some("Stdout") => Some("stdout"),
        Some("Stderr") => Some("stderr"),
        _ => None,
    };
    Ok(Wish {
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        tail: at_least(0, number("tailLines")?)?.map(|lines| lines.max(0) as usize),
        since,
        limit: at_least(1, number("limitBytes")?)?.map(|bytes| bytes.max(0) as usize),
        only,
    })
}

/// The pod: one that runs here, or one that has ended and is still in the API.
fn pod(kubelet: &Kubelet, target: &Target) -> Option<Arc<Pod>> {
    if let Ok(pod) = route::pod(kubelet, target) {
        return Some(pod);
    }
    kubelet.assigned.read::<Pod>(&target.namespace, &target.pod).map(Arc::new)
}

/// The number of the attempt whose log is meant.
async fn attempt(kubelet: &Kubelet, pod: &Pod, target: &Target, wish: &Wish) -> Result<u32, String> {
    let sandbox = kubelet.pods.sandbox(model::uid(pod));
    let mut attempts = Vec::new();
    if let Some(sandbox) = sandbox {
        let statuses = sandbox.status().await.map_err(|error| error.to_string())?;
        let grouped = model::group(statuses).remove(&target.container).unwrap_or_default();
        attempts = grouped.iter().filter(|status| status.started_at.is_some()).map(model::attempt).collect();
    }
    match attempts.as_slice() {
        [] => attempts = from_status(pod, &target.container),
        // The one before it ran in a sandbox that is gone.
        [only] if *only > 0 => attempts.insert(0, only - 1),
        _ => {}
    }
    let index = if wish.previous { attempts.len().checked_sub(2) } else { attempts.len().checked_sub(1) };
    match index.map(|index| attempts[index]) {
        Some(attempt) => Ok(attempt),
        None if wish.previous => Err(format!("previous terminated container {:?} in pod {:?} not found", target.container, target.pod)),
        None => {
            // The API's pod is newer than the one that was taken over when its worker began.
            let known = kubelet.assigned.read::<Pod>(&target.namespace, &target.pod).filter(|known| model::uid(known) == model::uid(pod));
            let why = waits_for(known.as_ref().unwrap_or(pod), &target.container);
            Err(format!("container {:?} in pod {:?} is waiting to start: {why}", target.container, target.pod))
        }
    }
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// What a container that has never run waits for, in words.
fn waits_for<'a>(pod: &'a Pod, name: &str) -> &'a str {
    let waiting = status_of(pod, name).and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    match waiting {
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(reason) => reason,
        None => "ContainerCreating",
    }
}

fn from_status(pod: &Pod, name: &str) -> Vec<u32> {
    match status_of(pod, name) {
        Some(status) if status.container_id.is_some() => {
            let last = status.restart_count.max(0) as u32;
            (last.saturating_sub(1)..=last).collect()
        }
        _ => Vec::new(),
    }
}

/// Reads a log forward, chunk by chunk.
struct Reader {
    file: std::fs::File,
    path: PathBuf,
    wish: Wish,
    /// Bytes that are not yet a whole line.
    rest: Vec<u8>,
    left: Option<usize>,
    watching: Option<Watching>,
}

const CHUNK: usize = 64 << 10;

impl Reader {
    fn open(path: &Path, wish: &Wish) -> io::Result<Reader> {
        let mut file = open_log(path)?;
        if let Some(lines) = wish.tail {
            let start = tail(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Reader { file, path: path.to_owned(), wish: wish.clone(), rest: Vec::new(), left: wish.limit, watching: None })
    }

    /// The next lines; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let mut buffer = vec![0; CHUNK];
            let count = self.file.read(&mut buffer)?;
            if count > 0 {
                self.rest.extend_from_slice(&buffer[..count]);
                let chunk = self.lines();
                if !chunk.is_empty() {
                    return Ok(Some(chunk));
                }
                continue;
            }
            if self.rotated()? {
                continue;
            }
            let Some(watching) = &mut self.watching else {
                return Ok(None);
            };
            if watching.ended().await {
                // What was written between our last read and the end is still to come.
                self.watching = None;
                continue;
            }
            watching.changed().await?;
        }
    }

    /// Moves on to the new file after a rotation.
    fn rotated(&mut self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        if self.watching.is_none() {
            return Ok(false);
        }
        let Ok(now) = std::fs::metadata(&self.path) else {
            return Ok(false);
        };
        if now.ino() == self.file.metadata()?.ino() {
            return Ok(false);
        }
        self.file = open_log(&self.path)?;
        if let Some(watching) = &self.watching {
            watching.add(&self.path)?;
        }
        Ok(true)
    }

    /// Turns whole CRI lines into what the caller sees.
    fn lines(&mut self) -> Bytes {
        let mut out = Vec::new();
        let mut start = 0;
        while let Some(end) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            line(&self.rest[start..start + end], &self.wish, &mut out);
            start += end + 1;
        }
        self.rest.drain(..start);
        if let Some(left) = &mut self.left {
            out.truncate(*left);
            *left -= out.len();
        }
        Bytes::from(out)
    }
}

/// Opens the log of an attempt, whose file, folder and pod's folder a pod may have exchanged that was given the folder of
/// all logs: none of them may be a link, and what is no file could hold us up.
fn open_log(path: &Path) -> io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let top = path.ancestors().nth(3).ok_or(io::ErrorKind::InvalidInput)?;
    let below = path.strip_prefix(top).map_err(io::Error::other)?;
    let top = rustix::fs::open(top, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::openat2(&top, below, flags, Mode::empty(), resolve)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")) }
}

/// `<time> <stream> <F|P> <text>`.
fn line(line: &[u8], wish: &Wish, out: &mut Vec<u8>) {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (Some(time), Some(stream), Some(tag)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let content = parts.next().unwrap_or_default();
    if wish.only.is_some_and(|only| only.as_bytes() != stream) {
        return;
    }
    if let Some(since) = wish.since {
        let written = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
        if written.is_some_and(|written| written < since) {
            return;
        }
    }
    if wish.timestamps {
        out.extend_from_slice(time);
        out.push(b' ');
    }
    out.extend_from_slice(content);
    if !tag.starts_with(b"P") {
        out.push(b'\n');
    }
}

/// Where the last lines start, found by reading backwards.
fn tail(file: &mut std::fs::File, lines: usize) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut position, mut found) = (end, 0);
    let mut buffer = vec![0; CHUNK];
    while position > 0 {
        let size = position.min(CHUNK as u64);
        position -= size;
        file.seek(SeekFrom::Start(position))?;
        let chunk = &mut buffer[..size as usize];
        file.read_exact(chunk)?;
        for (index, byte) in chunk.iter().enumerate().rev() {
            let at = position + index as u64;
            if *byte == b'\n' && at + 1 < end {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
    }
    Ok(0)
}

/// Wakes a follower when its log grows, and tells when the container has ended.
struct Watching {
    /// An inotify descriptor, which reads like a pipe.
    notify: pipe::Receiver,
    watches: std::os::fd::OwnedFd,
    kubelet: Arc<Kubelet>,
    uid: String,
    container: String,
    attempt: u32,
}

impl Watching {
    fn new(kubelet: Arc<Kubelet>, pod: &Pod, target: &Target, attempt: u32, path: &Path) -> io::Result<Watching> {
        let notify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let watches = notify.try_clone()?;
        let watching = Watching {
            notify: pipe::Receiver::from_owned_fd_unchecked(notify)?,
            watches,
            kubelet,
            uid: model::uid(pod).to_owned(),
            container: target.container.clone(),
            attempt,
        };
        watching.add(path)?;
        if let Some(parent) = path.parent() {
            watching.add(parent)?;
        }
        Ok(watching)
    }

    fn add(&self, path: &Path) -> io::Result<()> {
        use inotify::WatchFlags;
        let flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::DELETE_SELF;
        inotify::add_watch(&self.watches, path, flags)?;
        Ok(())
    }

    /// Whether the container no longer runs: nothing will be written any more.
    async fn ended(&self) -> bool {
        let Some(sandbox) = self.kubelet.pods.sandbox(&self.uid) else {
            return true;
        };
        let Ok(statuses) = sandbox.status().await else {
            return true;
        };
        let attempts = model::group(statuses).remove(&self.container).unwrap_or_default();
        let own = attempts.iter().find(|status| model::attempt(status) == self.attempt);
        own.is_none_or(|status| status.state == runtime::ContainerState::Exited)
    }

    /// Waits for the log to change or for the container to end.
    async fn changed(&mut self) -> io::Result<()> {
        let mut events = self.kubelet.runtime.events();
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                read = self.notify.read(&mut buffer) => return read.map(drop),
                event = events.recv() => match event {
                    Ok(event) if event.sandbox.as_str() != self.uid => {}
                    _ => return Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanged_logs_lead_nowhere() {
        let top = tempfile::tempdir().unwrap();
        let secret = top.path().join("secret");
        std::fs::create_dir_all(secret.join("main")).unwrap();
        std::fs::write(secret.join("main/0.log"), "t stdout F secret\n").unwrap();
        let logs = top.path().join("pods");
        std::fs::create_dir_all(logs.join("pod/main")).unwrap();
        std::fs::write(logs.join("pod/main/0.log"), "t stdout F own\n").unwrap();
        assert!(open_log(&logs.join("pod/main/0.log")).is_ok());
        let link = |target: &Path, at: &str| std::os::unix::fs::symlink(target, logs.join(at)).unwrap();
        link(&secret.join("main/0.log"), "pod/main/1.log");
        link(&secret.join("main"), "pod/linked");
        link(&secret, "linked");
        let fifo = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, logs.join("pod/main/2.log"), fifo.0, fifo.1, 0).unwrap();
        for path in ["pod/main/1.log", "pod/linked/0.log", "linked/main/0.log", "pod/main/2.log"] {
            assert!(open_log(&logs.join(path)).is_err(), "{path}");
        }
    }
}
