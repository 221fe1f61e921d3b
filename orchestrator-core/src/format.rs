//! The form in which entries and snapshots are kept: JSON, versioned, read for ever.
//!
//! Neither is ever rewritten: a later form is made of an earlier one when that is read. Entries are the truth, and
//! a snapshot is what they amount to; for a driver that throws old entries away it takes their place.

use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer};
use serde::de::{DeserializeSeed, Error, MapAccess};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::admit;
use crate::draw::draw;
use crate::event::{Entry, Event, Of, is_zero};
use crate::job::Job;
use crate::state::State;
use crate::time::Time;

/// The version of every kind of entry that is written today.
const ENTRY_VERSION: u32 = 1;
/// The version of snapshots.
const SNAPSHOT_VERSION: u32 = 1;

/// Bytes that are no entry or no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not the form that was expected.
    #[error("not {what}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// Where it went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A kind of entry that this program has never heard of.
    #[error("no kind of entry is called {kind:?}: a newer program wrote it, or none")]
    UnknownKind {
        /// As it was written.
        kind: String,
    },
    /// Not what was written.
    #[error("the snapshot is damaged: read the log from its beginning, or restore a copy")]
    Damaged,
    /// A line of a file.
    #[error(
        "line {line} of the log, which begins at byte {byte}, cannot be read: restore it from a copy"
    )]
    Line {
        /// Counts from 1.
        line: usize,
        /// Where it begins.
        byte: usize,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// A version that this program does not read.
    #[error("{kind} is of version {found}, this program reads 1 to {known}: use a newer one")]
    OtherVersion {
        /// The kind of entry, or `snapshot`.
        kind: String,
        /// Its version.
        found: u32,
        /// The highest known one.
        known: u32,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    seq: u64,
    at: u64,
    elapsed: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    of: Option<Of>,
    #[serde(skip_serializing_if = "is_zero")]
    more: u32,
    v: u32,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Deserialize)]
struct Read<'a> {
    seq: u64,
    at: u64,
    elapsed: u64,
    deployment: Option<u32>,
    revision: Option<u64>,
    #[serde(default)]
    more: u32,
    v: u32,
    kind: &'a str,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// The part of an entry that an [`Event`] is read from, in the order in which it likes it best.
struct What<'a> {
    kind: Option<&'a str>,
    body: Option<&'a RawValue>,
    /// The kind was taken for one that there is.
    known: bool,
}

impl<'a> MapAccess<'a> for What<'a> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        let key = match self {
            Self { kind: Some(_), .. } => "kind",
            Self { body: Some(_), .. } => {
                self.known = true;
                "body"
            }
            _ => {
                self.known = true;
                return Ok(None);
            }
        };
        seed.deserialize(BorrowedStrDeserializer::new(key))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        match (self.kind.take(), self.body) {
            (Some(kind), _) => seed.deserialize(BorrowedStrDeserializer::new(kind)),
            (None, Some(body)) => {
                self.body = None;
                seed.deserialize(body)
            }
            (None, None) => Err(Self::Error::custom("a value was asked for before its key")),
        }
    }
}

/// What happened, of a kind and its body.
fn read_event<'a, E: Deserialize<'a>>(
    kind: &'a str,
    body: Option<&'a RawValue>,
    what: &'static str,
) -> Result<E, FormatError> {
    let mut read = What {
        kind: Some(kind),
        body,
        known: false,
    };
    let event = E::deserialize(MapAccessDeserializer::new(&mut read));
    if !read.known && event.is_err() {
        let kind = admit::clip(kind);
        return Err(FormatError::UnknownKind { kind });
    }
    event.map_err(|source| FormatError::Malformed { what, source })
}

impl Entry {
    /// One line of JSON: `{"seq":…,"at":…,"elapsed":…,"deployment":…,"revision":…,"more":…,"v":1,"kind":…,"body":…}`.
    pub fn encode(&self) -> String {
        let Self {
            seq,
            at,
            elapsed,
            of,
            more,
            event,
        } = self;
        let written = Written {
            seq: *seq,
            at: at.as_millis(),
            elapsed: *elapsed,
            of: *of,
            more: *more,
            v: ENTRY_VERSION,
            event,
        };
        serde_json::to_string(&written)
            .expect("entries hold nothing that JSON cannot: no maps but of texts")
    }

    /// Reads a file of such lines up to the end of its last whole step: the entries, and how many bytes they take.
    /// What comes after that was cut while it was written, and nobody was told of it: the file is to be cut there before
    /// anything is appended.
    pub fn decode_log(file: &[u8]) -> Result<(Vec<Self>, usize), FormatError> {
        let (mut entries, mut whole, mut read) = (Vec::new(), (0, 0), 0);
        for (line, text) in (1..).zip(file.split_inclusive(|&byte| byte == b'\n')) {
            let byte = read;
            read += text.len();
            let Some(text) = text.strip_suffix(b"\n") else {
                break;
            };
            let entry = decode_bytes(text).map_err(|why| FormatError::Line {
                line,
                byte,
                source: Box::new(why),
            })?;
            let ends = entry.more == 0;
            entries.push(entry);
            if ends {
                whole = (entries.len(), read);
            }
        }
        entries.truncate(whole.0);
        Ok((entries, whole.1))
    }

    /// Reads what [`Entry::encode`] wrote, today or by any released version.
    pub fn decode(line: &str) -> Result<Self, FormatError> {
        let what = "an entry of a job's log";
        let Read {
            seq,
            at,
            elapsed,
            deployment,
            revision,
            more,
            v,
            kind,
            body,
        } = serde_json::from_str(line).map_err(|source| FormatError::Malformed { what, source })?;
        check_version(kind, v, ENTRY_VERSION)?;
        // Older versions of a kind are turned into today's here, by (kind, v).
        let event = read_event(kind, body, what)?;
        let of = match (deployment, revision) {
            (Some(deployment), Some(revision)) => Some(Of {
                deployment,
                revision,
            }),
            (None, None) => None,
            _ => {
                let half = "`deployment` and `revision` come together, or not at all";
                let source = serde_json::Error::custom(half);
                return Err(FormatError::Malformed { what, source });
            }
        };
        Ok(Self {
            seq,
            at: Time::from_millis(at),
            elapsed,
            of,
            more,
            event,
        })
    }
}

/// An entry of the small machines, [`fleet`](crate::fleet) and [`group`](crate::group): no time but the driver's, and
/// no deployment.
#[derive(Serialize)]
struct SmallWritten<'a, E> {
    v: u32,
    seq: u64,
    at: u64,
    #[serde(flatten)]
    event: &'a E,
}

#[derive(Deserialize)]
struct SmallRead<'a> {
    v: u32,
    seq: u64,
    at: u64,
    kind: &'a str,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

pub(crate) fn encode_small<E: Serialize>(seq: u64, at: Time, event: &E) -> String {
    let written = SmallWritten {
        v: ENTRY_VERSION,
        seq,
        at: at.as_millis(),
        event,
    };
    serde_json::to_string(&written).expect("these hold nothing that JSON cannot: keys are texts")
}

pub(crate) fn decode_small<'a, E: Deserialize<'a>>(
    line: &'a str,
    what: &'static str,
) -> Result<(u64, Time, E), FormatError> {
    let SmallRead {
        v,
        seq,
        at,
        kind,
        body,
    } = serde_json::from_str(line).map_err(|source| FormatError::Malformed { what, source })?;
    check_version(kind, v, ENTRY_VERSION)?;
    // Older versions of a kind are turned into today's here, by (what, kind, v).
    let event = read_event(kind, body, what)?;
    Ok((seq, Time::from_millis(at), event))
}

/// The snapshot of any of the machines; of another version only the version is known. The sum tells one that was
/// damaged from one that was not: what is in it is taken for granted.
#[derive(Deserialize)]
struct Snapshot<'a> {
    v: u32,
    sum: Option<u64>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
}

fn sum(state: &str) -> u64 {
    draw(0, "snapshot", state.as_bytes())
}

pub(crate) fn write_snapshot<S: Serialize>(state: &S) -> Vec<u8> {
    let state = serde_json::to_string(state)
        .expect("a state holds nothing that JSON cannot: keys are texts and numbers");
    let sum = sum(&state);
    let head = format!(r#"{{"v":{SNAPSHOT_VERSION},"sum":{sum},"state":"#);
    // Put together by hand: it may be hundreds of megabytes, and is copied but once.
    [head.as_bytes(), state.as_bytes(), b"}"].concat()
}

pub(crate) fn read_snapshot<'a, S: Deserialize<'a>>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<S, FormatError> {
    let malformed = |source| FormatError::Malformed { what, source };
    let Snapshot {
        v,
        sum: found,
        state,
    } = serde_json::from_slice(bytes).map_err(malformed)?;
    check_version("snapshot", v, SNAPSHOT_VERSION)?;
    let missing = |field| malformed(serde_json::Error::missing_field(field));
    let found = found.ok_or_else(|| missing("sum"))?;
    let state = state.ok_or_else(|| missing("state"))?;
    if found != sum(state.get()) {
        return Err(FormatError::Damaged);
    }
    serde_json::from_str(state.get()).map_err(malformed)
}

fn check_version(kind: &str, found: u32, known: u32) -> Result<(), FormatError> {
    if (1..=known).contains(&found) {
        return Ok(());
    }
    Err(FormatError::OtherVersion {
        kind: admit::clip(kind),
        found,
        known,
    })
}

fn decode_bytes(line: &[u8]) -> Result<Entry, FormatError> {
    let text = std::str::from_utf8(line).map_err(|why| FormatError::Malformed {
        what: "an entry of a job's log",
        source: serde_json::Error::custom(why),
    })?;
    Entry::decode(text)
}

impl Job {
    /// The whole state. Two jobs are in the same state when these are the same bytes.
    ///
    /// To be kept only when all entries up to [`seq`](Self::seq) are safe: a snapshot that is ahead of its log would
    /// be followed by entries that the log has a hole before. Whoever reads the log from a file keeps the place where
    /// the entry after it begins together with it.
    pub fn snapshot(&self) -> Vec<u8> {
        write_snapshot(&self.state)
    }

    /// The job as it was; [`Job::catch_up`] takes in what came after. Whose it is says [`Job::id`].
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut state: State = read_snapshot(bytes, "a snapshot of a job")?;
        if let Some(rollout) = &mut state.rollout {
            rollout.recount();
        }
        if state.replicas.is_some() {
            let distinct = state.distinct();
            state.members.index(state.seed, distinct);
            state.spare = state.spare_now();
        }
        Ok(Self::rebuilt(state))
    }
}
