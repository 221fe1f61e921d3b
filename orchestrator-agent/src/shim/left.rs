//! What is left of shims and of what they run, as others find it: an agent that begins, or another directory's.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

use super::{LAUNCH, LOCK, Launch, PROCESS, Process, RUN};
use crate::cgroup::Group;
use crate::disk;
use crate::processes;

/// What starts others as it is killed is killed so many times.
const KILLS_MAX: usize = 100;

/// The lock of a run's shim, if no shim lives.
pub(crate) fn hold(dir: &Path) -> io::Result<Option<File>> {
    let lock = dir.join(LOCK);
    let held = disk::hold(&lock);
    match held.is_err() && disk::is_no_file(&lock) {
        // A shim that lives has the one that was there before.
        true => disk::put_aside(&lock).and_then(|()| disk::hold(&lock)),
        false => held,
    }
}

impl Process {
    /// What was started of the run in this directory, as far as that is known.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        disk::read_or_put_aside(&dir.join(PROCESS))
    }
}

impl Launch {
    /// How the run in this directory was started, as far as that is known.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        disk::read_or_put_aside(&dir.join(LAUNCH))
    }
}

/// Kills what is left of a run whose shim was killed, and of which nothing is known but what is in this directory. What
/// has its shim is left to that; so is what lives elsewhere, where this is a copy of it.
pub(crate) fn kill_unknown(dir: &Path) -> io::Result<()> {
    let Some(_alone) = hold(dir)? else {
        return Ok(());
    };
    let left = Process::read(dir)?;
    if left.as_ref().and_then(Lost::elsewhere).is_some() {
        return Ok(());
    }
    let killed = kill_session(left.as_ref(), dir) + kill_strays(dir);
    let launch = Launch::read(dir)?;
    // Those of a copy are its original's.
    if let Some(launch) = launch.filter(|launch| launch.marked() == Some(dir)) {
        launch.groups.iter().for_each(Group::kill);
    }
    if killed > 0 {
        tracing::warn!(dir = %dir.display(), killed, "what was left of a run that nobody knows was killed");
    }
    Ok(())
}

/// Kills what a shim that was killed has left of the run in this directory: its whole session, whatever that has made of
/// its environment; answers how many.
pub(crate) fn kill_session(left: Option<&Process>, dir: &Path) -> usize {
    // While one of it lives nobody else's session has this number. Where that is not known, it may be another one by now:
    // then it is who works in the run's directory, of a session that nobody leads any more.
    let known = left.filter(|left| left.is_alive());
    let works_here = |process: &processes::Process| {
        let works = process.works_in();
        works.is_some_and(|works| works.starts_with(dir)) && is_alone(process)
    };
    let mut killed = 0;
    for _ in 0..KILLS_MAX {
        let of_session = |process: &processes::Process| {
            let is_of_it = match known {
                Some(left) => process.session == left.shim,
                None => works_here(process),
            };
            is_of_it && !process.is_zombie
        };
        let members: Vec<_> = processes::Process::all().filter(of_session).collect();
        if members.is_empty() {
            break;
        }
        killed += members.iter().filter(|process| process.kill()).count();
    }
    killed
}

/// Whether nobody leads its session any more. Who came here from outside of a container has none that is seen.
fn is_alone(process: &processes::Process) -> bool {
    if process.session == 0 {
        return false;
    }
    let leader = processes::Process::of(process.session);
    leader.is_none_or(|leader| leader.is_zombie)
}

/// Kills what carries the mark of the run in this directory, also the one that it had before it was moved: where there is
/// something again, that mark is another run's. Answers how many.
pub(crate) fn kill_strays(dir: &Path) -> usize {
    let launch = Launch::read(dir).ok().flatten();
    let before = launch.as_ref().and_then(Launch::marked);
    let before = before.filter(|before| is_gone(before));
    kill_marked(dir, dir) + before.map_or(0, |before| kill_marked(before, dir))
}

/// Kills whatever is marked with a directory, for the run that is here; answers how many.
pub(crate) fn kill_marked(with: &Path, here: &Path) -> usize {
    let mark = format!("{RUN}={}", with.to_string_lossy());
    let here = disk::identity(here);
    let others = others_here(with).filter(|process| process.has(&mark));
    let others = others.filter(|process| !is_anothers(process, with, here));
    others.filter(processes::Process::kill).count()
}

/// Whether it belongs to a run that began in this directory, too, and is not the one that is here: one of the two was moved.
fn is_anothers(process: &processes::Process, with: &Path, here: Option<(u64, u64)>) -> bool {
    let is_others_shim = |shim: processes::Process| {
        let seat = shim.path(&Held::of(&shim)?.dir);
        let launch = disk::read_json::<Launch>(&seat.join(LAUNCH)).ok()??;
        Some(launch.marked() == Some(with) && disk::identity(&seat) != here)
    };
    let above = process.above();
    let mut above = above.take_while(|above| above.pid != processes::own());
    above.any(|above| is_others_shim(above).unwrap_or(false))
}

/// The other processes, but for those of a container, which may have a directory of this name that is another one. Who has
/// another root and finds nothing there is meant.
fn others_here(dir: &Path) -> impl Iterator<Item = processes::Process> {
    let known = dir.ancestors().find(|dir| dir.exists());
    processes::Process::all().filter(move |process| {
        let sees = || known.and_then(|known| process.sees(known));
        process.pid != processes::own() && !process.is_zombie && sees() != Some(false)
    })
}

fn is_gone(dir: &Path) -> bool {
    matches!(dir.try_exists(), Ok(false))
}

/// Where a run lives.
#[derive(Debug)]
pub(crate) struct Seat {
    /// As its shim knows it.
    pub(crate) dir: PathBuf,
    /// As it is seen from here.
    pub(crate) seen: PathBuf,
}

/// All that live and are there, whichever program began them.
pub(crate) fn living() -> impl Iterator<Item = Seat> {
    let shims = processes::Process::all();
    shims.filter_map(|shim| {
        let held = Held::of(&shim).filter(|held| !held.is_deleted)?;
        let seen = shim.path(&held.dir);
        Some(Seat {
            dir: held.dir,
            seen,
        })
    })
}

/// The lock of a shim that lives.
struct Held {
    /// The run's directory, or where that was at last.
    dir: PathBuf,
    /// The lock was taken away.
    is_deleted: bool,
}

impl Held {
    /// What this process holds, if it is a shim: those work where their lock is. Nobody else's programs are taken for one, nor
    /// is who has another file of that name.
    fn of(shim: &processes::Process) -> Option<Self> {
        if shim.session != shim.pid || !shim.is_own() {
            return None;
        }
        let (dir, _) = processes::undeleted(shim.works_in()?);
        let lock = dir.join(LOCK);
        let mut open = shim.open().map(processes::undeleted);
        let (_, is_deleted) = open.find(|(path, _)| *path == lock)?;
        Some(Self { dir, is_deleted })
    }
}

/// A shim that lives, and whose run was taken away, or what tells of it.
#[derive(Debug)]
pub(crate) struct Lost {
    shim: processes::Process,
    /// The lock that it holds was taken away.
    pub(crate) is_deleted: bool,
    /// Where the run was.
    pub(crate) dir: PathBuf,
}

impl Lost {
    /// Those whose run was in this directory, or below. A shim is told these words, and then a directory; where its run
    /// was at last says the lock that it holds. A run that was moved and is there still is another agent's, or none's.
    pub(crate) fn find(words: &[OsString], runs: &Path) -> Vec<Self> {
        let known = runs.ancestors().find(|dir| dir.exists());
        let is_shim = |process: &processes::Process| {
            let all = process.words();
            let told = all.get(1..all.len().saturating_sub(1));
            told == Some(words) && known.is_some_and(|known| process.sees(known) == Some(true))
        };
        let shims = processes::Process::all().filter(is_shim);
        let lost = shims.filter_map(Self::of);
        lost.filter(|lost| lost.is_deleted && lost.dir.starts_with(runs))
            .collect()
    }

    /// That of the run in this directory, which is there, where nothing else tells of it.
    pub(crate) fn at(dir: &Path) -> Option<Self> {
        let here = disk::identity(dir)?;
        let is_here = |lost: &Self| {
            let seat = lost.shim.path(&lost.dir);
            !lost.is_deleted && disk::identity(&seat) == Some(here)
        };
        let mut all = processes::Process::all().filter_map(Self::of);
        all.find(is_here)
    }

    /// That of a run that lives, asked where nobody holds its lock: so the directory that was asked is a copy, and the lock
    /// that its shim holds is that of another one.
    pub(crate) fn elsewhere(process: &Process) -> Option<Self> {
        let shim = processes::Process::of(process.shim)?;
        process.is_alive().then(|| Self::of(shim))?
    }

    fn of(shim: processes::Process) -> Option<Self> {
        let Held { dir, is_deleted } = Held::of(&shim)?;
        Some(Self {
            shim,
            is_deleted,
            dir,
        })
    }

    /// Sends the program a signal; whether there was one.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let shim = self.shim.pid;
        let children = self.living().filter(|process| process.parent == shim);
        // It may lead no group, or be gone.
        let tell = |pid| rustix::process::kill_process_group(pid, signal).is_ok();
        let told = children.filter(|child| Pid::from_raw(child.pid).is_some_and(tell));
        told.count() > 0
    }

    /// Kills all that it has started; then it ends by itself. With `whole`, kills it, too.
    pub(crate) fn kill(&self, whole: bool) {
        for process in self.living() {
            process.kill();
        }
        if whole {
            self.shim.kill();
        }
    }

    fn living(&self) -> impl Iterator<Item = processes::Process> {
        let below = self.shim.below().into_iter();
        below.filter(|process| !process.is_zombie)
    }
}
