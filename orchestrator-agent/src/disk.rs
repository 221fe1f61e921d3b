//! Files that are whole or not there.

use std::ffi::CStr;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat, openat2, unlinkat};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::processes;

/// The longest file that is read.
pub(crate) const BYTES_MAX: u64 = 64 << 20;
/// The longest text that is read.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// The deepest directory that is taken away: each level costs an open file.
const DEPTH_MAX: u32 = 512;

/// Writes a file in place of the former one: after a crash it is one or the other. Nobody else may read it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, true)
}

/// The same for what is of no use after a power cut, and may be found empty then.
pub(crate) fn note(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, false)
}

fn write(path: &Path, bytes: &[u8], lasting: bool) -> io::Result<()> {
    let new = path.with_extension("new");
    let written = || {
        // Whoever opens a pipe waits.
        if is_no_file(&new) {
            fs::remove_file(&new)?;
        }
        let mut file = OpenOptions::new();
        let file = file.write(true).create(true).truncate(true).mode(0o600);
        let mut file = file.open(&new)?;
        file.write_all(bytes)?;
        if lasting {
            file.sync_all()?;
        }
        fs::rename(&new, path)?;
        if lasting {
            let dir = path.parent().expect("a file is in a directory");
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    written().map_err(|why| of(path, &why))
}

/// The same error, and of which file it is said.
pub(crate) fn of(path: &Path, why: &io::Error) -> io::Error {
    io::Error::new(why.kind(), format!("{}: {why}", path.display()))
}

/// Why a file is not read that a person has named, as people say it.
pub(crate) fn unread(why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => why.to_string(),
    }
}

pub(crate) fn replace_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value)?)
}

pub(crate) fn note_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    note(path, &serde_json::to_vec(value)?)
}

/// Sees to it that something as long as this can be written later, also where the disk is full by then.
pub(crate) fn reserve(path: &Path, bytes: usize) -> io::Result<()> {
    note(&path.with_extension("room"), &vec![b' '; bytes])
}

/// Whether so much can be written into this directory now, and so many files.
pub(crate) fn has_room(dir: &Path, bytes: usize, files: u64) -> io::Result<()> {
    let found = rustix::fs::statvfs(dir)?;
    // Some file systems do not count them.
    if found.f_files > 0 && found.f_favail < files {
        let why = format!("no room for {files} more files");
        return Err(io::Error::new(io::ErrorKind::StorageFull, why));
    }
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file).write_all(&vec![0; bytes]),
        // A file system that knows no files without a name: that shows when something is written.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

/// The same as [`replace_json`], in the room that was [reserved](reserve), where that is enough.
pub(crate) fn replace_json_in_room<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let room = path.with_extension("room");
    let in_room = || {
        let mut file = OpenOptions::new().write(true).open(&room)?;
        if file.metadata()?.len() < bytes.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // What is left of the room is blanks.
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&room, path)
    };
    in_room().or_else(|_| replace(path, &bytes))
}

/// `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let opened = open(path, OFlags::empty());
    let read = |file: Option<File>| file.map(parse).transpose();
    opened.and_then(read).map_err(|why| of(path, &why))
}

/// The same in a place that anybody may have made; `None` also where the file is not one that root or this process's user
/// has put there.
pub(crate) fn read_own_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let is_own = |found: io::Result<Metadata>| found.map(|it| processes::is_own_user(it.uid()));
    let dir = path.parent().expect("a file is in a directory");
    // Nor is it a fault of ours if it cannot be read. A directory that can be passed may be anybody's.
    let found = match fs::symlink_metadata(path) {
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => fs::metadata(dir),
        found => found,
    };
    if matches!(is_own(found), Ok(false)) {
        return Ok(None);
    }
    let opened = match open(path, OFlags::NOFOLLOW) {
        Err(why) if why.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(None),
        opened => opened,
    };
    let read = |file: Option<File>| {
        let Some(file) = file else {
            return Ok(None);
        };
        let is_own = is_own(file.metadata())?;
        is_own.then(|| parse(file)).transpose()
    };
    opened.and_then(read).map_err(|why| of(path, &why))
}

/// Never waits: somebody may have put a pipe there.
fn open(path: &Path, flags: OFlags) -> io::Result<Option<File>> {
    let flags = (flags | OFlags::NONBLOCK).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    match opened {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn parse<T: DeserializeOwned>(file: File) -> io::Result<T> {
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// A file to be read; `None` where there is nothing. Of what is none it is said so, and it is not waited for.
pub(crate) fn open_file(path: &Path) -> io::Result<Option<File>> {
    let Some(file) = open(path, OFlags::empty())? else {
        return Ok(None);
    };
    match file.metadata()?.is_file() {
        true => Ok(Some(file)),
        false => Err(io::Error::other("it is no file")),
    }
}

/// The text of a file, as far as it is read; `None` where there is none.
pub(crate) fn read_text(path: &Path) -> io::Result<Option<String>> {
    let read = |file: File| {
        let mut bytes = Vec::new();
        file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let read = open_file(path).and_then(|file| file.map(read).transpose());
    read.map_err(|why| of(path, &why))
}

/// Whether what is there, and could not be read for this reason, is no file that was written whole: after a power cut or a
/// full disk, or somebody has put something else there.
pub(crate) fn is_damaged(path: &Path, why: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    matches!(why.kind(), InvalidData | UnexpectedEof) || is_no_file(path)
}

/// Whether something else is there than a file.
pub(crate) fn is_no_file(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(found) => !found.is_file(),
        // A link to itself.
        Err(why) => why.raw_os_error() == Some(Errno::LOOP.raw_os_error()),
    }
}

/// The same as [`read_json`] of what can be had again: what is damaged is put aside and counts as not there.
pub(crate) fn read_or_put_aside<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match read_json(path) {
        Err(why) if is_damaged(path, &why) => {
            tracing::error!(%why, "a damaged file is put aside");
            put_aside(path).map(|()| None)
        }
        read => read,
    }
}

/// Gives what is there another name, in place of what was put aside before.
pub(crate) fn put_aside(path: &Path) -> io::Result<()> {
    let aside = path.with_extension("damaged");
    let put = match fs::symlink_metadata(&aside).is_ok_and(|found| found.is_dir()) {
        true => remove_directory(&aside),
        false => fs::remove_file(&aside).or_else(|why| match why.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(why),
        }),
    };
    put.and_then(|()| fs::rename(path, &aside))
        .map_err(|why| of(path, &why))
}

/// Takes away a directory and all that is in it, but nothing of another file system, nor of a directory that is
/// mounted there: what a workload has mounted is not ours. No link is followed, whoever makes one meanwhile.
pub(crate) fn remove_directory(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    let device = rustix::fs::fstat(&dir)?.st_dev;
    clear(&dir, device, DEPTH_MAX).map_err(|why| {
        let kind = io::Error::from(why).kind();
        let mounted = matches!(why, Errno::XDEV | Errno::BUSY);
        let hint = if mounted {
            "something is mounted in it: unmount that"
        } else {
            "it cannot be emptied"
        };
        io::Error::new(kind, format!("{}: {hint}: {why}", path.display()))
    })?;
    fs::remove_dir(path)
}

fn clear(dir: &OwnedFd, device: u64, depth: u32) -> Result<(), Errno> {
    let deeper = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(Errno::NOENT) => continue,
            removed => {
                removed?;
                continue;
            }
        }
        clear(&enter(dir, name, device)?, device, deeper)?;
        unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// A directory in another one, if nothing is mounted on it.
fn enter(dir: &OwnedFd, name: &CStr, device: u64) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
    let child = match openat2(dir, name, flags, Mode::empty(), here) {
        // A kernel before 5.6, or a sandbox that knows no newer one: a mount of the same file system is not seen.
        Err(Errno::NOSYS | Errno::PERM) => openat(dir, name, flags, Mode::empty())?,
        opened => opened?,
    };
    if rustix::fs::fstat(&child)?.st_dev != device {
        return Err(Errno::XDEV);
    }
    Ok(child)
}

/// What some bytes amount to, the same for every version of this program (FNV-1a). A single byte that is another changes it.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}

/// Makes a directory, and those that it is in. Others may pass through, to what they are given, and see nothing.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|why| of(path, &why))
}

/// Which file this is, however it is reached; `None` where there is none.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Holds a file for as long as what it returns lives, and no longer than this process; `None` where another does.
pub(crate) fn hold(path: &Path) -> io::Result<Option<File>> {
    let mut file = OpenOptions::new();
    let file = file.read(true).write(true).create(true).truncate(false);
    let file = file.mode(0o600).open(path);
    let file = file.map_err(|why| of(path, &why))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(why)) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_directory_goes_with_all_that_is_in_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (gone, kept) = (dir.path().join("gone"), dir.path().join("kept"));
        fs::create_dir_all(gone.join("a/b/c")).unwrap();
        fs::create_dir(&kept).unwrap();
        for path in [
            gone.join("a/file"),
            gone.join("a/b/c/file"),
            kept.join("file"),
        ] {
            fs::write(path, "x").unwrap();
        }
        symlink(&kept, gone.join("a/link")).unwrap();
        remove_directory(&gone).unwrap();
        assert!(!gone.exists());
        assert!(kept.join("file").exists());

        let mut deep = gone.clone();
        fs::create_dir(&deep).unwrap();
        for _ in 0..=DEPTH_MAX {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
        }
        let why = remove_directory(&gone).unwrap_err().to_string();
        assert!(why.contains("cannot be emptied"), "{why}");
        let why = remove_directory(&gone.join("nothing")).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_mounted_in_a_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (gone, kept) = (dir.path().join("gone"), dir.path().join("kept"));
        fs::create_dir_all(gone.join("work/data")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("precious"), "x").unwrap();
        let at = gone.join("work/data");
        let mounted = Command::new("mount")
            .arg("--bind")
            .args([&kept, &at])
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("skipped: nothing can be mounted here");
            return;
        }
        let removed = remove_directory(&gone);
        let left = kept.join("precious").exists();
        let unmounted = Command::new("umount").arg(&at).status().unwrap();
        assert!(unmounted.success() && left);
        let why = removed.unwrap_err().to_string();
        assert!(why.contains("something is mounted in it"), "{why}");
        remove_directory(&gone).unwrap();
        assert!(!gone.exists() && kept.join("precious").exists());
    }

    #[test]
    fn what_is_damaged_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.json");
        for damaged in ["", "{", "\"x\""] {
            fs::write(&path, damaged).unwrap();
            assert!(read_json::<u32>(&path).is_err());
            assert_eq!(read_or_put_aside::<u32>(&path).unwrap(), None);
            assert!(!path.exists());
            assert_eq!(
                fs::read_to_string(dir.path().join("numbers.damaged")).unwrap(),
                damaged
            );
        }
        replace_json(&path, &7).unwrap();
        assert_eq!(read_or_put_aside::<u32>(&path).unwrap(), Some(7));
    }
}
