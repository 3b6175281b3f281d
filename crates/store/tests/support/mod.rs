//! A disk in memory that forgets what was not synced, fails, and fills up.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store::embedded::files::{File, FileLayer, Lock};
use store::embedded::{Embedded, Options};
use store::{At, Change, Entry, Expect, Kind, Limit, Op, Store, suite};

/// What becomes of writes that were not synced when the power goes.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced {
    /// They are gone.
    Lost,
    /// They made it.
    Kept,
    /// Some sectors and some names made it.
    Torn(u64),
}

#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    files: HashMap<usize, Content>,
    made: usize,
    /// Operations that change something, since the beginning.
    operations: usize,
    /// The power goes when there were that many.
    power_until: Option<usize>,
    /// The syncs from now on fail.
    syncs_fail: bool,
    capacity: Option<usize>,
}

#[derive(Clone)]
enum NameChange {
    Set(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Size(usize),
}

const SECTOR: usize = 512;

fn write(bytes: &mut Vec<u8>, change: &Write) {
    match change {
        Write::Bytes(at, new) => {
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(new);
        }
        Write::Size(size) => bytes.resize(*size, 0),
    }
}

fn rename(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Set(path, file) => drop(names.insert(path.clone(), *file)),
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Remove(path) => drop(names.remove(path)),
    }
}

impl MemoryDisk {
    /// The disk as it is found when the power comes back.
    pub fn after_power_loss(&self, unsynced: Unsynced) -> MemoryDisk {
        let state = self.0.lock();
        let mut dice = StdRng::seed_from_u64(if let Unsynced::Torn(seed) = unsynced { seed } else { 0 });
        let mut survives = |_: ()| match unsynced {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Torn(_) => dice.random(),
        };
        let mut found = State { made: state.made, names: state.durable_names.clone(), ..State::default() };
        // A file system keeps the order of what happens to names.
        for change in state.unsynced_names.iter() {
            if !survives(()) {
                break;
            }
            rename(&mut found.names, change);
        }
        for (id, content) in &state.files {
            let mut bytes = content.durable.clone();
            for change in &content.unsynced {
                match change {
                    Write::Bytes(at, new) => {
                        // Sectors are written whole, in any order.
                        let mut from = 0;
                        while from < new.len() {
                            let to = (from + SECTOR - (at + from) % SECTOR).min(new.len());
                            if survives(()) {
                                write(&mut bytes, &Write::Bytes(at + from, new[from..to].to_vec()));
                            }
                            from = to;
                        }
                    }
                    size if survives(()) => write(&mut bytes, size),
                    Write::Size(_) => {}
                }
            }
            found.files.insert(*id, Content { now: bytes.clone(), durable: bytes, unsynced: Vec::new() });
        }
        found.durable_names = found.names.clone();
        MemoryDisk(Arc::new(Mutex::new(found)))
    }

    pub fn operations(&self) -> usize {
        self.0.lock().operations
    }

    pub fn cut_power_after(&self, operations: usize) {
        let mut state = self.0.lock();
        state.power_until = Some(state.operations + operations);
    }

    pub fn has_power(&self) -> bool {
        let state = self.0.lock();
        state.power_until.is_none_or(|until| state.operations < until)
    }

    pub fn fail_syncs(&self) {
        self.0.lock().syncs_fail = true;
    }

    pub fn set_capacity(&self, capacity: Option<usize>) {
        self.0.lock().capacity = capacity;
    }

    pub fn used(&self) -> usize {
        self.0.lock().used()
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }

    pub fn read(&self, path: &Path) -> Vec<u8> {
        let state = self.0.lock();
        state.files[&state.names[path]].now.clone()
    }

    pub fn replace(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        let file = state.names[path];
        state.files.insert(file, Content { now: bytes.clone(), durable: bytes, unsynced: Vec::new() });
    }
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[file].now.len()).sum()
    }

    /// Counts an operation. The last one before the power goes still reaches the disk's cache.
    fn operate(&mut self) -> io::Result<()> {
        if self.power_until.is_some_and(|until| self.operations >= until) {
            return Err(io::Error::other("the power is gone"));
        }
        self.operations += 1;
        Ok(())
    }

    fn name(&mut self, change: NameChange) -> io::Result<()> {
        self.operate()?;
        rename(&mut self.names, &change);
        self.unsynced_names.push(change);
        Ok(())
    }
}

impl FileLayer for MemoryDisk {
    fn make_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Lock> {
        Ok(Lock::Held(Box::new(())))
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = self.paths().into_iter().filter(|path| path.parent() == Some(dir));
        Ok(names.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut state = self.0.lock();
        state.made += 1;
        let id = state.made;
        state.name(NameChange::Set(path.to_owned(), id))?;
        state.files.insert(id, Content::default());
        Ok(Box::new(MemoryFile { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let id = self.0.lock().names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.lock().name(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name(NameChange::Remove(path.to_owned()))
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        if state.syncs_fail {
            return Err(io::Error::from_raw_os_error(5));
        }
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    id: usize,
}

impl MemoryFile {
    fn change(&self, change: Write) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.operate()?;
        let size = state.files[&self.id].now.len();
        let wanted = match &change {
            Write::Bytes(at, new) => at + new.len(),
            Write::Size(wanted) => *wanted,
        };
        if wanted > size && state.capacity.is_some_and(|capacity| state.used() + wanted - size > capacity) {
            return Err(io::Error::from_raw_os_error(28));
        }
        let content = state.files.get_mut(&self.id).unwrap();
        write(&mut content.now, &change);
        content.unsynced.push(change);
        Ok(())
    }
}

impl File for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[&self.id].now.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.0.lock();
        let bytes = &state.files[&self.id].now;
        let from = (offset as usize).min(bytes.len());
        let read = buffer.len().min(bytes.len() - from);
        buffer[..read].copy_from_slice(&bytes[from..from + read]);
        Ok(read)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Write::Bytes(offset as usize, bytes.to_vec()))
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        // Small steps make small images.
        let size = if size.is_multiple_of(4 << 20) { self.size()? + 8192 } else { size };
        self.change(Write::Size((size as usize).max(self.size()? as usize)))
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.change(Write::Size(size as usize))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.operate()?;
        if state.syncs_fail {
            return Err(io::Error::from_raw_os_error(5));
        }
        let content = state.files.get_mut(&self.id).unwrap();
        content.durable = content.now.clone();
        content.unsynced.clear();
        Ok(())
    }
}

pub fn options(disk: &MemoryDisk) -> Options {
    let mut options = Options::new("/data", suite::stamp(), "test");
    options.files = Arc::new(disk.clone());
    options
}

pub fn open(disk: &MemoryDisk) -> Embedded {
    Embedded::open(options(disk)).unwrap()
}

pub fn kind() -> Kind {
    Kind::new("/registry/things/")
}

pub fn put(rest: &str, value: &str) -> Change {
    let op = Op::Put { raw: Bytes::copy_from_slice(value.as_bytes()), ttl: None };
    Change { key: kind().key(rest), expect: Expect::Any, op }
}

pub fn delete(rest: &str) -> Change {
    Change { key: kind().key(rest), expect: Expect::Any, op: Op::Delete }
}

/// `key=revision|value` of everything that is stored.
pub fn content(store: &dyn Store) -> Vec<String> {
    let listed = store.mvcc().list_at(&kind().all().into(), At::Latest, Limit::NONE).unwrap();
    listed.value.entries.iter().map(|entry| shown(entry)).collect()
}

pub fn shown(entry: &Entry) -> String {
    format!("{}={}", entry.key.rest, std::str::from_utf8(&entry.bytes).unwrap())
}
