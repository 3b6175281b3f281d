//! Programs for the kernel's own machine; the only place of this crate with `unsafe`.
#![allow(unsafe_code, reason = "the bpf system call has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One instruction.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    pub code: u8,
    /// Source in the upper half, destination in the lower.
    pub registers: u8,
    pub offset: i16,
    pub value: i32,
}

const LOAD: libc::c_int = 5;
const ATTACH: libc::c_int = 8;
const DEVICE_PROGRAM: u32 = 15;
const DEVICE_HOOK: u32 = 6;
const BESIDE_OTHERS: u32 = 2;

#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

/// Gives a program to the kernel, which checks it.
pub(crate) fn load_device_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type: DEVICE_PROGRAM,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes are valid for their size and point to memory that lives until the call returns; a
    // non-negative answer is a new descriptor of ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, LOAD, &raw const attributes, size_of::<LoadAttributes>());
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as libc::c_int)) }
    }
}

/// Makes a group of the unified hierarchy ask a program, which then lives as long as the group.
pub(crate) fn attach_device_program(dir: &impl AsRawFd, program: &OwnedFd) -> io::Result<()> {
    let attributes =
        AttachAttributes { target: dir.as_raw_fd() as u32, program: program.as_raw_fd() as u32, hook: DEVICE_HOOK, flags: BESIDE_OTHERS };
    // SAFETY: the attributes are valid for their size; both descriptors are open.
    let done = unsafe { libc::syscall(libc::SYS_bpf, ATTACH, &raw const attributes, size_of::<AttachAttributes>()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
