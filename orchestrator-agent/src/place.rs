//! Where a data directory is: whoever copies one has two, and only one of them may ever work.
//!
//! A directory has a name of its own, which goes along into every copy, and it is written in it where it was last, and
//! which directory of the file system that was. One that was moved is still the same; one that is another, while what has
//! its name is still where it was, is a copy. That an agent works is known by the name too, so that no copy works beside it.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk;

const KEPT: &str = "place.json";

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

/// Where a data directory is, and whether that is new.
#[derive(Debug)]
pub(crate) struct Place {
    kept: Kept,
    /// It was another one, somewhere.
    pub(crate) is_moved: bool,
    is_kept: bool,
}

impl Place {
    /// Where this directory is; or where the one is that it is a copy of.
    pub(crate) fn find(dir: &Path) -> io::Result<Result<Self, PathBuf>> {
        let identity = disk::identity(dir).ok_or(io::ErrorKind::NotFound)?;
        let before = disk::read_or_put_aside::<Kept>(&dir.join(KEPT))?;
        let name = match &before {
            Some(before) => before.name.clone(),
            None => format!("{:032x}", rand::random::<u128>()),
        };
        let is_moved = before.as_ref().is_some_and(|it| it.identity != identity);
        if let Some(before) = before.as_ref().filter(|_| is_moved)
            && disk::identity(&before.dir).is_some_and(|there| there != identity)
            && is_named(&before.dir, &name)
        {
            return Ok(Err(before.dir.clone()));
        }
        let kept = Kept {
            name,
            dir: dir.to_owned(),
            identity,
        };
        Ok(Ok(Self {
            is_kept: before.as_ref() == Some(&kept),
            is_moved,
            kept,
        }))
    }

    /// Writes it down. Until then the next agent finds what this one has found.
    pub(crate) fn keep(&mut self) {
        if self.is_kept {
            return;
        }
        let path = self.kept.dir.join(KEPT);
        match disk::replace_json(&path, &self.kept) {
            Ok(()) => self.is_kept = true,
            Err(why) => {
                tracing::warn!(path = %path.display(), %why, "where the data directory is cannot be written");
            }
        }
    }

    /// Whether it is there still.
    pub(crate) fn is_there(&self) -> bool {
        disk::identity(&self.kept.dir) == Some(self.kept.identity)
    }

    /// For as long as what this returns lives, no other agent on this machine works with this directory or a copy of it;
    /// `None` where one does.
    pub(crate) fn hold(&self) -> io::Result<Option<UnixListener>> {
        let name = format!("orchestrator-agent-{}", self.kept.name);
        let address = SocketAddr::from_abstract_name(name)?;
        match UnixListener::bind_addr(&address) {
            Ok(held) => Ok(Some(held)),
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(why) => Err(why),
        }
    }
}

fn is_named(dir: &Path, name: &str) -> bool {
    let kept = disk::read_json::<Kept>(&dir.join(KEPT));
    // What cannot be read may be.
    kept.map_or(true, |kept| kept.is_some_and(|kept| kept.name == name))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn found(dir: &Path) -> Result<Place, PathBuf> {
        Place::find(&dir.canonicalize().unwrap()).unwrap()
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
        assert!(!place.is_moved);
        place.keep();
        assert!(!found(&a).unwrap().is_moved);
        copy(&a, &b);
        assert_eq!(found(&b).unwrap_err(), a);

        // Whoever works with the one keeps the other from it, wherever both are.
        std::fs::rename(&a, &c).unwrap();
        let moved = found(&c).unwrap();
        assert!(!moved.is_moved, "it is the same directory");
        assert!(!place.is_there() && moved.is_there());
        let held = moved.hold().unwrap();
        assert!(held.is_some());
        let copied = found(&b).unwrap();
        assert!(copied.is_moved);
        assert!(copied.hold().unwrap().is_none());
        drop(held);
        assert!(copied.hold().unwrap().is_some());

        // Somebody else's is where it was.
        std::fs::create_dir(&a).unwrap();
        found(&a).unwrap().keep();
        assert!(found(&b).is_ok() && found(&c).is_ok());
        // What cannot be read may be its own.
        std::fs::create_dir(a.join("x")).unwrap();
        std::fs::remove_file(a.join(KEPT)).unwrap();
        std::fs::create_dir(a.join(KEPT)).unwrap();
        assert_eq!(found(&b).unwrap_err(), a);
        assert!(found(&c).is_ok());
    }

    #[test]
    fn a_directory_is_the_same_by_another_way_and_a_backup_is_in_its_place() {
        let all = tempfile::tempdir().unwrap();
        let all = all.path().canonicalize().unwrap();
        let [a, link, backup] = ["a", "link", "backup"].map(|name| all.join(name));
        std::fs::create_dir(&a).unwrap();
        found(&a).unwrap().keep();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        assert!(!Place::find(&link).unwrap().unwrap().is_moved);
        copy(&a, &backup);
        std::fs::remove_dir_all(&a).unwrap();
        std::fs::rename(&backup, &a).unwrap();
        let mut restored = found(&a).unwrap();
        assert!(restored.is_moved);
        restored.keep();
        assert!(!found(&a).unwrap().is_moved);
    }
}
