//! What of a job document an agent looks at: how to run it, and how to see its health.
//!
#![doc = include_str!("../../docs/workload.md")]

pub(crate) mod fault;
mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::read::known;
use crate::artifact::Artifact;

/// What a job file may say of its workload, as Markdown.
pub const FIELDS: &str = include_str!("../../docs/workload.md");

/// How to run something, and how to see its health.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The driver's name.
    pub driver: String,
    /// What that needs.
    pub config: Map<String, Value>,
    /// Done when it exits with 0.
    pub batch: bool,
    /// From the signal to stop to the kill.
    pub stop_grace: Duration,
    /// What it brings along.
    pub artifact: Option<Artifact>,
    /// The environment, before words are replaced.
    pub env: BTreeMap<String, String>,
    /// What it listens on.
    pub ports: Vec<Port>,
    /// What of the node it sees.
    pub volumes: Vec<Volume>,
    /// What it may use.
    pub resources: Resources,
    /// How its health is seen.
    pub checks: Vec<Check>,
    /// How its requests are counted.
    pub error_rate: Option<ErrorRate>,
    /// The new run starts before the old one stops.
    pub start_first: bool,
    /// What happens when it ends.
    pub restart: Restart,
    /// The length of an interval of health.
    pub interval: Duration,
    /// For how long it is to be healthy before it has proved itself.
    pub min_healthy: Duration,
}

/// A directory or a file of the node, or something the engine keeps, inside a container.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// An absolute path on the node, or a name.
    pub source: String,
    /// An absolute path inside.
    pub target: String,
    /// It cannot be changed from inside.
    #[serde(default)]
    pub read_only: bool,
}

/// The most that a workload may use.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// So many cores' time.
    pub cpus: Option<f64>,
    /// So many at once.
    pub processes: Option<u32>,
}

impl Resources {
    /// Billionths of a core; 0 = as many as there are.
    pub(crate) fn nano_cpus(self) -> u64 {
        self.cpus.map_or(0, |cpus| (cpus * 1e9) as u64)
    }
}

/// A port that a workload listens on.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What checks and the environment call it.
    pub name: String,
    /// Where it is always the same; a free one otherwise.
    #[serde(default)]
    pub port: Option<u16>,
}

/// One way to see whether a workload is well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What is tried.
    pub probe: Probe,
    /// How often.
    pub interval: Duration,
    /// When no answer is a failure.
    pub timeout: Duration,
    /// So many in a row turn it to passing.
    pub passes: u32,
    /// So many in a row turn it to failing.
    pub fails: u32,
    /// Until it first passed, failures within this time say nothing.
    pub start_period: Duration,
}

/// What a check tries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// A GET that is answered with 200 to 399.
    Http {
        /// Where.
        port: PortRef,
        /// What is asked for.
        path: String,
    },
    /// A connection.
    Tcp {
        /// Where to.
        port: PortRef,
    },
    /// A program that exits with 0.
    Command {
        /// It and its arguments.
        command: Vec<String>,
    },
    /// That the process lives.
    Process,
}

impl Probe {
    /// As the job says it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Command { .. } => "command",
            Self::Process => "process",
        }
    }
}

/// One of a workload's ports, or one that is named by its number.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(untagged)]
pub enum PortRef {
    /// That one.
    Number(u16),
    /// The one of this name.
    Name(String),
}

/// How requests are counted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum ErrorRate {
    /// Each result of a check is one.
    Checks {},
    /// By the workload itself.
    Prometheus {
        /// Where; the first port if nothing is said.
        port: Option<PortRef>,
        /// The page; `/metrics` if nothing is said.
        path: Option<String>,
        /// The counter of all of them.
        requests: String,
        /// The counter of those that failed.
        failed: String,
    },
    /// By lines of its output.
    Logs {
        /// What is in the line of each of them.
        requests: String,
        /// What is in the line of one that failed.
        failed: String,
    },
}

/// What happens when a workload ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Restart {
    /// Whether it is started again.
    pub policy: Policy,
    /// How often in a row; `None` = without end.
    pub attempts: Option<u32>,
    /// How long before the first restart in a row; doubles with each.
    pub backoff: Duration,
    /// How long at the most.
    pub backoff_max: Duration,
    /// What ran so long begins a new row.
    pub reset_after: Duration,
    /// When it has failed, what ran before it runs again.
    pub put_back: bool,
}

/// When something is started again.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// However it ended.
    Always,
    /// Unless it exited with 0.
    OnFailure,
    /// Not.
    Never,
}

impl Restart {
    /// How long to wait after so many quick ends in a row.
    pub fn wait(&self, row: u32) -> Duration {
        let doubled = 1_u32.checked_shl(row).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(doubled).min(self.backoff_max)
    }
}

/// A port's name as a variable calls it: `admin-http` is `ADMIN_HTTP`.
pub(crate) fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}
