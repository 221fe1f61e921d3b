//! The last lines that workloads wrote, in memory.
//!
//! **Not in the store.** All that is written goes through one writer that rollouts wait for, and output is a lot that is
//! seldom read. What is lost with the server is only a copy: agents keep the files, hear that nothing is known of them,
//! and send their ends again.
//!
//! **Everything has a bound**: an execution's lines, a node's executions, and the sum of it all, which is shared evenly
//! once it is reached. So who writes much loses its own older lines, and nobody else's. How far each stream is known
//! longer than its lines, so that an agent sends nothing again for want of room here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use orchestrator_core::fleet::NodeName;
use orchestrator_core::{JobId, Time};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::access::now;

/// So many bytes are kept of one execution, with what they cost…
const EXECUTION_BYTES_MAX: usize = 256 << 10;
/// …and of all together.
const BYTES_MAX: usize = 64 << 20;
/// Executions of which something is kept: of one node…
const NODE_EXECUTIONS_MAX: usize = 256;
/// …and of all.
const EXECUTIONS_MAX: usize = 16 << 10;
/// So many streams are known of an execution: two of each of its last runs.
const STREAMS_MAX: usize = 16;
/// What a line costs besides its text.
const LINE_COST: usize = 128;
/// At most so much text is given back at a time.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// So much is taken of all agents each second, over a longer time…
const TAKEN_PER_SECOND: f64 = (16 << 20) as f64;
/// …and at once.
const TAKEN_AT_ONCE: f64 = (64 << 20) as f64;

/// Where a workload writes to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Which stream of which run of an execution.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Source {
    pub(crate) generation: u64,
    pub(crate) attempt: u32,
    /// When the run was made: its node may have been set up anew.
    pub(crate) began: u64,
    pub(crate) stream: Stream,
}

/// A part of it, as an agent sends it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) job: JobId,
    pub(crate) slot: u32,
    pub(crate) version: u32,
    pub(crate) source: Source,
    pub(crate) position: u64,
    /// Take it though nothing is known of the stream.
    pub(crate) anew: bool,
    pub(crate) lines: Vec<Piece>,
}

/// A line of a part.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) end: u64,
    pub(crate) text: String,
    pub(crate) partial: bool,
}

/// A line that is kept, as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    #[serde(skip)]
    pub(crate) number: u64,
    node: NodeName,
    slot: u32,
    version: u32,
    generation: u64,
    attempt: u32,
    stream: Stream,
    position: u64,
    end: u64,
    at: String,
    text: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

impl Line {
    fn cost(&self) -> usize {
        self.text.len() + LINE_COST
    }
}

/// Whose lines are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Of {
    pub(crate) job: JobId,
    /// Only those of this node.
    pub(crate) node: Option<NodeName>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Lines that were taken.
    pub(crate) lines: u64,
    /// Bytes that agents left out.
    pub(crate) left_out_bytes: u64,
    /// What is kept now.
    pub(crate) bytes: usize,
    /// Of so many executions.
    pub(crate) executions: usize,
}

/// The lines of all executions.
#[derive(Debug)]
pub(crate) struct Logs(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: HashMap<NodeName, BTreeMap<(JobId, u32), Tail>>,
    /// Who follows a job.
    followed: HashMap<JobId, watch::Sender<u64>>,
    /// The number of the last line. Over restarts of the server it grows too, as far as clocks do.
    last: u64,
    counts: Counts,
    /// What may be taken at once, and since when.
    room: (f64, Instant),
}

/// What is kept of an execution.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    /// How far each stream is known, the last one that was new at the end.
    known: Vec<(Source, u64)>,
    /// The last line of all when this was written to.
    touched: u64,
}

impl Logs {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inner {
            nodes: HashMap::new(),
            followed: HashMap::new(),
            last: now().as_millis().saturating_mul(1000),
            counts: Counts::default(),
            room: (TAKEN_AT_ONCE, Instant::now()),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for a request of so many bytes now. Those who find none come again later.
    pub(crate) fn admits(&self, bytes: usize) -> bool {
        let mut inner = self.inner();
        let (room, since) = inner.room;
        let room = room + since.elapsed().as_secs_f64() * TAKEN_PER_SECOND;
        let left = room.min(TAKEN_AT_ONCE) - bytes as f64;
        if left < 0.0 {
            return false;
        }
        inner.room = (left, Instant::now());
        true
    }

    /// Takes what is new of these parts; answers how far each stream is known then.
    pub(crate) fn take(&self, node: &NodeName, parts: Vec<Part>, at: Time) -> Vec<Option<u64>> {
        let at = at.to_string();
        let mut inner = self.inner();
        let mut news = Vec::new();
        let have = parts.into_iter().map(|part| {
            let job = part.job.clone();
            let before = inner.last;
            let have = inner.take(node, part, &at);
            if inner.last > before && news.last() != Some(&job) {
                news.push(job);
            }
            have
        });
        let have = have.collect();
        inner.share();
        let last = inner.last;
        for job in news {
            if let Some(followed) = inner.followed.get(&job) {
                followed.send_replace(last);
            }
        }
        have
    }

    /// The last lines, at most so many, oldest first; and the number after which new ones come.
    pub(crate) fn last(&self, of: &Of, most: usize) -> (Vec<Arc<Line>>, u64) {
        let inner = self.inner();
        let mut newest: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        let tails: Vec<&Tail> = inner.tails(of).collect();
        for (at, tail) in tails.iter().enumerate() {
            for line in tail.lines.iter().rev() {
                if newest.len() < most {
                    newest.push(Reverse((line.number, at)));
                } else if newest
                    .peek()
                    .is_some_and(|Reverse(least)| least.0 < line.number)
                {
                    newest.pop();
                    newest.push(Reverse((line.number, at)));
                } else {
                    break;
                }
            }
        }
        let mut lines: Vec<&Arc<Line>> = newest
            .into_iter()
            .map(|Reverse((number, at))| tails[at].line(number))
            .collect();
        lines.sort_unstable_by_key(|line| Reverse(line.number));
        let mut lines = within(lines.into_iter());
        lines.reverse();
        (lines, inner.last)
    }

    /// After which number new lines come, of whatever job.
    pub(crate) fn newest(&self) -> u64 {
        self.inner().last
    }

    /// The next lines after this number, at most so many, oldest first.
    pub(crate) fn after(&self, of: &Of, number: u64, most: usize) -> Vec<Arc<Line>> {
        let inner = self.inner();
        let mut oldest: BinaryHeap<(u64, usize)> = BinaryHeap::new();
        let tails: Vec<&Tail> = inner.tails(of).collect();
        for (at, tail) in tails.iter().enumerate() {
            let begin = tail.lines.partition_point(|line| line.number <= number);
            for line in tail.lines.range(begin..) {
                if oldest.len() < most {
                    oldest.push((line.number, at));
                } else if oldest.peek().is_some_and(|most| most.0 > line.number) {
                    oldest.pop();
                    oldest.push((line.number, at));
                } else {
                    break;
                }
            }
        }
        let found = oldest.into_sorted_vec();
        within(found.iter().map(|&(number, at)| tails[at].line(number)))
    }

    /// Changes whenever there are new lines of this job.
    pub(crate) fn changes(&self, job: &JobId) -> watch::Receiver<u64> {
        let mut inner = self.inner();
        // Of jobs that nobody follows any more nothing is left.
        inner
            .followed
            .retain(|_, followed| followed.receiver_count() > 0);
        let followed = inner.followed.entry(job.clone());
        followed
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.inner().counts
    }
}

/// The first ones that are not too much together, and one at least.
fn within<'a>(lines: impl Iterator<Item = &'a Arc<Line>>) -> Vec<Arc<Line>> {
    let mut bytes = 0;
    let lines = lines.take_while(|line| {
        let is_first = bytes == 0;
        bytes += line.cost();
        is_first || bytes <= ANSWER_BYTES_MAX
    });
    lines.cloned().collect()
}

impl Tail {
    fn line(&self, number: u64) -> &Arc<Line> {
        let at = self.lines.partition_point(|line| line.number < number);
        &self.lines[at]
    }

    /// Lets go of the oldest lines; answers how much that was.
    fn shrink(&mut self, bytes_max: usize) -> usize {
        let before = self.bytes;
        while self.bytes > bytes_max
            && let Some(line) = self.lines.pop_front()
        {
            self.bytes -= line.cost();
        }
        before - self.bytes
    }
}

impl Inner {
    fn tails<'a>(&'a self, of: &'a Of) -> impl Iterator<Item = &'a Tail> {
        let named = of.node.as_ref().and_then(|node| self.nodes.get(node));
        let all = of.node.is_none().then(|| self.nodes.values());
        let nodes = named.into_iter().chain(all.into_iter().flatten());
        let slots = (of.job.clone(), 0)..=(of.job.clone(), u32::MAX);
        nodes.flat_map(move |node| node.range(slots.clone()).map(|(_, tail)| tail))
    }

    fn take(&mut self, node: &NodeName, part: Part, at: &str) -> Option<u64> {
        let key = (part.job, part.slot);
        let tail = self.nodes.get(node).and_then(|node| node.get(&key));
        let known = tail.and_then(|tail| {
            let mut known = tail.known.iter();
            known.find(|(source, _)| *source == part.source)
        });
        let known = known.map(|(_, end)| *end);
        if known.is_none() && !part.anew || part.lines.is_empty() {
            return known;
        }
        self.make_room(node, &key);
        let Self {
            nodes,
            last,
            counts,
            ..
        } = self;
        let node_tails = nodes.entry(node.clone()).or_default();
        let tail = node_tails.entry(key).or_insert_with(|| {
            counts.executions += 1;
            Tail::default()
        });
        let begin = known.unwrap_or(0);
        let mut end = begin.max(part.position);
        counts.left_out_bytes += end - begin;
        for Piece {
            end: to,
            text,
            partial,
        } in part.lines
        {
            // It was taken before.
            if to <= end {
                continue;
            }
            *last += 1;
            let line = Line {
                number: *last,
                node: node.clone(),
                slot: part.slot,
                version: part.version,
                generation: part.source.generation,
                attempt: part.source.attempt,
                stream: part.source.stream,
                position: end,
                end: to,
                at: at.to_owned(),
                text,
                partial,
            };
            end = to;
            counts.lines += 1;
            counts.bytes += line.cost();
            tail.bytes += line.cost();
            tail.lines.push_back(Arc::new(line));
        }
        tail.touched = *last;
        match tail
            .known
            .iter_mut()
            .find(|(source, _)| *source == part.source)
        {
            Some((_, known)) => *known = end,
            None => tail.known.push((part.source, end)),
        }
        if tail.known.len() > STREAMS_MAX {
            tail.known.remove(0);
        }
        counts.bytes -= tail.shrink(EXECUTION_BYTES_MAX);
        Some(end)
    }

    /// For one more execution the one goes that was not written to for the longest time: of the node where that has
    /// many, or of all.
    fn make_room(&mut self, node: &NodeName, key: &(JobId, u32)) {
        let own = self.nodes.get(node);
        if own.is_some_and(|own| own.contains_key(key)) {
            return;
        }
        let of_node = own.is_some_and(|own| own.len() >= NODE_EXECUTIONS_MAX);
        if !of_node && self.counts.executions < EXECUTIONS_MAX {
            return;
        }
        let nodes = self
            .nodes
            .iter()
            .filter(|(name, _)| !of_node || *name == node);
        let tails =
            nodes.flat_map(|(name, tails)| tails.iter().map(move |(key, tail)| (name, key, tail)));
        let oldest = tails.min_by_key(|(_, _, tail)| tail.touched);
        let Some((name, key)) = oldest.map(|(name, key, _)| (name.clone(), key.clone())) else {
            return;
        };
        let Some(tails) = self.nodes.get_mut(&name) else {
            return;
        };
        if let Some(gone) = tails.remove(&key) {
            self.counts.executions -= 1;
            self.counts.bytes -= gone.bytes;
        }
        if tails.is_empty() {
            self.nodes.remove(&name);
        }
    }

    /// Where there is too much in all, everyone has an equal share of a little less.
    fn share(&mut self) {
        if self.counts.bytes <= BYTES_MAX {
            return;
        }
        let share = BYTES_MAX / 8 * 7 / self.counts.executions.max(1);
        for tail in self.nodes.values_mut().flat_map(BTreeMap::values_mut) {
            self.counts.bytes -= tail.shrink(share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(job: &str, node: Option<&str>) -> Of {
        Of {
            job: job.parse().unwrap(),
            node: node.map(NodeName::from),
        }
    }

    fn part(job: &str, attempt: u32, anew: bool, position: u64, lines: &[&str]) -> Part {
        let mut end = position;
        let pieces = lines.iter().map(|text| {
            end += text.len() as u64 + 1;
            Piece {
                end,
                text: (*text).to_owned(),
                partial: false,
            }
        });
        Part {
            job: job.parse().unwrap(),
            slot: 0,
            version: 1,
            source: Source {
                generation: 1,
                attempt,
                began: 5,
                stream: Stream::Stdout,
            },
            position,
            anew,
            lines: pieces.collect(),
        }
    }

    fn take(logs: &Logs, node: &str, part: Part) -> Option<u64> {
        logs.take(&NodeName::from(node), vec![part], Time::from_millis(0))[0]
    }

    fn texts(lines: &[Arc<Line>]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_are_taken_once_and_what_is_unknown_is_asked_for() {
        let logs = Logs::new();
        let next = |anew, position, lines: &[&str]| {
            take(&logs, "n1", part("a/b", 1, anew, position, lines))
        };
        assert_eq!(next(false, 4, &["late"]), None);
        assert_eq!(next(true, 0, &["one", "two"]), Some(8));
        assert_eq!(
            next(true, 0, &["one", "two"]),
            Some(8),
            "the answer was lost"
        );
        assert_eq!(next(false, 4, &["two", "three"]), Some(14));
        assert_eq!(next(false, 0, &[]), Some(14), "only asked");
        assert_eq!(next(false, 20, &["four"]), Some(25));
        let (lines, last) = logs.last(&of("a/b", None), 10);
        assert_eq!(texts(&lines), ["one", "two", "three", "four"]);
        assert_eq!(logs.counts().left_out_bytes, 6);
        assert_eq!((lines[3].position, lines[3].end), (20, 25));
        assert_eq!(lines[3].number, last);
        // Another run begins at its own beginning.
        assert_eq!(take(&logs, "n1", part("a/b", 2, false, 0, &["x"])), None);
        assert_eq!(take(&logs, "n1", part("a/b", 2, true, 0, &["x"])), Some(2));
    }

    #[test]
    fn lines_of_several_nodes_come_in_one_order_and_each_once() {
        let logs = Logs::new();
        let followed = logs.changes(&"a/b".parse().unwrap());
        for turn in 0..20 {
            for node in ["n1", "n2", "n3"] {
                let text = format!("{node} {turn:02}");
                let anew = turn == 0;
                take(&logs, node, part("a/b", 1, anew, turn * 6, &[&text]));
                take(&logs, node, part("a/bc", 1, anew, turn * 6, &["other"]));
            }
        }
        assert!(followed.has_changed().unwrap());
        let (all, _) = logs.last(&of("a/b", None), 1000);
        assert_eq!(all.len(), 60);
        assert!(all.is_sorted_by_key(|line| line.number));
        let (last, _) = logs.last(&of("a/b", None), 4);
        assert_eq!(texts(&last), ["n3 18", "n1 19", "n2 19", "n3 19"]);
        let (own, _) = logs.last(&of("a/b", Some("n2")), 2);
        assert_eq!(texts(&own), ["n2 18", "n2 19"]);
        assert!(logs.last(&of("a/b", Some("n4")), 2).0.is_empty());
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let next = logs.after(&of("a/b", None), after, 7);
            let Some(last) = next.last() else { break };
            after = last.number;
            seen.extend(next);
        }
        assert_eq!(texts(&seen), texts(&all));
    }

    #[test]
    fn who_writes_much_loses_its_own_older_lines() {
        let logs = Logs::new();
        take(&logs, "n1", part("a/quiet", 1, true, 0, &["quiet"]));
        let long = "x".repeat(10_000);
        let many = vec![long.as_str(); 20];
        // More than there is room for in all.
        let loud = BYTES_MAX / EXECUTION_BYTES_MAX * 2;
        for turn in 0..2 {
            for number in 0..loud {
                let job = format!("loud/{number}");
                let position = turn * 20 * 10_001;
                take(
                    &logs,
                    &format!("n{}", number / 200),
                    part(&job, 1, true, position, &many),
                );
            }
        }
        let counts = logs.counts();
        assert!(counts.bytes <= BYTES_MAX && counts.bytes > BYTES_MAX / 2);
        assert_eq!(texts(&logs.last(&of("a/quiet", None), 9).0), ["quiet"]);
        let kept = |number: usize| {
            logs.last(&of(&format!("loud/{number}"), None), 1000)
                .0
                .len()
        };
        assert!((0..loud).all(|number| kept(number) > 5));
        let bytes: usize = logs
            .inner()
            .nodes
            .values()
            .flat_map(BTreeMap::values)
            .map(|tail| tail.bytes)
            .sum();
        assert_eq!(bytes, counts.bytes);
        // How far they are is known all the same.
        assert_eq!(
            take(&logs, "n0", part("loud/0", 1, false, 0, &[])),
            Some(2 * 20 * 10_001)
        );
    }

    #[test]
    fn a_node_that_makes_up_executions_drives_out_its_own() {
        let logs = Logs::new();
        take(&logs, "good", part("a/b", 1, true, 0, &["good"]));
        for number in 0..2 * NODE_EXECUTIONS_MAX {
            take(
                &logs,
                "bad",
                part(&format!("a/{number}"), 1, true, 0, &["bad"]),
            );
        }
        assert_eq!(logs.counts().executions, NODE_EXECUTIONS_MAX + 1);
        assert_eq!(texts(&logs.last(&of("a/b", None), 9).0), ["good"]);
        for number in 0..STREAMS_MAX as u32 * 2 {
            take(&logs, "good", part("a/b", number, true, 0, &["again"]));
        }
        let (inner, of) = (logs.inner(), of("a/b", None));
        let tail = inner.tails(&of).next().unwrap();
        assert_eq!(tail.known.len(), STREAMS_MAX);
    }

    #[test]
    fn an_answer_has_a_bound() {
        let logs = Logs::new();
        let long = "x".repeat(20_000);
        let many = vec![long.as_str(); 10];
        for node in 0..100 {
            take(&logs, &format!("n{node}"), part("a/b", 1, true, 0, &many));
        }
        let (lines, _) = logs.last(&of("a/b", None), 10_000);
        let bytes: usize = lines.iter().map(|line| line.cost()).sum();
        assert!(bytes <= ANSWER_BYTES_MAX && bytes > ANSWER_BYTES_MAX / 2);
        assert!(lines.is_sorted_by_key(|line| line.number));
        assert!(logs.after(&of("a/b", None), 0, 10_000).len() < 1000);
    }

    #[test]
    fn so_much_is_taken_at_once_and_no_more() {
        let logs = Logs::new();
        assert!(logs.admits(TAKEN_AT_ONCE as usize - 1000));
        assert!(!logs.admits(TAKEN_AT_ONCE as usize));
        assert!(logs.admits(10));
    }
}
