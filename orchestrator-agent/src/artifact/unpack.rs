//! Archives, whoever made them: what comes of one is inside of its directory, and within bounds, or it is nothing.
//!
//! - Everything lies below the root, where its name says: no absolute names, no `..`. Nothing is replaced.
//! - Nothing is written through a link. A symbolic link may climb at its beginning, and no higher than the root: what it names
//!   is then inside, whatever other links are on the way. A hard link is another name for a file of the same archive.
//! - Files, directories and links, and nothing else. Whose they are and all bits but that of execution are left behind.
//! - Bytes, entries, names and depth are bounded, and the bytes are counted as they are unpacked.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use super::{Bounds, Failed};

const NAME_BYTES_MAX: usize = 1024;
const DEPTH_MAX: usize = 32;
/// What an entry says about the next one.
const NOTES_BYTES_MAX: u64 = 1 << 20;

/// Unpacks a tar archive into a directory that is there and empty; answers the size of it all.
pub(super) fn unpack(archive: impl Read, root: &Path, bounds: Bounds) -> Result<u64, Failed> {
    let bounded = Bounded {
        inner: archive,
        left: bounds.unpacked_bytes_max,
    };
    let mut archive = Archive::new(bounded);
    let mut unpacked = Unpacked {
        root,
        entries_left: bounds.entries_max,
        bytes: 0,
        last: PathBuf::new(),
    };
    // Raw: else the crate reads notes of any size into memory.
    let entries = archive.entries().map_err(damaged)?.raw(true);
    let mut notes = Notes::default();
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        unpacked.count()?;
        if notes.take(&mut entry)? {
            continue;
        }
        unpacked.add(&mut entry, std::mem::take(&mut notes))?;
    }
    close(root).map_err(on_disk)?;
    Ok(unpacked.bytes)
}

/// Takes away a directory that was closed, or a file, and never what a link leads to.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    each_directory(path, &|dir| {
        fs::set_permissions(dir, Permissions::from_mode(0o700))
    })?;
    fs::remove_dir_all(path)
}

/// Nobody is to write there from now on, and everybody may read.
fn close(root: &Path) -> io::Result<()> {
    each_directory(root, &|dir| {
        fs::set_permissions(dir, Permissions::from_mode(0o555))
    })
}

fn each_directory(dir: &Path, act: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    act(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_directory(&entry.path(), act)?;
        }
    }
    Ok(())
}

struct Unpacked<'a> {
    root: &'a Path,
    /// Directories count, also those that only a longer name speaks of.
    entries_left: usize,
    bytes: u64,
    /// The directory that was made sure of last.
    last: PathBuf,
}

impl Unpacked<'_> {
    fn count(&mut self) -> Result<(), Failed> {
        let left = self.entries_left.checked_sub(1);
        let many = || wrong("it has more entries than are allowed".to_owned());
        self.entries_left = left.ok_or_else(many)?;
        Ok(())
    }

    fn add(&mut self, entry: &mut Entry<impl Read>, notes: Notes) -> Result<(), Failed> {
        let name = notes.path.unwrap_or_else(|| entry.path_bytes().into());
        let shown = || format!("{:?}", String::from_utf8_lossy(&name));
        let at = |why: String| wrong(format!("{}: {why}", shown()));
        let place = place(&name).map_err(at)?;
        if notes.size.is_some_and(|size| size != entry.size()) {
            return Err(at("its size is said twice, and differently".to_owned()));
        }
        let kind = entry.header().entry_type();
        // An old form of archive has no other word for a directory.
        let is_directory = kind.is_dir() || kind.is_file() && name.ends_with(b"/");
        if is_directory {
            return self.directory(&place);
        }
        let (Some(parent), false) = (place.parent(), notes.is_sparse) else {
            return Err(at("a sparse file, or none".to_owned()));
        };
        self.directory(parent)?;
        let path = self.root.join(&place);
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                self.file(entry, &path).map_err(|failed| match failed {
                    Failed::Wrong(why) => at(why),
                    away @ Failed::Away(_) => away,
                })
            }
            EntryType::Symlink | EntryType::Link => {
                let link = notes
                    .link
                    .or_else(|| entry.link_name_bytes().map(Vec::from))
                    .unwrap_or_default();
                let made = match kind {
                    EntryType::Symlink => self.symbolic(&place, &link),
                    _ => self.hard(&path, &link),
                };
                made.map_err(|why| {
                    let link = String::from_utf8_lossy(&link);
                    at(format!("a link to {link:?}: {why}"))
                })
            }
            other => Err(at(format!(
                "neither file, directory nor link, but of type {:?}",
                char::from(other.as_byte())
            ))),
        }
    }

    /// Makes a directory and those that it is in. None of them is a link.
    fn directory(&mut self, place: &Path) -> Result<(), Failed> {
        if self.last == place {
            return Ok(());
        }
        let mut path = self.root.to_owned();
        for part in place.components() {
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) => self.count()?,
                Err(why) if why.kind() == ErrorKind::AlreadyExists => {
                    let is_directory = fs::symlink_metadata(&path).is_ok_and(|what| what.is_dir());
                    if !is_directory {
                        let place = place.display();
                        return Err(wrong(format!(
                            "\"{place}\": a file or a link is in the way"
                        )));
                    }
                }
                Err(why) => return Err(refused(why)),
            }
        }
        place.clone_into(&mut self.last);
        Ok(())
    }

    fn file(&mut self, entry: &mut Entry<impl Read>, path: &Path) -> Result<(), Failed> {
        let may_run = entry.header().mode().unwrap_or(0) & 0o111 != 0;
        let mut file = OpenOptions::new();
        let file = file.write(true).create_new(true).mode(0o600);
        let mut file = file.open(path).map_err(refused)?;
        let wanted = entry.size();
        let mut bytes = vec![0; 64 << 10];
        let mut copied = 0;
        loop {
            let read = entry.read(&mut bytes).map_err(damaged)?;
            if read == 0 {
                break;
            }
            io::Write::write_all(&mut file, &bytes[..read]).map_err(on_disk)?;
            copied += read as u64;
        }
        if copied < wanted {
            return Err(wrong("the archive ends in the middle of it".to_owned()));
        }
        self.bytes += copied;
        let mode = if may_run { 0o555 } else { 0o444 };
        file.set_permissions(Permissions::from_mode(mode))
            .map_err(on_disk)
    }

    /// What a link names is inside: its own directory is a real one, so that climbing from there leads to real ones; and
    /// from there on every step is into a real directory or through another link like this.
    fn symbolic(&self, place: &Path, link: &[u8]) -> Result<(), String> {
        let target = Path::new(OsStr::from_bytes(link));
        let depth = place.components().count() - 1;
        let mut climbed = 0;
        let mut is_down = false;
        for part in target.components() {
            match part {
                Component::CurDir => {}
                Component::Normal(_) => is_down = true,
                Component::ParentDir if is_down => {
                    return Err("'..' only at its beginning".to_owned());
                }
                Component::ParentDir => climbed += 1,
                Component::RootDir | Component::Prefix(_) => {
                    return Err("it leads out of the archive".to_owned());
                }
            }
        }
        if climbed > depth {
            return Err("it leads out of the archive".to_owned());
        }
        if link.len() > NAME_BYTES_MAX {
            return Err(format!("longer than {NAME_BYTES_MAX} bytes"));
        }
        let made = std::os::unix::fs::symlink(target, self.root.join(place));
        made.map_err(|why| why.to_string())
    }

    fn hard(&self, path: &Path, link: &[u8]) -> Result<(), String> {
        let target = self.root.join(place(link)?);
        // Another name for a link would climb from another place.
        let is_file = fs::symlink_metadata(&target).is_ok_and(|what| what.is_file());
        let inside = is_file && {
            let whole = target.canonicalize().map_err(|why| why.to_string())?;
            let root = self.root.canonicalize().map_err(|why| why.to_string())?;
            whole.starts_with(root)
        };
        if !inside {
            return Err("there is no such file before it in the archive".to_owned());
        }
        fs::hard_link(target, path).map_err(|why| why.to_string())
    }
}

/// Where something of this name lies, from the root.
fn place(name: &[u8]) -> Result<PathBuf, String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("a name of more than {NAME_BYTES_MAX} bytes"));
    }
    let mut place = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => place.push(part),
            Component::ParentDir => return Err("it climbs out of the archive".to_owned()),
            Component::RootDir | Component::Prefix(_) => {
                return Err("an absolute path".to_owned());
            }
        }
    }
    match place.components().count() > DEPTH_MAX {
        true => Err(format!("more than {DEPTH_MAX} directories deep")),
        false => Ok(place),
    }
}

/// What entries say about the next one that is none of these notes.
#[derive(Default)]
struct Notes {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
}

impl Notes {
    /// Answers whether the entry was such a note.
    fn take(&mut self, entry: &mut Entry<impl Read>) -> Result<bool, Failed> {
        let kind = entry.header().entry_type();
        let is_note = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if !is_note || kind.is_pax_global_extensions() {
            return Ok(is_note);
        }
        if entry.size() > NOTES_BYTES_MAX {
            return Err(wrong(format!(
                "a name or a note of more than {NOTES_BYTES_MAX} bytes"
            )));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(damaged)?;
        if kind.is_pax_local_extensions() {
            self.records(&text)
                .ok_or_else(|| wrong("a note that cannot be read".to_owned()))?;
            return Ok(true);
        }
        let end = text.iter().position(|byte| *byte == 0);
        text.truncate(end.unwrap_or(text.len()));
        match kind.is_gnu_longname() {
            true => self.path = Some(text),
            false => self.link = Some(text),
        }
        Ok(true)
    }

    /// Records such as `18 path=some/file\n`, where the number is the length of it all.
    fn records(&mut self, mut text: &[u8]) -> Option<()> {
        while !text.is_empty() {
            let digits = text.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
            let record = text.get(digits + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => self.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                key => self.is_sparse |= key.starts_with(b"GNU.sparse."),
            }
            text = &text[length..];
        }
        Some(())
    }
}

/// Reads no more than so many bytes; more is an error.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other("unpacked, it is larger than is allowed")),
        }
        Ok(read)
    }
}

fn wrong(why: String) -> Failed {
    Failed::Wrong(format!("the archive is refused: {why}"))
}

/// What reading the archive came to.
fn damaged(why: io::Error) -> Failed {
    wrong(why.to_string())
}

/// What the disk said to a name of the archive's.
fn refused(why: io::Error) -> Failed {
    match why.kind() {
        ErrorKind::AlreadyExists => wrong("it is there twice".to_owned()),
        // One with a zero byte is none at all.
        ErrorKind::InvalidFilename | ErrorKind::InvalidInput => {
            wrong("no file can have this name".to_owned())
        }
        _ => on_disk(why),
    }
}

pub(super) fn on_disk(why: io::Error) -> Failed {
    Failed::Away(format!("it cannot be written to this node's disk: {why}"))
}

#[cfg(test)]
mod tests;
