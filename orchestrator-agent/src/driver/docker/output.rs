//! What containers write: taken from the engine into the run's files, where everything else is read from.
//!
//! The engine keeps it too, with the time of each line, and says it again from a moment on. That moment stands in a file
//! with the number of frames that were taken since, so that another process of the same agent goes on after those. In
//! between the times mean nothing: the pieces of a long line have the same, and clocks are set back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use hyper::body::Incoming;

use super::config::Config;
use super::engine::Engine;
use crate::net;
use crate::output::Writer;
use crate::wire::Stream;

/// Up to where it was taken.
const TAKEN: &str = "taken";
/// The longest frame: the engine cuts lines at 16 KiB.
const FRAME_BYTES_MAX: usize = 1 << 20;
const HEAD_BYTES: usize = 8;
const STDERR: u8 = 2;

/// The output of one container.
pub(super) struct Output {
    stdout: Writer,
    stderr: Writer,
    file: File,
    taken: Taken,
    /// Of what comes now, so many frames were taken before.
    again: u64,
    /// So much behind its moment the engine still has that.
    behind_max: u64,
}

/// Up to where it was taken.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Taken {
    /// The latest time of a frame. They are all of one length and of one zone.
    time: String,
    /// So many frames were taken from the first one of this time on.
    frames: u64,
    /// With so many bytes in those that bear an earlier time; not kept.
    behind: u64,
}

impl Taken {
    /// What earlier programs wrote is the time alone, of which they took one frame.
    fn read(text: &str) -> Self {
        let (time, frames) = text.split_once(' ').unwrap_or((text, "1"));
        match (humantime::parse_rfc3339(time), frames.parse()) {
            (Ok(_), Ok(frames)) => Self {
                time: time.to_owned(),
                frames,
                behind: 0,
            },
            _ => Self::default(),
        }
    }

    /// Always of the same length: it is written over the former one.
    fn text(&self) -> String {
        format!("{} {:020}", self.time, self.frames)
    }
}

impl Output {
    /// Goes on where another one was.
    pub(super) fn open(dir: &Path, config: &Config) -> io::Result<Self> {
        let writer = |stream| Writer::reopen(dir, stream, config.log_bytes(), config.log_files());
        let path = dir.join(TAKEN);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut file = File::options();
        let taken = Taken::read(&text);
        Ok(Self {
            stdout: writer(Stream::Stdout)?,
            stderr: writer(Stream::Stderr)?,
            file: file.write(true).create(true).truncate(false).open(path)?,
            again: taken.frames,
            taken,
            // It keeps more than these, with some words of its own about each line.
            behind_max: config.log_bytes() / 4,
        })
    }

    /// Takes what there is; with `follow`, until the container has ended.
    pub(super) async fn take(
        &mut self,
        engine: &Engine,
        name: &str,
        follow: bool,
    ) -> io::Result<()> {
        let since = since(&self.taken.time);
        self.again = self.taken.frames;
        let (_connection, mut body) = engine.output(name, &since, follow).await?;
        let mut bytes = Vec::new();
        loop {
            let more = net::next(&mut body as &mut Incoming).await?;
            let Some(more) = more else {
                return Ok(());
            };
            bytes.extend_from_slice(&more);
            let used = self.frames(&bytes)?;
            bytes.drain(..used);
            if used > 0 {
                self.keep();
            }
        }
    }

    /// Where that cannot be written, another process takes some lines twice: a full disk ends nothing.
    fn keep(&self) {
        let _ = self.file.write_all_at(self.taken.text().as_bytes(), 0);
    }

    /// Takes the frames that are whole; answers how many bytes those were.
    fn frames(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut used = 0;
        while let Some((head, rest)) = bytes[used..].split_at_checked(HEAD_BYTES) {
            let len = [head[4], head[5], head[6], head[7]].map(usize::from);
            let len = len.into_iter().fold(0, |len, byte| len << 8 | byte);
            if len > FRAME_BYTES_MAX {
                return Err(io::Error::other("that is no output of a container"));
            }
            let Some(frame) = rest.get(..len) else {
                break;
            };
            self.frame(head[0], frame);
            used += HEAD_BYTES + len;
        }
        Ok(used)
    }

    fn frame(&mut self, stream: u8, frame: &[u8]) {
        let at = frame.iter().position(|byte| *byte == b' ');
        let Some((time, text)) = at.map(|at| (&frame[..at], &frame[at + 1..])) else {
            return;
        };
        let Ok(time) = std::str::from_utf8(time) else {
            return;
        };
        let taken = &mut self.taken;
        if time > taken.time.as_str() {
            time.clone_into(&mut taken.time);
            (taken.frames, taken.behind, self.again) = (1, 0, 0);
        } else if self.again > 0 {
            self.again -= 1;
            return;
        } else {
            taken.frames += 1;
            if time < taken.time.as_str() {
                taken.behind += frame.len() as u64;
            }
            // The clock was set back. Soon the engine would look for that moment in vain, and say nothing until it comes.
            if taken.behind > self.behind_max {
                time.clone_into(&mut taken.time);
                (taken.frames, taken.behind) = (1, 0);
            }
        }
        let writer = match stream {
            STDERR => &mut self.stderr,
            _ => &mut self.stdout,
        };
        // What cannot be written is lost: a full disk does not stop the workload.
        let _ = writer.write(text);
    }
}

/// A moment as the engine wants it: seconds and nanoseconds.
fn since(last: &str) -> String {
    let time = humantime::parse_rfc3339(last).ok();
    match time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()) {
        Some(since) => format!("{}.{:09}", since.as_secs(), since.subsec_nanos()),
        None => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Tail;
    use crate::workload::Workload;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend((text.len() as u32).to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    fn read(dir: &Path, stream: Stream) -> String {
        let mut tail = Tail::open(dir, stream, u64::MAX).unwrap();
        String::from_utf8(tail.read(0, 1000).unwrap().1).unwrap()
    }

    fn open(dir: &Path, log_bytes: u64) -> Output {
        let config = json!({ "image": "a", "log_bytes": log_bytes });
        let document = json!({ "driver": "docker", "config": config });
        let config = Config::read(&Workload::in_part(&document)).unwrap();
        Output::open(dir, &config).unwrap()
    }

    /// As a connection says it; answers how much of it is used.
    fn hear(output: &mut Output, bytes: &[u8]) -> usize {
        let used = output.frames(bytes).unwrap();
        output.keep();
        used
    }

    fn at(time: &str, text: &str) -> Vec<u8> {
        frame(1, &format!("2026-01-01T{time}.000000000Z {text}\n"))
    }

    #[test]
    fn every_line_is_taken_once_however_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let open = || open(dir.path(), 1 << 20);
        let lines = [
            frame(1, "2026-01-01T00:00:00.000000001Z one\n"),
            frame(2, "2026-01-01T00:00:00.000000002Z bad\n"),
            frame(1, "2026-01-01T00:00:01.000000000Z two\n"),
        ];
        for cut in 0..lines.concat().len() {
            let mut output = open();
            // The engine leaves out what is older than the moment that it is asked for.
            let since = lines.iter().position(|line| {
                String::from_utf8_lossy(line).contains(output.taken.time.as_str())
            });
            let lines = lines[since.unwrap()..].concat();
            let cut = cut.min(lines.len());
            let used = hear(&mut output, &lines[..cut]);
            hear(&mut output, &lines[used..]);
        }
        assert_eq!(read(dir.path(), Stream::Stdout), "one\ntwo\n");
        assert_eq!(read(dir.path(), Stream::Stderr), "bad\n");
        assert_eq!(since(&open().taken.time), "1767225601.000000000");
        assert_eq!(since(""), "0");
        assert!(open().frames(&[1, 0, 0, 0, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn the_pieces_of_a_long_line_have_one_time() {
        let lines = [
            frame(1, "2026-01-01T00:00:00.000000001Z a"),
            frame(1, "2026-01-01T00:00:00.000000001Z b"),
            frame(2, "2026-01-01T00:00:00.000000001Z bad\n"),
            frame(1, "2026-01-01T00:00:00.000000001Z c\n"),
            frame(1, "2026-01-01T00:00:02.000000000Z next\n"),
        ];
        for cut in 0..lines.len() {
            let dir = tempfile::tempdir().unwrap();
            hear(&mut open(dir.path(), 1 << 20), &lines[..cut].concat());
            hear(&mut open(dir.path(), 1 << 20), &lines.concat());
            assert_eq!(read(dir.path(), Stream::Stdout), "abc\nnext\n");
            assert_eq!(read(dir.path(), Stream::Stderr), "bad\n");
        }
        // What was there and is there no more is not left out of what comes.
        let dir = tempfile::tempdir().unwrap();
        hear(&mut open(dir.path(), 1 << 20), &lines[..4].concat());
        hear(&mut open(dir.path(), 1 << 20), &lines[3..].concat());
        assert_eq!(read(dir.path(), Stream::Stdout), "abc\nnext\n");
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nothing() {
        let lines = [
            at("15:00:00", "one"),
            at("15:00:01", "two"),
            at("14:00:00", "three"),
            at("14:00:00", "four"),
            at("14:00:02", "five"),
            at("15:00:02", "six"),
        ];
        for cut in 0..lines.len() {
            let dir = tempfile::tempdir().unwrap();
            hear(&mut open(dir.path(), 1 << 20), &lines[..cut].concat());
            let mut output = open(dir.path(), 1 << 20);
            // From the moment that it asks for on, the engine says all, whatever times that bears.
            let since = if cut < 2 { 0 } else { 1 };
            assert_eq!(output.again, [0, 1, 1, 2, 3, 4][cut]);
            hear(&mut output, &lines[since..].concat());
            assert_eq!(
                read(dir.path(), Stream::Stdout),
                "one\ntwo\nthree\nfour\nfive\nsix\n"
            );
        }
    }

    #[test]
    fn the_moment_that_is_asked_for_is_one_that_the_engine_still_has() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = open(dir.path(), 0);
        hear(&mut output, &at("15:00:00", "before"));
        let most = output.behind_max;
        let mut heard = 0;
        while heard <= most {
            assert_eq!(output.taken.time, "2026-01-01T15:00:00.000000000Z");
            heard += hear(&mut output, &at("14:00:00", &"x".repeat(1000))) as u64;
            heard -= HEAD_BYTES as u64;
        }
        let taken = Taken::read("2026-01-01T14:00:00.000000000Z 1");
        assert_eq!(open(dir.path(), 0).taken, taken);
    }

    #[test]
    fn what_an_earlier_program_has_kept_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(TAKEN), "2026-01-01T15:00:00.000000000Z").unwrap();
        let lines = [at("15:00:00", "one"), at("15:00:01", "two")];
        hear(&mut open(dir.path(), 1 << 20), &lines.concat());
        assert_eq!(read(dir.path(), Stream::Stdout), "two\n");
        assert_eq!(Taken::read(""), Taken::default());
        assert_eq!(Taken::read("\0\0\0\0"), Taken::default());
    }
}
