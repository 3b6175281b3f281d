//! Which heap a process has.
//!
//! The allocator of the main process serves many threads and many sizes; it pays for that with tables and with pages that
//! hold one size each. A keeper has one thread, holds a few kilobytes, and there is one for every pod: it takes the heap of
//! the C library, where everything lies side by side.
//!
//! Which of the two it is is asked once, by the first allocation, of the command line: what one heap gave the other could
//! not take back.

#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{Mode, OFlags};

const UNKNOWN: u8 = 0;
const MAIN: u8 = 1;
const SMALL: u8 = 2;

static CHOICE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// `main` in the main process, the heap of the C library in processes that are to be small.
#[derive(Debug)]
pub struct Heap<A> {
    /// The allocator of the main process.
    pub main: A,
    /// First arguments of the program that make a process of one thread which is to be small.
    pub small: &'static [&'static str],
}

/// Called by the first allocation, while there is one thread and nothing may be allocated.
#[cold]
fn choose(words: &[&str]) -> u8 {
    let choice = if is_one_of(words) { SMALL } else { MAIN };
    CHOICE.store(choice, Ordering::Relaxed);
    choice
}

fn is_one_of(words: &[&str]) -> bool {
    let Ok(file) = rustix::fs::open(c"/proc/self/cmdline", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else { return false };
    // Such processes are started under a short name, so that the word is at the beginning.
    let mut line = [0; 64];
    let size = rustix::io::read(&file, &mut line).unwrap_or(0);
    let first = line[..size].split(|byte| *byte == 0).nth(1).unwrap_or_default();
    words.iter().any(|word| word.as_bytes() == first)
}

impl<A> Heap<A> {
    #[inline]
    fn is_small(&self) -> bool {
        match CHOICE.load(Ordering::Relaxed) {
            UNKNOWN => choose(self.small) == SMALL,
            choice => choice == SMALL,
        }
    }
}

// Not inlined: a choice at every place where something is allocated would make the program larger by several megabytes.
// SAFETY: every call goes to one of two allocators that keep the contract, and for the whole life of a process to the same
// one: the choice is made by the first allocation, before there is a second thread, and never changes.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Heap<A> {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises is passed on.
        unsafe { if self.is_small() { System.alloc(layout) } else { self.main.alloc(layout) } }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises is passed on.
        unsafe { if self.is_small() { System.alloc_zeroed(layout) } else { self.main.alloc_zeroed(layout) } }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: what the caller promises is passed on.
        unsafe { if self.is_small() { System.dealloc(pointer, layout) } else { self.main.dealloc(pointer, layout) } }
    }

    #[inline(never)]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: what the caller promises is passed on.
        unsafe { if self.is_small() { System.realloc(pointer, layout, size) } else { self.main.realloc(pointer, layout, size) } }
    }
}
