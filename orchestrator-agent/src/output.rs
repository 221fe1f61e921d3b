//! What a workload writes: files with a bound, in which every byte keeps its position in all that was ever written.
//!
//! ```text
//! stdout.log          the newest
//! stdout.log.65536    older: it ends at this position, and what is newer begins there
//! ```
//!
//! The names alone say where everything is, also while a file is put aside and where the writer was killed. So a reader
//! goes on after any position, and sees how much is gone.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::disk;
use crate::wire::Stream;

/// While a file is put aside its reader looks again; so often at the most.
const LOOKS_MAX: usize = 8;

fn newest(dir: &Path, stream: Stream) -> PathBuf {
    dir.join(format!("{}.log", stream.as_str()))
}

fn older(newest: &Path, end: u64) -> PathBuf {
    newest.with_extension(format!("log.{end}"))
}

/// Writes one stream: so many files, of so many bytes each. The newest bytes are kept.
pub(crate) struct Writer {
    path: PathBuf,
    bytes_max: u64,
    files_max: usize,
    /// Where the newest file begins.
    begin: u64,
    /// With how many bytes were to be in it.
    file: Option<(File, u64)>,
    /// Where the older ones end.
    older: VecDeque<u64>,
}

impl Writer {
    pub(crate) fn new(dir: &Path, stream: Stream, bytes_max: u64, files_max: u32) -> Self {
        Self {
            path: newest(dir, stream),
            bytes_max,
            files_max: files_max.max(1) as usize,
            begin: 0,
            file: None,
            older: VecDeque::new(),
        }
    }

    /// Goes on where a former writer was.
    pub(crate) fn reopen(
        dir: &Path,
        stream: Stream,
        bytes_max: u64,
        files_max: u32,
    ) -> io::Result<Self> {
        let mut writer = Self::new(dir, stream, bytes_max, files_max);
        writer.older = older_ends(dir, stream)?.into();
        writer.begin = writer.older.back().copied().unwrap_or(0);
        // Whoever opens a pipe waits.
        let file = match disk::is_no_file(&writer.path) {
            true => None,
            false => present(OpenOptions::new().append(true).open(&writer.path))?,
        };
        if let Some(file) = file {
            let len = file.metadata()?.len();
            writer.file = Some((file, len));
        }
        Ok(writer)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        if let Some((file, written)) = self.file.take_if(|(_, had)| *had + len > self.bytes_max) {
            // What the disk had no room for was not written.
            self.turn(file.metadata().map_or(written, |file| file.len()));
        }
        if self.file.is_none() {
            let mut file = OpenOptions::new();
            let file = file.write(true).create(true).truncate(true).mode(0o600);
            self.file = Some((file.open(&self.path)?, 0));
        }
        let (file, written) = self.file.as_mut().expect("it was opened");
        *written += len;
        file.write_all(bytes)
    }

    /// Puts the newest file aside, which has so many bytes.
    fn turn(&mut self, len: u64) {
        let end = self.begin + len;
        let aside = older(&self.path, end);
        if fs::rename(&self.path, &aside).is_err() {
            return;
        }
        self.begin = end;
        self.older.push_back(end);
        // One stays for its name, though nothing is to be kept of it.
        while self.older.len() > (self.files_max - 1).max(1) {
            let oldest = self.older.pop_front().expect("there are several");
            let _ = fs::remove_file(older(&self.path, oldest));
        }
        if self.files_max == 1 {
            let _ = File::create(aside);
        }
    }
}

/// Changes with every write.
pub(crate) type Mark = (u64, u64, i64, i64);

/// `None` where nothing was written, or a file is put aside just now.
pub(crate) fn mark(dir: &Path, stream: Stream) -> Option<Mark> {
    let file = fs::metadata(newest(dir, stream)).ok()?;
    Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

/// The last part of one stream, as it was at one moment.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Where each file begins and ends, oldest first, without a gap.
    files: Vec<(u64, u64, File)>,
    end: u64,
}

impl Tail {
    /// Opens this many bytes before the end, and perhaps more.
    pub(crate) fn open(dir: &Path, stream: Stream, back: u64) -> io::Result<Self> {
        let path = newest(dir, stream);
        let mut ends = older_ends(dir, stream)?;
        for _ in 0..LOOKS_MAX {
            let newest = disk::open_file(&path)?;
            let now = older_ends(dir, stream)?;
            if now == ends {
                return Self::of(&path, &ends, newest, back);
            }
            ends = now;
        }
        // It is being written faster than it can be looked at. Another time.
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn of(path: &Path, ends: &[u64], newest: Option<File>, back: u64) -> io::Result<Self> {
        let mut files = Vec::new();
        let mut begin = ends.last().copied().unwrap_or(0);
        let mut end = begin;
        if let Some(file) = newest {
            end += file.metadata()?.len();
            files.push((begin, end, file));
        }
        for &older_end in ends.iter().rev() {
            if end - begin >= back || older_end != begin {
                break;
            }
            let Some(file) = disk::open_file(&older(path, older_end))? else {
                break;
            };
            let Some(older_begin) = older_end.checked_sub(file.metadata()?.len()) else {
                break;
            };
            files.push((older_begin, older_end, file));
            begin = older_begin;
        }
        files.reverse();
        Ok(Self { files, end })
    }

    /// The position after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// So many bytes after a position, or after a later one where those are gone; with the position at which they begin.
    pub(crate) fn read(&mut self, from: u64, most: usize) -> io::Result<(u64, Vec<u8>)> {
        let mut bytes = Vec::new();
        let first = self.files.first().map_or(self.end, |(begin, ..)| *begin);
        let from = from.max(first);
        for (begin, end, file) in &mut self.files {
            let at = from + bytes.len() as u64;
            let room = most - bytes.len();
            if at < *begin || at >= *end || room == 0 {
                continue;
            }
            file.seek(SeekFrom::Start(at - *begin))?;
            let len = (*end - at).min(room as u64);
            Read::by_ref(file).take(len).read_to_end(&mut bytes)?;
        }
        Ok((from, bytes))
    }
}

fn older_ends(dir: &Path, stream: Stream) -> io::Result<Vec<u64>> {
    let prefix = format!("{}.log.", stream.as_str());
    let mut ends = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let end = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        ends.extend(end.and_then(|end| end.parse::<u64>().ok()));
    }
    ends.sort_unstable();
    Ok(ends)
}

/// `None` where there is no such file.
fn present(opened: io::Result<File>) -> io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 8] = [
        "aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "gggg", "hhhh",
    ];

    fn written(files_max: u32, words: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path(), Stream::Stdout, 10, files_max);
        for word in words {
            writer.write(word.as_bytes()).unwrap();
        }
        dir
    }

    fn read(dir: &Path, from: u64, most: usize) -> (u64, String) {
        let mut tail = Tail::open(dir, Stream::Stdout, u64::MAX).unwrap();
        let (begin, bytes) = tail.read(from, most).unwrap();
        (begin, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn output_is_bounded_and_the_newest_is_kept() {
        let dir = written(3, &WORDS);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("stdout.log"), "gggghhhh");
        assert_eq!(read("stdout.log.24"), "eeeeffff");
        assert_eq!(read("stdout.log.16"), "ccccdddd");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn another_writer_goes_on_where_the_first_was() {
        for files_max in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            for word in WORDS {
                let writer = Writer::reopen(dir.path(), Stream::Stdout, 10, files_max);
                writer.unwrap().write(word.as_bytes()).unwrap();
            }
            let at_once = written(files_max, &WORDS);
            assert_eq!(read(dir.path(), 0, 100), read(at_once.path(), 0, 100));
        }
    }

    #[test]
    fn a_reader_goes_on_anywhere_and_sees_what_is_gone() {
        let dir = written(3, &WORDS);
        let all: String = WORDS.concat();
        for from in 8..=32 {
            for most in [1, 7, 100] {
                let (begin, text) = read(dir.path(), from, most);
                assert_eq!(begin, from);
                assert!(!text.is_empty() || from == 32);
                assert!(all[from as usize..].starts_with(&text) && text.len() <= most);
            }
        }
        assert_eq!(read(dir.path(), 3, 100), (8, all[8..].to_owned()));
        // No more than was asked for is opened.
        let tail = Tail::open(dir.path(), Stream::Stdout, 9).unwrap();
        assert_eq!((tail.files.len(), tail.end()), (2, 32));
    }

    #[test]
    fn of_one_file_the_position_is_known_too() {
        let dir = written(1, &WORDS[..5]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(read(dir.path(), 0, 100), (16, "eeee".to_owned()));
    }

    #[test]
    fn where_the_writer_was_killed_while_it_put_a_file_aside_nothing_moves() {
        let dir = written(3, &WORDS[..3]);
        let newest = newest(dir.path(), Stream::Stdout);
        fs::rename(&newest, older(&newest, 12)).unwrap();
        assert_eq!(read(dir.path(), 6, 100), (6, "bbcccc".to_owned()));
        assert_eq!(mark(dir.path(), Stream::Stdout), None);
    }

    #[test]
    fn nothing_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), 0, 10), (0, String::new()));
    }
}
