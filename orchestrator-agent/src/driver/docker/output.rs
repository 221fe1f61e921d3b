//! What containers write: taken from the engine into the run's files, where everything else is read from.
//!
//! The engine keeps it too, with the time of each line. The time of the last line that was taken stands in a file, so that
//! another process of the same agent goes on after it.

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

/// The time of the last line that was taken.
const TAKEN: &str = "taken";
/// The longest frame: the engine cuts lines at 16 KiB.
const FRAME_BYTES_MAX: usize = 1 << 20;
const HEAD_BYTES: usize = 8;
const STDERR: u8 = 2;

/// The output of one container.
pub(super) struct Output {
    stdout: Writer,
    stderr: Writer,
    taken: File,
    last: String,
}

impl Output {
    /// Goes on where another one was.
    pub(super) fn open(dir: &Path, config: &Config) -> io::Result<Self> {
        let writer = |stream| Writer::reopen(dir, stream, config.log_bytes(), config.log_files());
        let path = dir.join(TAKEN);
        let last = std::fs::read_to_string(&path).unwrap_or_default();
        let mut taken = File::options();
        Ok(Self {
            stdout: writer(Stream::Stdout)?,
            stderr: writer(Stream::Stderr)?,
            taken: taken.write(true).create(true).truncate(false).open(path)?,
            last,
        })
    }

    /// Takes what there is; with `follow`, until the container has ended.
    pub(super) async fn take(
        &mut self,
        engine: &Engine,
        name: &str,
        follow: bool,
    ) -> io::Result<()> {
        let since = since(&self.last);
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
                self.taken.write_all_at(self.last.as_bytes(), 0)?;
            }
        }
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
        // They are all of one length and of one zone. The engine knows moments no better than its clock.
        if time <= self.last.as_str() {
            return;
        }
        time.clone_into(&mut self.last);
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

    #[test]
    fn every_line_is_taken_once_however_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let document = json!({ "driver": "docker", "config": { "image": "a" } });
        let config = Config::read(&Workload::in_part(&document)).unwrap();
        let open = || Output::open(dir.path(), &config).unwrap();
        let lines = [
            frame(1, "2026-01-01T00:00:00.000000001Z one\n"),
            frame(2, "2026-01-01T00:00:00.000000002Z bad\n"),
            frame(1, "2026-01-01T00:00:01.000000000Z two\n"),
        ]
        .concat();
        for cut in 0..lines.len() {
            let mut output = open();
            let used = output.frames(&lines[..cut]).unwrap();
            output.frames(&lines[used..]).unwrap();
            output
                .taken
                .write_all_at(output.last.as_bytes(), 0)
                .unwrap();
        }
        assert_eq!(read(dir.path(), Stream::Stdout), "one\ntwo\n");
        assert_eq!(read(dir.path(), Stream::Stderr), "bad\n");
        assert_eq!(since(&open().last), "1767225601.000000000");
        assert_eq!(since(""), "0");
        assert!(open().frames(&[1, 0, 0, 0, 255, 255, 255, 255]).is_err());
    }
}
