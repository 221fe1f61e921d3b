//! What workloads have written, on its way to the server.
//!
//! ```text
//!  files of each run ──► the next lines after what the server has ──► one batch at a time ──► how far it has them now
//! ```
//!
//! **The server knows how far it is**, and the agent asks: so nothing is kept here about it, a restart goes on where the
//! other agent was, and a batch whose answer was lost is not taken twice.
//!
//! **The files are the queue.** A batch is read when the one before it was answered, so a slow server or link costs no
//! memory, and a workload never waits. Who writes more than can be sent falls behind; too far, and what is between is
//! left out. The positions of lines say how much, here and to whoever reads them, and the status page adds it up.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use crate::output::{self, Mark, Tail};
use crate::runs::{Run, RunId};
use crate::wire::{Line, Output, Stream};

/// What is further behind than this is left out…
const BEHIND_MAX: u64 = 256 << 10;
/// …up to this much before the end.
const CATCH_UP: u64 = 64 << 10;
/// So much is sent again to a server that had it and has lost it.
const AGAIN: u64 = 16 << 10;
/// A longer line is sent in pieces.
const LINE_BYTES_MAX: usize = 8 << 10;
/// The most of one stream in one batch; more than a line.
const PART_BYTES_MAX: usize = 32 << 10;
/// What a line costs besides its text.
const LINE_COST: usize = 40;
/// The most streams of one batch.
const OUTPUTS_MAX: usize = 500;
/// So much is kept in memory of runs whose files are gone.
const REST_BYTES_MAX: usize = 1 << 20;
/// Of so many of them: each costs more than its bytes, and a turn with every batch.
const RESTS_MAX: usize = 1000;

/// What has become of what workloads wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    /// The server has these bytes.
    pub(crate) sent_bytes: u64,
    /// These were left out: too far behind, gone with their files, or refused.
    pub(crate) left_out_bytes: u64,
}

/// A batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) outputs: Vec<Output>,
    /// About its size as it is sent.
    bytes: usize,
    of: Vec<(RunId, Stream)>,
}

/// The output of all runs.
#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    runs: BTreeMap<RunId, Source>,
    /// Whose turn was last.
    last: Option<RunId>,
    counts: Counts,
    rest_bytes: usize,
}

/// One run.
#[derive(Debug)]
struct Source {
    dir: PathBuf,
    version: u32,
    began: u64,
    is_over: bool,
    streams: [Reading; 2],
}

/// One stream of it.
#[derive(Debug, Default)]
struct Reading {
    have: Have,
    /// Up to here it was sent before, or left out.
    accounted: u64,
    /// As it was when there was nothing to be sent.
    done: Option<(Option<Mark>, bool)>,
    /// What is left to be sent, where the files are gone, and its position.
    rest: Option<(u64, Vec<u8>)>,
}

/// How far the server has a stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Have {
    /// It is to be asked.
    #[default]
    Unknown,
    Nothing,
    UpTo(u64),
}

impl Logs {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, what this run writes is sent.
    pub(crate) fn add(&self, run: &Arc<Run>) {
        let made = std::fs::metadata(run.dir.join("run.json")).and_then(|file| file.modified());
        let began = made
            .ok()
            .and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        let source = Source {
            dir: run.dir.clone(),
            version: run.version,
            began: began.map_or(0, |began| began.as_millis() as u64),
            is_over: false,
            streams: Default::default(),
        };
        self.inner().runs.insert(run.id.clone(), source);
    }

    /// This run writes no more.
    pub(crate) fn over(&self, run: &RunId) {
        if let Some(source) = self.inner().runs.get_mut(run) {
            source.is_over = true;
        }
    }

    /// The files of this run go away: what is not sent yet is kept in memory, within a bound.
    pub(crate) fn keep_rest(&self, run: &RunId) {
        let mut inner = self.inner();
        let Inner {
            runs,
            counts,
            rest_bytes,
            ..
        } = &mut *inner;
        let rests = runs.values().filter(|source| source.has_rest()).count();
        let Some(source) = runs.get_mut(run) else {
            return;
        };
        let is_room = rests < RESTS_MAX || source.has_rest();
        source.is_over = true;
        let mut is_done = true;
        for (stream, reading) in Stream::ALL.into_iter().zip(&mut source.streams) {
            // It was tried before, and the files were still there.
            if let Some((_, kept)) = reading.rest.take() {
                *rest_bytes -= kept.len();
            }
            let Ok(mut tail) = Tail::open(&source.dir, stream, CATCH_UP) else {
                continue;
            };
            let from = match reading.have {
                Have::UpTo(end) => end,
                Have::Unknown | Have::Nothing => 0,
            };
            let wanted = from.max(tail.end().saturating_sub(CATCH_UP));
            let rest = tail.read(wanted, CATCH_UP as usize).unwrap_or_default();
            if !is_room || *rest_bytes + rest.1.len() > REST_BYTES_MAX {
                counts.left_out_bytes += rest.1.len() as u64;
            } else if !rest.1.is_empty() {
                *rest_bytes += rest.1.len();
                reading.rest = Some(rest);
                is_done = false;
            }
        }
        if is_done {
            runs.remove(run);
        }
    }

    /// The server may be another one, or have begun again: it is asked what it has.
    pub(crate) fn ask_again(&self) {
        let mut inner = self.inner();
        let streams = inner.runs.values_mut().flat_map(|run| &mut run.streams);
        for reading in streams {
            reading.have = Have::Unknown;
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// What is to be sent next, and to be [settled](Self::settle) when it was. It begins after the run that was last.
    /// The bound is about that of the bytes as they are sent; the last part may go beyond it.
    pub(crate) fn take(&self, bytes_max: usize) -> Batch {
        let mut inner = self.inner();
        let Inner {
            runs, last, counts, ..
        } = &mut *inner;
        let after = last.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let later = runs.range((after.clone(), Bound::Unbounded));
        let turns = later.chain(runs.iter()).take(runs.len());
        let turns: Vec<RunId> = turns.map(|(id, _)| id.clone()).collect();
        let mut batch = Batch::default();
        for id in turns {
            if batch.bytes >= bytes_max || batch.outputs.len() + 2 > OUTPUTS_MAX {
                break;
            }
            let source = runs.get_mut(&id).expect("it is one of them");
            for stream in Stream::ALL {
                match source.next(stream, bytes_max, counts) {
                    Ok(Some(next)) => batch.put(&id, source, stream, next),
                    Ok(None) => {}
                    // Its files are gone, or are written too fast just now.
                    Err(why) => tracing::debug!(run = %id, %why, "no output can be read"),
                }
            }
            *last = Some(id);
        }
        batch
    }

    /// The server answered, and has so much of each part.
    pub(crate) fn settle(&self, batch: &Batch, have: &[Option<u64>]) {
        let mut inner = self.inner();
        let mut forgot = false;
        for ((output, (id, stream)), have) in batch.outputs.iter().zip(&batch.of).zip(have) {
            let Some(reading) = inner.reading(id, *stream) else {
                continue;
            };
            let asked = reading.have == Have::Unknown;
            reading.have = have.map_or(Have::Nothing, Have::UpTo);
            reading.accounted = reading.accounted.max(have.unwrap_or(0));
            reading.done = None;
            forgot |= have.is_none() && !asked;
            if let Some(have) = have.filter(|_| !output.lines.is_empty()) {
                inner.counts.sent_bytes += have.saturating_sub(output.position);
            }
            inner.tidy(id);
        }
        drop(inner);
        if forgot {
            self.ask_again();
        }
    }

    /// The server will never take it.
    pub(crate) fn refused(&self, batch: &Batch) {
        let mut inner = self.inner();
        for (output, (id, stream)) in batch.outputs.iter().zip(&batch.of) {
            let Some(last) = output.lines.last() else {
                continue;
            };
            inner.counts.left_out_bytes += last.end - output.position;
            if let Some(reading) = inner.reading(id, *stream) {
                reading.have = Have::UpTo(last.end);
            }
            inner.tidy(id);
        }
    }
}

impl Inner {
    fn reading(&mut self, run: &RunId, stream: Stream) -> Option<&mut Reading> {
        Some(&mut self.runs.get_mut(run)?.streams[stream as usize])
    }

    /// Lets go of what was kept of a run without files, once it was sent.
    fn tidy(&mut self, run: &RunId) {
        let Some(source) = self.runs.get_mut(run) else {
            return;
        };
        let had_rest = source.has_rest();
        for reading in &mut source.streams {
            let sent = |(begin, bytes): &mut (u64, Vec<u8>)| matches!(reading.have, Have::UpTo(end) if end >= *begin + bytes.len() as u64);
            if let Some((_, bytes)) = reading.rest.take_if(sent) {
                self.rest_bytes -= bytes.len();
            }
        }
        if had_rest && !source.has_rest() {
            self.runs.remove(run);
        }
    }
}

/// What is next of one stream: where it begins, and its lines; none where the server is only asked.
type Next = (u64, bool, Vec<Line>);

impl Source {
    fn has_rest(&self) -> bool {
        self.streams.iter().any(|reading| reading.rest.is_some())
    }

    fn next(
        &mut self,
        stream: Stream,
        bytes_max: usize,
        counts: &mut Counts,
    ) -> io::Result<Option<Next>> {
        let Self { dir, is_over, .. } = self;
        let reading = &mut self.streams[stream as usize];
        let now = match &reading.rest {
            Some(_) => None,
            None => Some((output::mark(dir, stream), *is_over)),
        };
        if reading.have != Have::Unknown && now.is_some() && reading.done == now {
            return Ok(None);
        }
        let (have, anew) = match reading.have {
            // What has written nothing has nothing to ask.
            Have::Unknown if matches!(now, Some((None, _))) => return Ok(None),
            Have::Unknown => return Ok(Some((0, false, Vec::new()))),
            Have::Nothing => (0, true),
            Have::UpTo(end) => (end, false),
        };
        let back = match anew && reading.accounted > 0 {
            true => AGAIN,
            false => BEHIND_MAX,
        };
        let (begin, end, bytes) = match &reading.rest {
            Some((begin, bytes)) => {
                let end = *begin + bytes.len() as u64;
                let from = have.clamp(*begin, end);
                let part = &bytes[(from - begin) as usize..];
                (from, end, part[..part.len().min(PART_BYTES_MAX)].to_vec())
            }
            None => {
                let mut tail = Tail::open(dir, stream, back)?;
                let end = tail.end();
                let from = match end.saturating_sub(have) > back {
                    true => end - back.min(CATCH_UP),
                    false => have,
                };
                let (begin, bytes) = tail.read(from, PART_BYTES_MAX)?;
                (begin, end, bytes)
            }
        };
        // What is between begins somewhere in a line.
        let cut = match begin > have {
            true => bytes
                .iter()
                .take(LINE_BYTES_MAX)
                .position(|byte| *byte == b'\n'),
            false => None,
        };
        let skipped = cut.map_or(0, |at| at + 1);
        let position = begin + skipped as u64;
        let is_last = *is_over && begin + bytes.len() as u64 == end;
        let lines = lines(position, &bytes[skipped..], is_last, bytes_max);
        if lines.is_empty() {
            reading.done = now;
            return Ok(None);
        }
        counts.left_out_bytes += position.saturating_sub(have.max(reading.accounted));
        reading.accounted = reading.accounted.max(position);
        Ok(Some((position, anew, lines)))
    }
}

impl Batch {
    fn put(&mut self, run: &RunId, source: &Source, stream: Stream, next: Next) {
        let (position, anew, lines) = next;
        self.bytes += 4 * LINE_COST + lines.iter().map(cost).sum::<usize>();
        self.of.push((run.clone(), stream));
        self.outputs.push(Output {
            job: run.key.job.clone(),
            slot: run.key.slot,
            version: source.version,
            generation: run.generation,
            attempt: run.attempt,
            began: source.began,
            stream,
            position,
            anew,
            lines,
        });
    }
}

/// About how many bytes a line has as it is sent.
fn cost(line: &Line) -> usize {
    let escaped = line.text.bytes().map(|byte| match byte {
        b'"' | b'\\' => 2,
        0..=0x1f => 6,
        _ => 1,
    });
    LINE_COST + escaped.sum::<usize>()
}

/// The lines in these bytes, up to about so many as they are sent. One without an end waits for it, unless nothing comes
/// any more.
fn lines(position: u64, bytes: &[u8], is_last: bool, bytes_max: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let (mut at, mut cost_of_all) = (0, 0);
    while at < bytes.len() && cost_of_all < bytes_max {
        let rest = &bytes[at..];
        let found = rest
            .iter()
            .take(LINE_BYTES_MAX + 1)
            .position(|byte| *byte == b'\n');
        let (len, ended, partial) = match found {
            Some(len) => (len, 1, false),
            None if rest.len() > LINE_BYTES_MAX => (piece(rest), 0, true),
            None if is_last => (rest.len(), 0, false),
            None => break,
        };
        let text = &rest[..len];
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        at += len + ended;
        let line = Line {
            end: position + at as u64,
            text: String::from_utf8_lossy(text).into_owned(),
            partial,
        };
        cost_of_all += cost(&line);
        lines.push(line);
    }
    lines
}

/// How long the first piece of a long line is, so that no letter is cut in two.
fn piece(line: &[u8]) -> usize {
    let within = |byte: u8| byte & 0xc0 == 0x80;
    let back = (0..4).find(|back| !within(line[LINE_BYTES_MAX - back]));
    LINE_BYTES_MAX - back.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::output::Writer;

    const BATCH_BYTES: usize = 128 << 10;

    /// A server that has what it took.
    #[derive(Default)]
    struct Server(BTreeMap<(RunId, Stream), Vec<Line>>);

    impl Server {
        fn take(&mut self, batch: &Batch) -> Vec<Option<u64>> {
            let parts = batch.outputs.iter().zip(&batch.of);
            let have = parts.map(|(output, of)| {
                if output.anew {
                    self.0.entry(of.clone()).or_default();
                }
                let lines = self.0.get_mut(of)?;
                for line in &output.lines {
                    if lines.last().is_none_or(|last| last.end < line.end) {
                        lines.push(line.clone());
                    }
                }
                Some(lines.last().map_or(0, |last| last.end))
            });
            have.collect()
        }

        fn texts(&self, run: &RunId) -> Vec<&str> {
            let lines = self.0.get(&(run.clone(), Stream::Stdout));
            let lines = lines.map_or(&[][..], Vec::as_slice).iter();
            lines.map(|line| line.text.as_str()).collect()
        }
    }

    fn run(dir: &Path, attempt: u32) -> Arc<Run> {
        let document = json!({ "driver": "exec", "config": {} });
        Arc::new(Run::kept(dir.join(attempt.to_string()), attempt, document))
    }

    fn writer(run: &Run) -> Writer {
        Writer::new(&run.dir, Stream::Stdout, 1 << 20, 2)
    }

    /// Until there is nothing to send; answers how many batches that were.
    fn ship(logs: &Logs, server: &mut Server) -> usize {
        for batches in 0..100 {
            let batch = logs.take(BATCH_BYTES);
            if batch.outputs.is_empty() {
                return batches;
            }
            logs.settle(&batch, &server.take(&batch));
        }
        panic!("it goes on and on");
    }

    #[test]
    fn lines_go_once_whatever_is_lost_and_whoever_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let (run, mut server) = (run(dir.path(), 1), Server::default());
        let mut writer = writer(&run);
        let mut logs = Logs::default();
        logs.add(&run);
        assert_eq!(ship(&logs, &mut server), 0, "nothing is written");
        writer.write(b"one\ntw").unwrap();
        ship(&logs, &mut server);
        assert_eq!(server.texts(&run.id), ["one"], "the second has no end");
        writer.write(b"o\nthree\n").unwrap();
        // The answer is lost.
        server.take(&logs.take(BATCH_BYTES));
        ship(&logs, &mut server);
        assert_eq!(server.texts(&run.id), ["one", "two", "three"]);
        // Another agent.
        logs = Logs::default();
        logs.add(&run);
        writer.write(b"four\n").unwrap();
        ship(&logs, &mut server);
        assert_eq!(server.texts(&run.id), ["one", "two", "three", "four"]);
        assert_eq!(logs.counts().left_out_bytes, 0);
        // Another server.
        server = Server::default();
        assert_eq!(ship(&logs, &mut server), 0);
        logs.ask_again();
        ship(&logs, &mut server);
        assert_eq!(server.texts(&run.id), ["one", "two", "three", "four"]);
        // At its end, also what has none.
        writer.write(b"five").unwrap();
        ship(&logs, &mut server);
        assert_eq!(server.texts(&run.id).len(), 4);
        logs.over(&run.id);
        ship(&logs, &mut server);
        assert_eq!(server.texts(&run.id).last(), Some(&"five"));
        assert_eq!(logs.counts().left_out_bytes, 0);
    }

    #[test]
    fn a_server_that_forgot_one_stream_is_asked_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (run(dir.path(), 1), run(dir.path(), 2));
        let (logs, mut server) = (Logs::default(), Server::default());
        let mut writers = [writer(&one), writer(&two)];
        for (run, writer) in [&one, &two].into_iter().zip(&mut writers) {
            logs.add(run);
            writer.write(b"before\n").unwrap();
        }
        ship(&logs, &mut server);
        server = Server::default();
        writers[0].write(b"after\n").unwrap();
        ship(&logs, &mut server);
        assert_eq!(server.texts(&one.id), ["before", "after"]);
        assert_eq!(server.texts(&two.id), ["before"]);
    }

    #[test]
    fn who_floods_is_cut_short_and_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (loud, quiet) = (run(dir.path(), 1), run(dir.path(), 2));
        let (logs, mut server) = (Logs::default(), Server::default());
        logs.add(&loud);
        logs.add(&quiet);
        let mut flood = writer(&loud);
        let line = [vec![b'x'; 99], b"\n".to_vec()].concat();
        for _ in 0..30_000 {
            flood.write(&line).unwrap();
        }
        flood.write(b"the last\n").unwrap();
        writer(&quiet).write(b"quiet\n").unwrap();
        for _ in 0..2 {
            let batch = logs.take(BATCH_BYTES);
            assert!(serde_json::to_vec(&batch.outputs).unwrap().len() < 512 << 10);
            logs.settle(&batch, &server.take(&batch));
        }
        assert_eq!(server.texts(&quiet.id), ["quiet"]);
        ship(&logs, &mut server);
        let texts = server.texts(&loud.id);
        assert_eq!(texts.last(), Some(&"the last"));
        let got: u64 = texts.iter().map(|text| text.len() as u64 + 1).sum();
        assert!(got <= CATCH_UP && got > CATCH_UP / 2, "{got}");
        let Counts {
            sent_bytes,
            left_out_bytes,
        } = logs.counts();
        let quiet = "quiet\n".len() as u64;
        assert_eq!(sent_bytes, got + quiet);
        assert_eq!(sent_bytes + left_out_bytes, 3_000_009 + quiet);
    }

    #[test]
    fn what_does_not_get_through_at_once_does_in_small_batches() {
        let dir = tempfile::tempdir().unwrap();
        let (run, mut server) = (run(dir.path(), 1), Server::default());
        let (logs, mut writer) = (Logs::default(), writer(&run));
        logs.add(&run);
        let long = "x".repeat(LINE_BYTES_MAX + 1) + "\n";
        for text in ["line\n".repeat(1000), long.repeat(5), "\n".repeat(1000)] {
            writer.write(text.as_bytes()).unwrap();
        }
        logs.over(&run.id);
        const SMALL: usize = LINE_BYTES_MAX;
        loop {
            let batch = logs.take(SMALL);
            if batch.outputs.is_empty() {
                break;
            }
            let bytes = serde_json::to_vec(&batch.outputs).unwrap().len();
            assert!(bytes < 3 * SMALL, "{bytes}");
            logs.settle(&batch, &server.take(&batch));
        }
        assert_eq!(server.texts(&run.id).len(), 1000 + 2 * 5 + 1000);
        assert_eq!(logs.counts().left_out_bytes, 0);
    }

    #[test]
    fn the_rest_of_a_run_is_sent_though_its_files_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (run, mut server) = (run(dir.path(), 1), Server::default());
        let (logs, mut writer) = (Logs::default(), writer(&run));
        logs.add(&run);
        writer.write(b"one\n").unwrap();
        ship(&logs, &mut server);
        writer.write(b"two\nwhy it died").unwrap();
        // The first time they could not be taken away.
        logs.keep_rest(&run.id);
        logs.keep_rest(&run.id);
        std::fs::remove_dir_all(&run.dir).unwrap();
        ship(&logs, &mut server);
        assert_eq!(server.texts(&run.id), ["one", "two", "why it died"]);
        assert!(logs.inner().runs.is_empty() && logs.inner().rest_bytes == 0);
    }

    #[test]
    fn the_rests_that_wait_are_bounded_in_number() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::default();
        for attempt in 0..RESTS_MAX as u32 + 3 {
            let run = run(dir.path(), attempt);
            logs.add(&run);
            writer(&run).write(b"x\n").unwrap();
            logs.keep_rest(&run.id);
        }
        assert_eq!(logs.inner().runs.len(), RESTS_MAX);
        assert_eq!(logs.counts().left_out_bytes, 3 * 2);
    }

    #[test]
    fn what_is_refused_is_not_said_again() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path(), 1);
        let (logs, mut server) = (Logs::default(), Server::default());
        logs.add(&run);
        writer(&run).write(b"bad\n").unwrap();
        let asks = logs.take(BATCH_BYTES);
        logs.settle(&asks, &server.take(&asks));
        logs.refused(&logs.take(BATCH_BYTES));
        assert!(logs.take(BATCH_BYTES).outputs.is_empty());
        assert_eq!(logs.counts().left_out_bytes, 4);
    }

    #[test]
    fn long_lines_come_in_pieces_and_letters_stay_whole() {
        let text = format!(
            "{}ä{}\r\nshort\nopen",
            "x".repeat(LINE_BYTES_MAX - 1),
            "y".repeat(LINE_BYTES_MAX)
        );
        let found = lines(100, text.as_bytes(), false, BATCH_BYTES);
        let shape = found.iter().map(|line| (line.text.len(), line.partial));
        let long = LINE_BYTES_MAX;
        assert_eq!(
            shape.collect::<Vec<_>>(),
            [(long - 1, true), (long, true), (2, false), (5, false)]
        );
        assert_eq!(found.last().unwrap().end, 100 + text.len() as u64 - 4);
        assert_eq!(lines(0, b"\xff\n", false, BATCH_BYTES)[0].text, "\u{fffd}");
        // Nothing but ends of lines is the dearest.
        let batch = lines(0, &[b'\n'; PART_BYTES_MAX], false, BATCH_BYTES);
        assert!(serde_json::to_vec(&batch).unwrap().len() < 2 * BATCH_BYTES);
    }
}
