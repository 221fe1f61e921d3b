//! The outbox on disk: what waits for a server that is away outlives the agent.
//!
//! ```text
//! 8f0c… {"summed_up":3,"dropped":0}           what became of others
//! 1b2e… {"report":{…},"start":null}           one that waits, after those that were made before it
//! ```
//!
//! Each line begins with its sum: one that was not written whole, or was damaged since, is a report that was dropped, and
//! nothing else. Who reads the file puts its reports in one after the other, which sums them up as it did the first time.
//!
//! **Only what waits is written**: each report is appended, and everything is written anew when some have gone away, or
//! when much was appended. Nothing waits for the disk: a kill costs the last few seconds, and a power cut what the system had not
//! written yet.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{Counts, Letter, Outbox};
use crate::disk;

/// What has waited from one look to the next is written.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Over a longer time no more is written each second. A node with some hundred executions that are waited for loses more than the
/// last few seconds.
const BYTES_PER_SECOND: f64 = 4096.0;
/// A disk that takes nothing is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// More than this in memory is not appended: all is written anew.
const NEWS_BYTES_MAX: usize = 256 << 10;
/// So much is appended before all is written anew, and as much again as there was.
const APPENDED_BYTES: usize = 64 << 10;

/// The file, and what is not in it yet.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// What is to be appended; `None` = all is to be written anew.
    news: Option<String>,
    bytes: usize,
    /// Where it would be longer, it is written anew.
    bytes_max: usize,
    /// What it says became of others, and whether there are reports in it.
    says: (Thinned, bool),
}

/// What became of reports that are gone.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Thinned {
    summed_up: u64,
    dropped: u64,
}

impl Kept {
    /// What is in the file, oldest first, and what became of others.
    pub(super) fn open(path: PathBuf) -> (Self, Vec<Letter>, Counts) {
        let mut bytes = Vec::new();
        let found =
            File::open(&path).and_then(|file| file.take(disk::BYTES_MAX).read_to_end(&mut bytes));
        let bytes = match found {
            Ok(_) => bytes,
            Err(why) if why.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(why) => {
                // An agent without them works as well.
                tracing::error!(path = %path.display(), %why, "reports that waited cannot be read");
                Vec::new()
            }
        };
        let mut letters = Vec::new();
        let mut counts = Counts::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            if let Some(letter) = read(line) {
                letters.push(letter);
            } else if let Some(Thinned { summed_up, dropped }) = read(line) {
                counts.summed_up += summed_up;
                counts.dropped += dropped;
            } else {
                counts.dropped += 1;
            }
        }
        let kept = Self {
            path,
            news: None,
            bytes: 0,
            bytes_max: 0,
            says: (Thinned::default(), !bytes.is_empty()),
        };
        (kept, letters, counts)
    }

    /// This one was put in.
    pub(super) fn add(&mut self, letter: &Letter) {
        if let Some(news) = &mut self.news {
            write(news, letter);
        }
        self.news.take_if(|news| news.len() > NEWS_BYTES_MAX);
    }

    /// Some have gone away.
    pub(super) fn anew(&mut self) {
        self.news = None;
    }

    /// Writes what is not in the file yet; answers how many bytes those were.
    pub(super) fn write<'a>(
        &mut self,
        counts: Counts,
        letters: impl Iterator<Item = &'a Letter>,
    ) -> io::Result<usize> {
        // Whatever fails, all is written anew after it.
        match self.news.take() {
            Some(news) if self.bytes + news.len() <= self.bytes_max => {
                if !news.is_empty() {
                    let mut file = OpenOptions::new().append(true).open(&self.path)?;
                    file.write_all(news.as_bytes())?;
                    self.bytes += news.len();
                }
                self.news = Some(String::new());
                Ok(news.len())
            }
            _ => self.write_anew(counts, letters),
        }
    }

    fn write_anew<'a>(
        &mut self,
        counts: Counts,
        letters: impl Iterator<Item = &'a Letter>,
    ) -> io::Result<usize> {
        let thinned = Thinned {
            summed_up: counts.summed_up,
            dropped: counts.dropped,
        };
        let mut text = String::new();
        write(&mut text, &thinned);
        let head = text.len();
        for letter in letters {
            write(&mut text, letter);
        }
        let says = (thinned, text.len() > head);
        if !says.1 && self.says == says {
            return Ok(0);
        }
        disk::note(&self.path, text.as_bytes())?;
        self.says = says;
        self.bytes = text.len();
        self.bytes_max = 2 * text.len() + APPENDED_BYTES;
        self.news = says.1.then(String::new);
        Ok(text.len())
    }
}

/// Keeps on disk what waits.
pub(crate) async fn keep(outbox: Arc<Outbox>) -> Infallible {
    loop {
        let pause = match outbox.keep() {
            Ok(bytes) => Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND),
            Err(why) => {
                tracing::warn!(%why, "reports that wait cannot be kept");
                AGAIN_AFTER
            }
        };
        sleep(pause.max(LOOK_EVERY)).await;
    }
}

fn write(text: &mut String, what: &impl Serialize) {
    let json = serde_json::to_string(what).expect("it has text for keys");
    *text += &format!("{:016x} {json}\n", disk::sum(json.as_bytes()));
}

/// `None` where it is something else, or damaged.
fn read<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let at = line.iter().position(|byte| *byte == b' ')?;
    let (sum, json) = (str::from_utf8(&line[..at]).ok()?, &line[at + 1..]);
    let is_whole = sum == format!("{:016x}", disk::sum(json));
    serde_json::from_slice(json).ok().filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::tests::{counted, letter};
    use super::super::{Fate, PER_EXECUTION_MAX};
    use super::*;
    use crate::wire::{Observation, Report};

    /// As an agent that looks, and looks again.
    fn looks(outbox: &Outbox) -> usize {
        outbox.keep().unwrap() + outbox.keep().unwrap()
    }

    fn reports(outbox: &Outbox) -> Vec<Report> {
        let taken = outbox.take(100_000);
        outbox.settle(Fate::Unsure);
        taken
    }

    fn killed(dir: &Path) -> Outbox {
        Outbox::open(dir)
    }

    #[test]
    fn what_waits_outlives_the_agent_with_its_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(dir.path());
        let mut first = letter(1, Observation::Started);
        first.start = Some(serde_json::from_str(RUN).unwrap());
        outbox.push(first.clone());
        for number in 2..500 {
            outbox.push(letter(number, counted(number % 100 != 0, 10)));
            if number % 7 == 0 {
                looks(&outbox);
            }
            if number % 31 == 0 {
                reports(&outbox);
            }
            if number % 50 == 0 {
                looks(&outbox);
                let (said, counts) = (reports(&outbox), outbox.counts());
                outbox = killed(dir.path());
                assert_eq!(reports(&outbox), said);
                assert_eq!(outbox.counts(), counts);
                assert_eq!(outbox.starts().into_iter().next(), first.start);
            }
        }
        let counts = outbox.counts();
        assert_eq!(counts.waiting, PER_EXECUTION_MAX);
        assert_eq!((counts.summed_up, counts.dropped), (499 - 64, 0));
        // Another assignment leaves nothing of it but the counts.
        outbox.retain(|_, generation| generation == 2);
        looks(&outbox);
        let outbox = killed(dir.path());
        assert_eq!(
            (outbox.counts().waiting, outbox.counts().summed_up),
            (0, 435)
        );
    }

    const RUN: &str = r#"{"key":{"job":"default/web","slot":0},"generation":1,"attempt":1}"#;

    #[test]
    fn what_gets_through_is_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path());
        for number in 1..100 {
            outbox.push(letter(number, counted(true, 1)));
            // A look may come just then.
            assert_eq!(outbox.keep().unwrap(), 0);
            outbox.take(10);
            outbox.settle(Fate::Sent);
            assert_eq!(outbox.keep().unwrap(), 0);
        }
        outbox.leave().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // What waited, and was sent after all, is not said again.
        outbox.push(letter(100, counted(true, 1)));
        assert!(looks(&outbox) > 0);
        outbox.take(10);
        outbox.settle(Fate::Refused);
        assert!(looks(&outbox) > 0);
        assert_eq!(looks(&outbox), 0);
        let counts = killed(dir.path()).counts();
        assert_eq!((counts.waiting, counts.dropped), (0, 1));
    }

    #[test]
    fn who_leaves_keeps_what_came_just_now() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path());
        outbox.push(letter(1, Observation::Exited { code: 3 }));
        outbox.leave().unwrap();
        assert_eq!(killed(dir.path()).counts().waiting, 1);
    }

    #[test]
    fn a_long_time_without_a_server_costs_little() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path());
        let (reports, mut written, mut longest) = (20_000, 0, 0);
        for number in 0..reports {
            outbox.push(letter(number, counted(true, 10)));
            written += outbox.keep().unwrap();
            let len = fs::metadata(dir.path().join("outbox")).map_or(0, |file| file.len());
            longest = longest.max(len);
        }
        let of_each = written / reports as usize;
        println!("{of_each} bytes written for each report, the longest file had {longest}");
        assert!(of_each < 300, "{of_each}");
        assert!(longest < 110 << 10, "{longest}");
    }

    #[test]
    fn damage_anywhere_loses_what_is_damaged_and_invents_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path());
        outbox.push(letter(1, Observation::Restarted));
        outbox.take(1);
        outbox.settle(Fate::Refused);
        for number in 2..5 {
            outbox.push(letter(number, counted(true, number)));
        }
        looks(&outbox);
        outbox.push(letter(5, Observation::Exited { code: 1 }));
        looks(&outbox);
        let path = dir.path().join("outbox");
        let whole = fs::read(&path).unwrap();
        let (_, said, Counts { dropped, .. }) = Kept::open(path.clone());
        assert_eq!((said.len(), dropped), (4, 1));
        let lines = |bytes: &[u8]| bytes.split(|byte| *byte == b'\n').count();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let mut cut = whole.clone();
            cut.remove(at);
            let mut split = whole.clone();
            split.insert(at, b'\n');
            for damaged in [whole[..at].to_vec(), flipped, cut, split] {
                fs::write(&path, &damaged).unwrap();
                let (_, letters, counts) = Kept::open(path.clone());
                let mut known = said.iter();
                let in_order = letters
                    .iter()
                    .all(|letter| known.any(|known| known == letter));
                assert!(in_order, "at {at}");
                assert!(letters.len() + 4 >= lines(&damaged), "at {at}");
                assert!(counts.dropped <= dropped + 2, "at {at}");
            }
        }
    }
}
