//! The built-in profile (`RuntimeDefault`): what ordinary programs use, and more with the capabilities that guard it.
//!
//! Left out on purpose: what is for the machine as a whole (modules, swap, clocks, reboot, keyrings, accounting), what
//! looks into other processes or at the kernel (bpf, perf, ptrace on old kernels, kcmp), what has had many holes
//! (`io_uring`, `userfaultfd`), and making name spaces, unless the capability that stands for it is given.

use super::{Action, Comparison, Condition, Profile, Rule, calls};

const NOT_PERMITTED: u32 = 1;
const NO_SUCH_CALL: u32 = 38;

/// Calls that are allowed with every argument.
const ALLOWED: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 \
    dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod \
    fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
    fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_mempolicy \
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid \
    getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill \
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr \
    llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore \
    mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap \
    name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc \
    pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pwrite64 pwritev \
    pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename \
    renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity \
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto \
    set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority \
    setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown \
    sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync sync_file_range syncfs \
    sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create \
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork \
    vmsplice wait4 waitid write writev arch_prctl process_vm_readv process_vm_writev ptrace getxattrat setxattrat \
    listxattrat removexattrat";

/// Further calls by the capability that guards them.
const GUARDED: [(&str, &str); 12] = [
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd \
         setdomainname sethostname setns statmount syslog umount2 unshare",
    ),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_SYS_BOOT", "reboot kexec_load kexec_file_load"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday clock_settime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages"),
    ("CAP_SYSLOG", "syslog"),
];

/// Flags of `clone` that make name spaces.
const NAME_SPACES: u64 = 0x7e02_0000;
/// Personalities that only change how a program sees itself: Linux, 32-bit, and the same without address randomization.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Kernel-to-hypervisor sockets and the kernel's cipher interface reach what a container should not.
const SOCKET_VSOCK: u64 = 40;

/// The profile for a container with these capabilities.
pub(super) fn profile(capabilities: &[String]) -> Profile {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let mut rules = Vec::new();
    let mut allow = |names: &str, conditions: &[Condition]| {
        for call in names.split_whitespace().filter_map(calls::number) {
            rules.push(Rule { call, conditions: conditions.to_vec(), action: Action::Allow });
        }
    };
    allow(ALLOWED, &[]);
    for (_, names) in GUARDED.iter().filter(|(capability, _)| has(capability)) {
        allow(names, &[]);
    }
    for value in PERSONALITIES {
        allow("personality", &[Condition { argument: 0, comparison: Comparison::Equal, value }]);
    }
    allow("socket", &[Condition { argument: 0, comparison: Comparison::NotEqual, value: SOCKET_VSOCK }]);
    if !has("CAP_SYS_ADMIN") {
        let none = Condition { argument: 0, comparison: Comparison::Masked(NAME_SPACES), value: 0 };
        allow("clone", &[none]);
        // Its flags lie in memory that a filter cannot see. "No such call" makes libraries fall back to clone.
        rules.extend(calls::number("clone3").map(|call| Rule { call, conditions: Vec::new(), action: Action::Errno(NO_SUCH_CALL) }));
    }
    Profile { default: Action::Errno(NOT_PERMITTED), rules }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_open_what_they_guard() {
        let allows = |profile: &Profile, name: &str| {
            let call = calls::number(name).expect("a known call");
            profile.rules.iter().any(|rule| rule.call == call && rule.action == Action::Allow)
        };
        let plain = profile(&[]);
        let admin = profile(&["CAP_SYS_ADMIN".into()]);
        for name in ["mount", "unshare", "setns", "bpf"] {
            assert!(!allows(&plain, name) && allows(&admin, name), "{name}");
        }
        for name in ["read", "openat2", "clone", "socket", "execve"] {
            assert!(allows(&plain, name), "{name}");
        }
        for name in ["io_uring_setup", "userfaultfd", "keyctl", "swapon"] {
            assert!(!allows(&plain, name) && !allows(&admin, name), "{name}");
        }
    }
}
