//! All that a workload's process has started, wherever it has gone: what loses its parent becomes this process's child.

use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions};

use crate::processes::{self, Process};

/// What starts others as it is killed is killed so many times.
const KILLS_MAX: usize = 100;

/// From now on, what loses its parent is this process's child.
pub(super) fn adopt() {
    // A kernel without it leaves only what went to another session without an owner.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Waits until a child has ended, and leaves it a zombie. The others that end are asked after.
pub(super) fn until_ended(child: i32) {
    let waits_for = Pid::from_raw(child).expect("a child has an id");
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        let ended = wait(WaitId::Pid(waits_for), look | WaitIdOptions::NOHANG);
        if !matches!(ended, Ok(None)) {
            return;
        }
        if wait(WaitId::All, look).is_err() {
            return;
        }
        let others = children().filter(|other| other.is_zombie && other.pid != child);
        if others.inspect(ask_after).count() == 0 {
            // It was the child, or one that is not shown: nothing is gained by asking again.
            let _ = wait(WaitId::Pid(waits_for), look);
            return;
        }
    }
}

/// Ends whoever is left.
pub(super) fn end() {
    for _ in 0..KILLS_MAX {
        // One that may not be killed is not waited for.
        let left: Vec<_> = children().filter(Process::kill).collect();
        if left.is_empty() {
            return;
        }
        left.iter().for_each(ask_after);
    }
}

fn children() -> impl Iterator<Item = Process> {
    let own = processes::own();
    Process::all().filter(move |process| process.parent == own)
}

fn ask_after(child: &Process) {
    while let Err(Errno::INTR) =
        rustix::process::waitpid(Pid::from_raw(child.pid), WaitOptions::empty())
    {}
}

fn wait(whom: WaitId<'_>, how: WaitIdOptions) -> io::Result<Option<WaitIdStatus>> {
    loop {
        match rustix::process::waitid(whom.clone(), how) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
