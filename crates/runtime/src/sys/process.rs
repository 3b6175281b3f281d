//! Signals, descriptors and the last steps before another program takes over.
#![allow(unsafe_code, reason = "signal dispositions, descriptor tables and execve have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Blocks the signals that the keeper handles and returns the descriptor on which they arrive.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialized by sigemptyset before it is read; the descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Takes one signal from the descriptor of [`signal_fd`]; its number.
pub(crate) fn next_signal(fd: &OwnedFd) -> Option<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut info) {
        Ok(size) if size == info.len() => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
        _ => None,
    }
}

/// Ignores a signal, for us and for what we execute until [`reset_signals`].
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition; failure leaves the old one.
    unsafe {
        libc::signal(signal, libc::SIG_IGN);
    }
}

/// Gives a signal its default meaning.
pub(crate) fn default_signal(signal: i32) {
    // SAFETY: SIG_DFL is a valid disposition.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
    }
}

/// Blocks no signal.
pub(crate) fn unblock_signals() {
    // SAFETY: the set is initialized before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Sends a signal by number, which may be one that Rust has no name for.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: kill has no memory arguments; the number is that of one process, not of a group.
    let done = unsafe { libc::kill(pid, signal) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives every signal its default meaning and blocks none. The two that cannot be changed need not be. The kernel itself is
/// asked: the C library refuses the two signals of its own, yet has every program that it starts ignore them.
pub(crate) fn reset_signals() {
    /// What the kernel takes for the disposition of a signal: its words, the last being the set of signals, are all zero for
    /// the default.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_SIZE: usize = size_of::<u64>();
    for signal in 1..=64 {
        // SAFETY: the kernel reads a disposition, which is no larger than this, and writes none.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null_mut::<u64>(), SET_SIZE);
        }
    }
    unblock_signals();
}

/// Makes the three descriptors standard input, output and error output.
pub(crate) fn set_stdio(input: BorrowedFd<'_>, output: BorrowedFd<'_>, error: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all three are open and above 2, so no copy overwrites one that is still to be copied.
    unsafe {
        for (fd, number) in [(input, 0), (output, 1), (error, 2)] {
            if libc::dup2(fd.as_raw_fd(), number) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Marks every descriptor from 3 up so that it does not survive the next execve.
pub(crate) fn close_on_exec_all() -> io::Result<()> {
    // SAFETY: close_range has no memory arguments.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from 3 up but these. The process must not use any other that it still has a value for.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut numbers: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|number| *number > 2).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers.into_iter().chain([u32::MAX]) {
        if number > first {
            let last = if number == u32::MAX { number } else { number - 1 };
            // SAFETY: close_range has no memory arguments. The values of the closed descriptors are never used or
            // dropped again, because the caller ends in execve or exit.
            unsafe {
                libc::syscall(libc::SYS_close_range, first, last, 0);
            }
        }
        first = number.saturating_add(1);
    }
}

/// Closes a descriptor whose value stays with a caller that never returns to it.
pub(crate) fn close_one(fd: &impl AsRawFd) {
    // SAFETY: this copy of the process diverges before the value is used or dropped.
    unsafe {
        libc::close(fd.as_raw_fd());
    }
}

/// Closes every descriptor from 3 up; for a process that has just begun and owns none of them.
pub(crate) fn close_inherited() {
    // SAFETY: called before any descriptor is wrapped in an owning type.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0);
    }
}

/// Takes over standard input as a descriptor of our own and puts `/dev/null` in its place.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 is copied to a new one, which is ours.
    let taken = unsafe {
        let fd = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(taken)
}

/// Replaces this process by a program; returns only the reason why not.
pub(crate) fn execute(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        let mut list: Vec<*const libc::c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        list.push(std::ptr::null());
        list
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: path is a C string, both lists end with null and point to C strings that live until the call returns.
    unsafe {
        libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr());
    }
    io::Error::last_os_error()
}

/// Installs a compiled system-call filter for this process and what it executes.
pub(crate) fn install_filter(program: &[u8]) -> io::Result<()> {
    let mut filters: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|c| libc::sock_filter {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect();
    let length = u16::try_from(filters.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: filters.as_mut_ptr() };
    // SAFETY: the program points to `length` instructions; the kernel checks them.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the process a session keyring of its own, so that it does not see ours. Kernels without keys have none to hide.
pub(crate) fn new_session_keyring() {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>());
    }
}

/// Brings the loopback link of this network name space up.
pub(crate) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the request is zeroed and holds a name that ends with zero; the kernel reads and writes within it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// How far below the place where a process waits its stack may have been used.
const DEEP: usize = 128 << 10;
/// What is surely below no frame that is still in use.
const PAGE: usize = 4096;

/// Gives memory that is kept for later back to the machine: of the heap, and of the stack what deeper calls have used. For
/// processes with one thread that wait for a long time.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
    let here = 0u8;
    let top = (std::ptr::from_ref(&here) as usize & !(PAGE - 1)) - PAGE;
    // SAFETY: no live frame reaches a whole page below this one, and what lies below the stack's mapping is a gap that the
    // kernel keeps free, so that nothing but dead frames is given back.
    unsafe {
        libc::madvise((top - DEEP) as *mut libc::c_void, DEEP, libc::MADV_DONTNEED);
    }
}

/// Replaces the command line that others see of this process, which otherwise tells paths of the node. A longer title is
/// cut to the room that the old one has.
pub(crate) fn set_title(title: &[u8]) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    let Some((_, fields)) = stat.rsplit_once(") ") else { return };
    // The process state is field 3; the command line lies between the addresses of fields 48 and 49.
    let address = |number: usize| fields.split(' ').nth(number - 3).and_then(|field| field.parse::<usize>().ok());
    let (Some(start), Some(end)) = (address(48), address(49)) else { return };
    if start == 0 || end <= start {
        return;
    }
    // SAFETY: the kernel put the arguments between these two addresses of our own stack, where they are writable.
    // JUSTIFICATION: only a process that never looks at its arguments again calls this.
    let room = unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u8>(start), end - start) };
    room.fill(0);
    let size = title.len().min(room.len() - 1);
    room[..size].copy_from_slice(&title[..size]);
}

/// Waits for nothing, forever, until a signal ends the process.
pub(crate) fn pause() {
    // SAFETY: pause has no preconditions.
    unsafe {
        libc::pause();
    }
}
