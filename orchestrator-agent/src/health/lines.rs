//! Requests and failures, counted by the lines that a workload writes.
//!
//! A pattern is a regular expression for a part of a line, such as ` 5[0-9][0-9] ` or `level=(error|fatal)`. A plain text would
//! be simpler, but where a line has many numbers, as a proxy's has, none finds the status. Without a look back or around,
//! it takes time in proportion to the line, whatever is in it.
//!
//! The files of the output are read by position, so that no byte counts twice. How far it is, is not kept: with a run
//! that was there before, it begins at the end.

use std::io;
use std::path::{Path, PathBuf};

use regex_lite::{Regex, RegexBuilder};

use crate::output::{self, Mark, Tail};
use crate::wire::Stream;

/// The longest pattern.
const PATTERN_BYTES_MAX: usize = 200;
/// What a pattern may become in memory: `(a{99}){99}` is short as well.
const COMPILED_BYTES_MAX: usize = 64 << 10;
/// So much of a line is looked at.
const LINE_BYTES_MAX: usize = 8 << 10;
/// So much of a stream is read in one look. What is further behind is left out.
const LOOK_BYTES_MAX: u64 = 2 << 20;
/// At once.
const READ_BYTES: usize = 64 << 10;

/// What requests and failures look like.
#[derive(Clone, Debug)]
pub struct Patterns {
    requests: Regex,
    failed: Regex,
}

impl Patterns {
    /// Reads both; else the sentence that says what is wrong with one.
    pub fn read(requests: &str, failed: &str) -> Result<Self, String> {
        Ok(Self {
            requests: pattern(requests).map_err(|why| format!("requests: {why}"))?,
            failed: pattern(failed).map_err(|why| format!("failed: {why}"))?,
        })
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
        return Err(format!("a pattern has 1 to {PATTERN_BYTES_MAX} bytes"));
    }
    let mut pattern = RegexBuilder::new(text);
    let read = pattern.size_limit(COMPILED_BYTES_MAX).build();
    read.map_err(|why| format!("{text:?} is no pattern, such as \" 5[0-9][0-9] \": {why}"))
}

/// What was found in one look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Found {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// There was more, which nobody has looked at.
    pub(crate) is_in_part: bool,
}

/// The output of one run.
#[derive(Debug)]
pub(crate) struct Lines {
    dir: PathBuf,
    patterns: Patterns,
    streams: [Reading; 2],
}

/// One stream of it.
#[derive(Debug)]
struct Reading {
    stream: Stream,
    /// Up to here it was looked at.
    position: u64,
    /// As it was then.
    mark: Option<Mark>,
    /// What is there of the line that has no end yet; `None` where its beginning is not known.
    line: Option<Vec<u8>>,
}

impl Lines {
    /// Of a run that has just been started, all that it writes; of another, what comes from now on.
    pub(crate) fn new(dir: &Path, patterns: Patterns, is_fresh: bool) -> Self {
        let streams = Stream::ALL.map(|stream| Reading {
            stream,
            // Beyond any end: the first look goes to where that is.
            position: if is_fresh { 0 } else { u64::MAX },
            mark: None,
            line: Some(Vec::new()),
        });
        Self {
            dir: dir.to_owned(),
            patterns,
            streams,
        }
    }

    /// Counts what was written since the last look.
    pub(crate) fn look(&mut self) -> Found {
        let mut found = Found::default();
        for reading in &mut self.streams {
            if let Err(why) = reading.look(&self.dir, &self.patterns, &mut found) {
                // It is gone, or written too fast just now. Another time.
                let dir = self.dir.display();
                tracing::debug!(%dir, %why, "no lines can be counted");
            }
        }
        found
    }
}

impl Reading {
    /// Goes on at another position, which may be anywhere in a line.
    fn skip(&mut self, position: u64) {
        // The byte before it says whether a line begins there.
        self.position = position.saturating_sub(1);
        self.line = (position == 0).then(Vec::new);
    }

    fn look(&mut self, dir: &Path, patterns: &Patterns, found: &mut Found) -> io::Result<()> {
        let mark = output::mark(dir, self.stream);
        if mark.is_some() && mark == self.mark {
            return Ok(());
        }
        let mut tail = Tail::open(dir, self.stream, LOOK_BYTES_MAX)?;
        let end = tail.end();
        if self.position > end {
            // Or somebody has cut the file short, and what is there may have been counted.
            self.skip(end);
        }
        if end - self.position > LOOK_BYTES_MAX {
            found.is_in_part = true;
            self.skip(end - LOOK_BYTES_MAX);
        }
        while self.position < end {
            let (begin, bytes) = tail.read(self.position, READ_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            if begin > self.position {
                found.is_in_part = true;
                self.line = None;
            }
            self.position = begin + bytes.len() as u64;
            self.take(&bytes, patterns, found);
        }
        self.mark = mark;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], patterns: &Patterns, found: &mut Found) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if let Some(line) = &mut self.line {
                let room = LINE_BYTES_MAX - line.len();
                line.extend_from_slice(&part[..part.len().min(room)]);
            }
            if !part.ends_with(b"\n") {
                return;
            }
            let line = self.line.get_or_insert_default();
            let text = String::from_utf8_lossy(line);
            let text = text.trim_end_matches(['\r', '\n']);
            // Of one whose beginning is not known nothing is left but this.
            if !text.is_empty() {
                found.requests += u64::from(patterns.requests.is_match(text));
                found.failed += u64::from(patterns.failed.is_match(text));
            }
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Writer;

    fn lines(dir: &Path, is_fresh: bool) -> Lines {
        let patterns = Patterns::read("\" [1-5][0-9][0-9] ", "\" 5[0-9][0-9] ").unwrap();
        Lines::new(dir, patterns, is_fresh)
    }

    fn writer(dir: &Path, stream: Stream) -> Writer {
        Writer::new(dir, stream, 1 << 20, 2)
    }

    fn counted(lines: &mut Lines) -> (u64, u64) {
        let found = lines.look();
        assert!(!found.is_in_part);
        (found.requests, found.failed)
    }

    #[test]
    fn patterns_are_short_and_small() {
        let wrong = ["", "5[0-9", "(?=x)", "(a{99}){99}", &"x".repeat(201)];
        for wrong in wrong {
            let why = Patterns::read("x", wrong).unwrap_err();
            assert!(
                why.starts_with("failed: ") && why.contains("pattern"),
                "{why}"
            );
        }
        assert!(Patterns::read(&"x".repeat(200), "level=(error|fatal)").is_ok());
    }

    #[test]
    fn each_line_of_both_streams_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut lines = lines(dir.path(), true);
        assert_eq!(counted(&mut lines), (0, 0), "nothing is written");
        let mut out = writer(dir.path(), Stream::Stdout);
        let mut err = writer(dir.path(), Stream::Stderr);
        out.write(b"it begins\r\n\"GET / HTTP/1.1\" 200 12\r\n\n")
            .unwrap();
        err.write(b"\"GET / HTTP/1.1\" 502 5\n\"GET / HT").unwrap();
        assert_eq!(counted(&mut lines), (2, 1));
        assert_eq!(counted(&mut lines), (0, 0));
        // Where a line is cut is of no matter.
        for piece in ["TP/1", ".1\" 5", "0", "0 1"] {
            err.write(piece.as_bytes()).unwrap();
            assert_eq!(counted(&mut lines), (0, 0), "it has no end");
        }
        err.write(b"\n").unwrap();
        assert_eq!(counted(&mut lines), (1, 1));
    }

    #[test]
    fn who_comes_later_counts_from_there_on() {
        let line = b"\"GET /\" 500 1\n";
        // In the middle of a line, and at its end.
        for (cut, expected) in [(5, (1, 1)), (line.len(), (2, 2))] {
            let dir = tempfile::tempdir().unwrap();
            let mut out = writer(dir.path(), Stream::Stdout);
            out.write(line).unwrap();
            out.write(&line[..cut]).unwrap();
            let mut lines = lines(dir.path(), false);
            assert_eq!(counted(&mut lines), (0, 0), "it was there before");
            out.write(&line[cut..]).unwrap();
            out.write(line).unwrap();
            if cut == line.len() {
                out.write(line).unwrap();
            }
            assert_eq!(counted(&mut lines), expected);
        }
    }

    #[test]
    fn long_lines_and_floods_are_bounded_and_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut lines = lines(dir.path(), true);
        let mut out = Writer::new(dir.path(), Stream::Stdout, 4 << 20, 3);
        let long = [b"\"\" 200 ", &[b'x'; 100_000][..], b"\"\" 500 \n"].concat();
        out.write(&long).unwrap();
        out.write(b"\xff \"\" 503 \n").unwrap();
        assert_eq!(counted(&mut lines), (2, 1), "its end is not looked at");
        assert!(lines.streams[0].line.as_ref().unwrap().capacity() <= 2 * LINE_BYTES_MAX);

        let line = b"\"GET /\" 500 1\n";
        for _ in 0..LOOK_BYTES_MAX as usize / line.len() + 1000 {
            out.write(line).unwrap();
        }
        let found = lines.look();
        let most = LOOK_BYTES_MAX / line.len() as u64;
        assert!(found.is_in_part && found.requests == found.failed);
        assert!((most - 1..=most).contains(&found.failed), "{found:?}");
        out.write(line).unwrap();
        assert_eq!(counted(&mut lines), (1, 1), "it goes on");
    }

    #[test]
    fn what_is_gone_with_its_files_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut lines = lines(dir.path(), true);
        let mut out = Writer::new(dir.path(), Stream::Stdout, 100, 2);
        out.write(b"\"GET /\" 50").unwrap();
        lines.look();
        for _ in 0..100 {
            out.write(b"\"GET /\" 500 1\n").unwrap();
        }
        let found = lines.look();
        assert!(
            found.is_in_part && found.failed < 100 && found.failed > 5,
            "{found:?}"
        );
    }

    #[test]
    fn what_is_cut_short_is_not_counted_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut lines = lines(dir.path(), true);
        let path = dir.path().join("stdout.log");
        let line = "\"GET /\" 500 1\n";
        std::fs::write(&path, line.repeat(3)).unwrap();
        assert_eq!(counted(&mut lines), (3, 3));
        std::fs::write(&path, line).unwrap();
        assert_eq!(counted(&mut lines), (0, 0));
        std::fs::write(&path, line.repeat(2)).unwrap();
        assert_eq!(counted(&mut lines), (1, 1));
    }
}
