//! Where a data directory is: whoever copies one has two, and only one of them may ever work.
//!
//! A directory has a name of its own, which goes along into every copy, and it is written in it where it was last, and
//! which directory of the file system that was. Of two that have one name none begins beside the other: neither where
//! something runs in another one, nor while an agent works with another one, nor, where nothing runs in itself, if there is
//! another one where it was last.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::processes::{Process, is_own_user};
use crate::shim::{self, Lost, Seat};

const KEPT: &str = "place.json";
/// How far below a data directory its runs are.
const DEPTH: usize = 4;
/// As the system calls a socket that is connected to.
const STREAM: &str = "0001";
/// Who asks is answered no more often.
const ANSWER_EACH: Duration = Duration::from_millis(1);
/// What cannot be written is tried again so soon.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What is written of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Kept {
    /// No other directory has this name, but for copies.
    name: String,
    /// Where it was.
    dir: PathBuf,
    /// Which one that was: its device, and its number there.
    identity: (u64, u64),
}

/// Where a data directory is.
#[derive(Debug)]
pub(crate) struct Place {
    kept: Kept,
    is_kept: bool,
    /// When it was tried last to write that down.
    tried: Option<Instant>,
}

impl Place {
    /// Where this directory is; or where there is another one of its name. Of all that live on this machine.
    pub(crate) fn find(
        dir: &Path,
        mut all: impl Iterator<Item = Seat>,
    ) -> io::Result<Result<Self, PathBuf>> {
        let identity = disk::identity(dir).ok_or(io::ErrorKind::NotFound)?;
        let mut is_in_use =
            || all.any(|seat| seat.data().and_then(disk::identity) == Some(identity));
        let before = disk::read_or_put_aside::<Kept>(&dir.join(KEPT))?;
        let name = match &before {
            Some(before) => before.name.clone(),
            None => format!("{:032x}", rand::random::<u128>()),
        };
        if let Some(before) = &before
            && disk::identity(&before.dir).is_some_and(|there| there != identity)
            && is_named(&before.dir, &name).unwrap_or(true)
            && !is_in_use()
        {
            return Ok(Err(before.dir.clone()));
        }
        let kept = Kept {
            name,
            dir: dir.to_owned(),
            identity,
        };
        // What another user has by now is not believed by those of a copy.
        let own = disk::read_own_json::<Kept>(&dir.join(KEPT));
        Ok(Ok(Self {
            is_kept: own.is_ok_and(|own| own.as_ref() == Some(&kept)),
            tried: None,
            kept,
        }))
    }

    /// Writes it down, where that was not done yet and not tried just now. Until then the next agent finds what this one has
    /// found.
    pub(crate) fn keep(&mut self) {
        let is_due = |tried: Instant| tried.elapsed() >= AGAIN_AFTER;
        if self.is_kept || !self.tried.is_none_or(is_due) {
            return;
        }
        let path = self.kept.dir.join(KEPT);
        match disk::replace_json(&path, &self.kept) {
            Ok(()) => self.is_kept = true,
            Err(why) => {
                if self.tried.is_none() {
                    tracing::warn!(path = %path.display(), %why, "where the data directory is cannot be written yet");
                }
                self.tried = Some(Instant::now());
            }
        }
    }

    /// Of what lives on this machine, the first that does so in another directory of this name: which one that is.
    pub(crate) fn beside(&self, mut all: impl Iterator<Item = Seat>) -> Option<PathBuf> {
        all.find_map(|seat| {
            let data = seat.data()?;
            let is_other = disk::identity(data)? != self.kept.identity;
            let is_beside = is_other && is_named(data, &self.kept.name)?;
            is_beside
                .then(|| seat.dir.ancestors().nth(DEPTH))?
                .map(Path::to_owned)
        })
    }

    /// The name of the directory, which no other one has but for its copies.
    pub(crate) fn name(&self) -> &str {
        &self.kept.name
    }

    /// Whether it is there still.
    pub(crate) fn is_there(&self) -> bool {
        disk::identity(&self.kept.dir) == Some(self.kept.identity)
    }

    /// For as long as what this returns lives, no other agent on this machine works with this directory or a copy of it;
    /// `None` where one does. It is to be [answered](answer). An error that tells of an address in use may be gone soon.
    pub(crate) fn hold(&self) -> io::Result<Option<UnixListener>> {
        let name = format!("orchestrator-agent-{}", self.kept.name);
        let address = SocketAddr::from_abstract_name(&name)?;
        match UnixListener::bind_addr(&address) {
            Ok(held) => {
                held.set_nonblocking(true)?;
                Ok(Some(held))
            }
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => {
                // Everybody can read such a name, and take it. Nobody waits for who has it: he need not answer.
                match is_taken_by_others(&name)? {
                    true => Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "somebody else has taken its name",
                    )),
                    // Or it has just been let go.
                    false => Ok(None),
                }
            }
            Err(why) => Err(why),
        }
    }
}

/// Takes in who asks whose a name is, and lets him go: else they would stand in line, and nobody could ask any more. Never
/// ends.
pub(crate) async fn answer(held: UnixListener) {
    let Ok(held) = tokio::net::UnixListener::from_std(held) else {
        return;
    };
    loop {
        if let Err(why) = held.accept().await {
            tracing::debug!(%why, "who asks whose the data directory's name is cannot be answered");
        }
        // Whoever asks all the time has no more of this process than that.
        tokio::time::sleep(ANSWER_EACH).await;
    }
}

/// Where the data directory is in which that lives of which this run's directory tells: this one is in a copy of that,
/// whosever both are by now.
pub(crate) fn elsewhere(run: &Path) -> io::Result<Option<PathBuf>> {
    let Some(process) = shim::Process::read(run)? else {
        return Ok(None);
    };
    // Else it lives here.
    let Some(_alone) = shim::hold(run)? else {
        return Ok(None);
    };
    let lost = Lost::elsewhere(&process).filter(|shim| !shim.is_deleted);
    Ok(lost.and_then(|shim| shim.dir.ancestors().nth(DEPTH).map(Path::to_owned)))
}

impl Seat {
    /// The data directory that it is in, as it is seen from here.
    fn data(&self) -> Option<&Path> {
        self.seen.ancestors().nth(DEPTH)
    }
}

/// Whether there is a socket of this name, and it is neither root's nor this process's user's.
fn is_taken_by_others(name: &str) -> io::Result<bool> {
    let all = std::fs::read_to_string("/proc/net/unix")?;
    let sockets = all.lines().filter_map(|line| {
        let (line, called) = line.rsplit_once(' ')?;
        // One of another kind may have the same name.
        let kind = line.split_ascii_whitespace().nth(4)?;
        let is_it = kind == STREAM && called.strip_prefix('@') == Some(name);
        let number = is_it.then(|| line.rsplit(' ').next())??;
        Some(PathBuf::from(format!("socket:[{number}]")))
    });
    let sockets: Vec<PathBuf> = sockets.collect();
    if sockets.is_empty() {
        return Ok(false);
    }
    let has_it = |process: &Process| process.open().any(|file| sockets.contains(&file));
    let mut seen: Vec<Process> = Process::all().filter(has_it).collect();
    let is_seen = !seen.is_empty();
    seen.retain(Process::is_own);
    if !seen.is_empty() {
        return Ok(false);
    }
    // Or it is of a container next to this one.
    Ok(match ask(name) {
        Holder::Own => false,
        Holder::Other => true,
        Holder::Silent => is_seen,
    })
}

/// Who has the socket of a name, as far as that can be told at once.
enum Holder {
    /// Root, or this process's user.
    Own,
    /// Somebody else, or nobody who listens.
    Other,
    /// Somebody who takes nobody in: he is stopped, or the line in front of him is full.
    Silent,
}

fn ask(name: &str) -> Holder {
    let asked = || -> io::Result<u32> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(
            &socket,
            &SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        )?;
        let stream = tokio::net::UnixStream::from_std(UnixStream::from(socket))?;
        Ok(stream.peer_cred()?.uid())
    };
    match asked() {
        Ok(user) if is_own_user(user) => Holder::Own,
        Err(why) if why.kind() == io::ErrorKind::WouldBlock => Holder::Silent,
        Ok(_) | Err(_) => Holder::Other,
    }
}

/// Whether a data directory has this name; `None` where it cannot be read. What another user calls so has not.
fn is_named(dir: &Path, name: &str) -> Option<bool> {
    let kept = disk::read_own_json::<Kept>(&dir.join(KEPT)).ok()?;
    Some(kept.is_some_and(|kept| kept.name == name))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn found(dir: &Path) -> Result<Place, PathBuf> {
        Place::find(&dir.canonicalize().unwrap(), std::iter::empty()).unwrap()
    }

    fn copy(from: &Path, to: &Path) {
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    }

    #[test]
    fn a_copy_is_one_for_as_long_as_its_original_is_there() {
        let all = tempfile::tempdir().unwrap();
        let all = all.path().canonicalize().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| all.join(name));
        std::fs::create_dir(&a).unwrap();
        let mut place = found(&a).unwrap();
        place.keep();
        assert!(found(&a).unwrap().is_kept);
        copy(&a, &b);
        assert_eq!(found(&b).unwrap_err(), a);

        // Whoever works with the one keeps the other from it, wherever both are.
        std::fs::rename(&a, &c).unwrap();
        let moved = found(&c).unwrap();
        assert!(!place.is_there() && moved.is_there());
        let held = moved.hold().unwrap();
        assert!(held.is_some());
        let copied = found(&b).unwrap();
        assert!(copied.hold().unwrap().is_none());
        drop(held);
        assert!(copied.hold().unwrap().is_some());

        // Somebody else's is where it was.
        std::fs::create_dir(&a).unwrap();
        found(&a).unwrap().keep();
        assert!(found(&b).is_ok() && found(&c).is_ok());
        // What cannot be read may have its name.
        std::fs::remove_file(a.join(KEPT)).unwrap();
        std::fs::create_dir(a.join(KEPT)).unwrap();
        assert_eq!(found(&b).unwrap_err(), a);
        // A backup in its place has.
        std::fs::remove_dir_all(&a).unwrap();
        copy(&c, &a);
        assert!(found(&a).is_ok());
        assert_eq!(found(&c).unwrap_err(), a);

        // What runs says where it does.
        let place = found(&a).unwrap();
        let seat = |data: &Path| Seat {
            dir: data.join("runs/n@/j@/0.1.1"),
            seen: data.join("runs/n@/j@/0.1.1"),
        };
        let seats = [&a, &all, &c].map(|data| seat(data));
        assert_eq!(place.beside(seats.into_iter()), Some(c.clone()));
        assert_eq!(place.beside([seat(&a)].into_iter()), None);
        // The one in which something runs is that which is meant, whatever stands where it was.
        let seats = || [seat(&all), seat(&c)].into_iter();
        assert!(Place::find(&c, seats()).unwrap().is_ok());
    }

    #[test]
    fn what_others_put_somewhere_is_neither_believed_nor_waited_for() {
        let all = tempfile::tempdir().unwrap();
        let all = all.path().canonicalize().unwrap();
        let [a, b] = ["a", "b"].map(|name| all.join(name));
        for dir in [&a, &b] {
            std::fs::create_dir(dir).unwrap();
        }
        let mut place = found(&a).unwrap();
        place.keep();
        let kept = a.join(KEPT);
        let other = b.join(KEPT);
        let seat = || Seat {
            dir: b.join("runs/n@/j@/0.1.1"),
            seen: b.join("runs/n@/j@/0.1.1"),
        };
        let beside = || place.beside([seat()].into_iter());

        let mkfifo = Command::new("mkfifo").arg(&other).status();
        assert!(mkfifo.unwrap().success());
        assert_eq!(beside(), None);
        std::fs::remove_file(&other).unwrap();
        std::os::unix::fs::symlink(&kept, &other).unwrap();
        assert_eq!(beside(), None);
        std::fs::remove_file(&other).unwrap();
        std::fs::copy(&kept, &other).unwrap();
        assert_eq!(beside(), Some(b.clone()));
        assert!(found(&a).unwrap().is_kept);
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can give a file to somebody else");
            return;
        }
        std::os::unix::fs::chown(&other, Some(65534), None).unwrap();
        assert_eq!(beside(), None);
        // Nor is what was ours believed, once it is another one's: so it is written anew.
        std::os::unix::fs::chown(&kept, Some(65534), None).unwrap();
        let mut again = found(&a).unwrap();
        assert!(!again.is_kept);
        again.keep();
        assert!(found(&a).unwrap().is_kept);
    }

    #[tokio::test]
    async fn whoever_asks_is_answered_and_who_cannot_be_is_taken_for_one_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let place = found(dir.path()).unwrap();
        let name = format!("orchestrator-agent-{}", place.kept.name);
        let held = place.hold().unwrap().unwrap();
        let asked = (0..100_000).find_map(|_| match ask(&name) {
            Holder::Own => None,
            other => Some(other),
        });
        assert!(matches!(asked, Some(Holder::Silent)));
        assert!(place.hold().unwrap().is_none());
        let answering = tokio::spawn(answer(held));
        while !matches!(ask(&name), Holder::Own) {
            tokio::time::sleep(ANSWER_EACH).await;
        }
        answering.abort();
        assert!(answering.await.unwrap_err().is_cancelled());
        assert!(place.hold().unwrap().is_some());
    }

    #[test]
    fn a_directory_is_the_same_by_another_way_and_a_backup_is_in_its_place() {
        let all = tempfile::tempdir().unwrap();
        let all = all.path().canonicalize().unwrap();
        let [a, link, backup] = ["a", "link", "backup"].map(|name| all.join(name));
        std::fs::create_dir(&a).unwrap();
        found(&a).unwrap().keep();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        assert!(found(&link).is_ok());
        copy(&a, &backup);
        std::fs::remove_dir_all(&a).unwrap();
        std::fs::rename(&backup, &a).unwrap();
        let mut restored = found(&a).unwrap();
        assert!(!restored.is_kept);
        restored.keep();
        assert!(found(&a).unwrap().is_kept);
    }
}
