//! The other lives of our executable, chosen before `main` proper while the process still has one thread.

/// First argument of a keeper.
pub(crate) const KEEPER: &str = "keeper";

/// Runs the keeper if this process was started as one; returns otherwise. Call it first in `main`, before any thread
/// is started: a keeper forks, which only a single-threaded process may do freely.
pub fn dispatch() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == KEEPER) {
        match arguments.next() {
            Some(dir) => crate::keeper::run(dir.into()),
            None => {
                eprintln!("the keeper is started by the runtime with a sandbox's folder");
                std::process::exit(64);
            }
        }
    }
}
