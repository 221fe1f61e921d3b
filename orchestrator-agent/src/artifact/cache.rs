//! The artifacts that are on the node.
//!
//! ```text
//! artifacts/<sha256>-<unpack>/
//!   content      what was unpacked, or the file
//!   bytes        its size; the time of this file is that of the last use
//! artifacts/<number>.new/   being made, or being taken away: what an agent finds of those when it begins is nothing
//! ```
//!
//! A directory gets its name when all of it is on the disk. So there is never half of an artifact, wherever the agent or
//! the power is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use flate2::read::MultiGzDecoder;

use super::unpack::{self, on_disk, remove};
use super::{Artifact, Bounds, Failed, Unpack};
use crate::disk;

const CONTENT: &str = "content";
const BYTES: &str = "bytes";
const NEW: &str = "new";

/// The artifacts that are on the node.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    bounds: Bounds,
    /// By the names of their directories.
    kept: BTreeMap<String, Kept>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    bytes: u64,
    used: SystemTime,
}

/// A directory that is gone with this.
#[derive(Debug)]
pub(crate) struct Passing(PathBuf);

impl Drop for Passing {
    fn drop(&mut self) {
        match remove(&self.0) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %self.0.display(), %why, "it cannot be taken away");
            }
            _ => {}
        }
    }
}

/// An artifact that is whole, and not in the cache yet.
#[derive(Debug)]
pub(crate) struct Made {
    passing: Passing,
    bytes: u64,
}

impl Cache {
    /// With what former agents left there.
    pub(crate) fn open(dir: PathBuf, bounds: Bounds) -> io::Result<Self> {
        disk::directory(&dir)?;
        let mut kept = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match Kept::read(&path) {
                Some(found) => {
                    let name = path.file_name().unwrap_or_default();
                    kept.insert(name.to_string_lossy().into_owned(), found);
                }
                None => drop(Passing(path)),
            }
        }
        Ok(Self { dir, bounds, kept })
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Where the artifact is, if it is here.
    pub(crate) fn find(&mut self, artifact: &Artifact) -> Option<PathBuf> {
        let id = artifact.id();
        let content = self.dir.join(&id).join(CONTENT);
        if self.kept.contains_key(&id) && !content.exists() {
            tracing::warn!(artifact = id, "somebody has taken an artifact away");
            self.kept.remove(&id);
            drop(Passing(self.dir.join(&id)));
        }
        self.kept.contains_key(&id).then_some(content)
    }

    /// A place where an artifact can be made. No other ever had its name: who has abandoned one may still be about to take
    /// it away.
    pub(crate) fn place(&self) -> Passing {
        let number: u64 = rand::random();
        Passing(self.dir.join(format!("{number}.{NEW}")))
    }

    /// Takes in what was made.
    pub(crate) fn add(&mut self, artifact: &Artifact, made: Made) -> io::Result<()> {
        let id = artifact.id();
        let Made { passing, bytes } = made;
        // Of two that came by different ways, one is enough.
        if self.find(artifact).is_none() {
            fs::rename(&passing.0, self.dir.join(&id))?;
            let used = SystemTime::now();
            self.kept.insert(id, Kept { bytes, used });
        }
        Ok(())
    }

    /// Lets go of what no run needs and what goes beyond the bounds, those that were used last being kept; the places are
    /// for somebody who has the time to drop them.
    pub(crate) fn clean(&mut self, needed: &BTreeSet<PathBuf>) -> Vec<Passing> {
        let now = SystemTime::now();
        let mut others = Vec::new();
        for (id, kept) in &mut self.kept {
            match needed.contains(&self.dir.join(id).join(CONTENT)) {
                true => kept.mark(now, &self.dir.join(id)),
                false => others.push((kept.used, kept.bytes, id.clone())),
            }
        }
        others.sort_by(|one, other| other.cmp(one));
        let mut bytes = 0_u64;
        let mut gone = Vec::new();
        for (place, (_, size, id)) in others.into_iter().enumerate() {
            bytes = bytes.saturating_add(size);
            if place < self.bounds.kept_max && bytes <= self.bounds.kept_bytes_max {
                continue;
            }
            let passing = self.place();
            match fs::rename(self.dir.join(&id), &passing.0) {
                Ok(()) => gone.push(passing),
                Err(why) => tracing::warn!(artifact = id, %why, "it cannot be taken away"),
            }
            self.kept.remove(&id);
        }
        gone
    }

    /// How many are here, and their size.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let bytes = self.kept.values().map(|kept| kept.bytes).sum();
        (self.kept.len(), bytes)
    }
}

impl Kept {
    fn read(dir: &Path) -> Option<Self> {
        if dir.extension().is_some_and(|ends| ends == NEW) {
            return None;
        }
        let noted = dir.join(BYTES);
        let bytes = fs::read_to_string(&noted).ok()?.parse().ok()?;
        let used = fs::metadata(&noted).ok()?.modified().ok()?;
        Some(Self { bytes, used })
    }

    fn mark(&mut self, now: SystemTime, dir: &Path) {
        self.used = now;
        let file = OpenOptions::new().write(true).open(dir.join(BYTES));
        if let Err(why) = file.and_then(|file| file.set_modified(now)) {
            tracing::warn!(dir = %dir.display(), %why, "that it is used cannot be noted");
        }
    }
}

/// Why nothing was made.
#[derive(Debug)]
pub(super) enum Unmade {
    /// The bytes are not what was promised: others, or not all.
    Hash(String),
    Failed(Failed),
}

impl From<Failed> for Unmade {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

/// Makes an artifact of the bytes that are read. It takes its time.
pub(super) fn make(
    artifact: &Artifact,
    bounds: Bounds,
    passing: Passing,
    source: &mut dyn Read,
    is_abandoned: &dyn Fn() -> bool,
) -> Result<Made, Unmade> {
    let dir = &passing.0;
    disk::directory(dir).map_err(on_disk)?;
    let (content, packed) = (dir.join(CONTENT), dir.join("packed"));
    let mut source = Attended {
        inner: source,
        is_abandoned,
    };
    let mut bytes = keep(artifact, bounds.bytes_max, &mut source, &packed)?;
    if artifact.unpack == Unpack::Not {
        let may_run = fs::Permissions::from_mode(0o555);
        fs::set_permissions(&packed, may_run).map_err(on_disk)?;
        fs::rename(&packed, &content).map_err(on_disk)?;
    } else {
        fs::create_dir(&content).map_err(on_disk)?;
        let file = File::open(&packed).map_err(on_disk)?;
        let file = Attended {
            inner: io::BufReader::with_capacity(64 << 10, file),
            is_abandoned,
        };
        bytes = match artifact.unpack {
            Unpack::TarGz => unpack::unpack(MultiGzDecoder::new(file), &content, bounds)?,
            Unpack::Tar | Unpack::Not => unpack::unpack(file, &content, bounds)?,
        };
        fs::remove_file(&packed).map_err(on_disk)?;
    }
    disk::note(&dir.join(BYTES), bytes.to_string().as_bytes()).map_err(on_disk)?;
    // It gets its name only when all of it would survive a power cut.
    let synced = File::open(dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    synced.map_err(on_disk)?;
    Ok(Made { passing, bytes })
}

/// Writes the bytes to a file, and holds them to what was promised; answers how many they are.
fn keep(
    artifact: &Artifact,
    bytes_max: u64,
    source: &mut dyn Read,
    path: &Path,
) -> Result<u64, Unmade> {
    let mut file = OpenOptions::new();
    let file = file.write(true).create_new(true).mode(0o600);
    let mut file = file.open(path).map_err(on_disk)?;
    let mut context = Context::new(&SHA256);
    let mut bytes = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let read = match source.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(why) => return Err(Failed::Away(format!("it cannot be read: {why}")).into()),
        };
        size += read as u64;
        if size > bytes_max {
            return Err(too_large(bytes_max).into());
        }
        context.update(&bytes[..read]);
        file.write_all(&bytes[..read]).map_err(on_disk)?;
    }
    let digest = context.finish();
    let got: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    if got != artifact.sha256 {
        return Err(Unmade::Hash(format!(
            "its sha256 is {got}, of {size} bytes, and not {}",
            artifact.sha256
        )));
    }
    Ok(size)
}

pub(super) fn too_large(bytes_max: u64) -> Failed {
    Failed::Wrong(format!(
        "it has more than the {bytes_max} bytes that this agent takes"
    ))
}

/// Ends when nobody wants the result any more.
struct Attended<'a, R> {
    inner: R,
    is_abandoned: &'a dyn Fn() -> bool,
}

impl<R: Read> Read for Attended<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match (self.is_abandoned)() {
            true => Err(io::Error::other("nobody wants it any more")),
            false => self.inner.read(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
