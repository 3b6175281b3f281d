//! What the allocator is told, which it takes by a C function only.
#![allow(unsafe_code, reason = "jemalloc's controls have no safe wrapper")]

use std::ptr::null_mut;

/// Returns what has been free for long enough to the machine, of all arenas.
pub fn give_back() {
    const ALL: &std::ffi::CStr = c"arena.4096.decay";
    // SAFETY: the name ends with a zero, and this control neither reads nor writes a value.
    unsafe { tikv_jemalloc_sys::mallctl(ALL.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
}
