//! Names and numbers of things.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::draw::draw;
use crate::time::Time;

/// The longest a namespace, a job's name or a node's name may be, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// `namespace/job_id`, the one name of a job.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct JobId {
    namespace: Box<str>,
    name: Box<str>,
}

impl JobId {
    /// Both parts must be [valid names](is_name).
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        for part in [namespace, name] {
            if !is_name(part) {
                return Err(InvalidName(part.chars().take(80).collect()));
            }
        }
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    /// The first part; `default` where nobody said otherwise.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The second part, the record's `job_id`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for JobId {
    type Err = InvalidName;

    /// Takes `namespace/name`, or `name` alone in the namespace `default`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new("default", text),
        }
    }
}

/// A name that breaks the rule of [`is_name`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no name: 1 to {NAME_BYTES_MAX} of letters, digits, '-', '_' and '.'")]
pub struct InvalidName(pub String);

/// Whether `text` may name a namespace, a job or a node: 1 to [`NAME_BYTES_MAX`] of letters,
/// digits, `-`, `_` and `.`.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A UUIDv7 whose random part is drawn from the job's seed, so that every replay gives it again.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct DeploymentId(Uuid);

impl DeploymentId {
    pub(crate) fn derive(seed: u64, job: &JobId, number: u32, at: Time) -> Self {
        let mut random = [0; 10];
        // Jobs that share a seed share no id.
        let of = format!("{job}/{number}");
        let halves = [
            draw(seed, "id", of.as_bytes()),
            draw(seed, "id2", of.as_bytes()),
        ];
        random[..8].copy_from_slice(&halves[0].to_be_bytes());
        random[8..].copy_from_slice(&halves[1].to_be_bytes()[..2]);
        Self(uuid::Builder::from_unix_timestamp_millis(at.as_millis(), &random).into_uuid())
    }

    /// The id as the `uuid` crate knows it.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DeploymentId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
