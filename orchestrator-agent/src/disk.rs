//! Files that are whole or not there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest file that is read.
const BYTES_MAX: u64 = 64 << 20;

/// Writes a file in place of the former one: after a crash it is one or the other. Nobody else may read it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, true)
}

/// The same for what need not survive a power cut: no process does.
pub(crate) fn note(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, false)
}

fn write(path: &Path, bytes: &[u8], lasting: bool) -> io::Result<()> {
    let new = path.with_extension("new");
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
}

pub(crate) fn replace_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value)?)
}

pub(crate) fn note_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    note(path, &serde_json::to_vec(value)?)
}

/// `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why),
    };
    Ok(Some(serde_json::from_slice(&bytes)?))
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
}

/// Holds a file for as long as what it returns lives, and no longer than this process; `None` where another does.
pub(crate) fn hold(path: &Path) -> io::Result<Option<File>> {
    let mut file = OpenOptions::new();
    let file = file.read(true).write(true).create(true).truncate(false);
    let file = file.mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(why)) => Err(why),
    }
}
