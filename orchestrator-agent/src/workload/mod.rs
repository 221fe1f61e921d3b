//! What of a job document an agent looks at: how to run it, and how to see its health.
//!
//! The server has checked the document's outline. What is inside is checked here, once: an unknown field or a value that makes
//! no sense becomes `cannot_start`, with a sentence that names it.
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `config.stop_grace` | `10s` | from the signal to stop to the kill; with any driver. A signal that cannot be given is tried again for a minute |
//! | `config`, the rest | | the driver's, see [`exec`](crate::driver::exec), [`docker`](crate::driver::docker), [`external`](crate::driver::external) |
//! | `env` | | the workload's environment: nothing of the agent's is passed on but `PATH` |
//! | `ports` | | `[{"name": "http", "port": 8080}]`; without `port`, the agent picks a free one for each run |
//! | `checks` | | see below; that the process lives is always checked |
//! | `error_rate` | | see below |
//! | `switch` | `stop_first` | or `start_first`: the old run goes on until the new one is healthy, which may be never; not with a fixed port. Either way an old run that is wanted again before it was stopped goes on as it is: a rollback to it restarts nothing |
//! | `restart.policy` | `always`; `on_failure` for a batch | or `never`. After `on_failure`, an exit with 0 is final |
//! | `restart.attempts` | unlimited; 3 for a batch | so many restarts in a row, and it is given up |
//! | `restart.backoff`, `backoff_max` | `1s`, `1m` | doubles with every restart in a row |
//! | `restart.put_back` | `false` | when a version that is new here cannot start, or is not started again, what ran before runs again, until something else is wanted; so it does when the deployment that began it ends while it is down and was never healthy. What has been healthy for as long as a deployment asks for, and after its end, is started again by its policy. No deployment waits for long with the strategy `immediate` |
//! | `restart.reset_after` | `1m` | what ran so long begins a new row |
//! | `volumes` | | `[{"source": "/srv/data", "target": "/data", "read_only": true}]`; for containers |
//! | `resources` | | `{"memory_bytes": 268435456, "cpus": 0.5, "processes": 100}`: it gets no more. A node that cannot hold a program to it, for want of control groups, says so among the run's `remarks` on the status page |
//! | `artifact` | | a file or an archive that it brings along, see [`artifact`](crate::artifact) |
//!
//! A check:
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `type` | required | `http`, `tcp`, `command`, `process` |
//! | `port` | the first | the name of one of the `ports`, or a number, on 127.0.0.1; for `http` and `tcp` |
//! | `path` | `/` | for `http`: an answer of 200 to 399 passes |
//! | `command` | | for `command`: program and arguments; an exit with 0 passes |
//! | `interval`, `timeout` | `5s`, `2s` | how often, and when no answer is a failure |
//! | `passes`, `fails` | 1, 1 | so many results in a row turn it |
//! | `start_period` | `10s` | until it first passed, failures within this time say nothing, and it is tried every half second |
//!
//! `error_rate` is one of
//!
//! - `{"from": "checks"}`: each result of a check is a request;
//! - `{"from": "prometheus", "port": "http", "path": "/metrics", "requests": "http_requests_total", "failed":
//!   "http_errors_total"}`: two counters, each a name, or `name{label="value"}`; of several series that match, the sum.
//!   A page has 1 MiB at the most. While it cannot be read, or a series that was there is away or no number, the interval has
//!   no result: nobody knows is not healthy. The status page says why, among the checks. Until there is a counter of
//!   failures, nothing has failed; one that is less than before has begun again;
//! - `{"from": "logs", "requests": "\" [1-5][0-9][0-9] ", "failed": "\" 5[0-9][0-9] "}`: two regular expressions of at most 200
//!   bytes, each for a part of a line; a line that matches both counts for both. A line is what ends with an end of line on
//!   standard output or standard error, and is not empty; of a longer one the first 8 KiB are looked at. An interval without
//!   lines had no requests. Looking takes a fifth of a core at the most, which is enough for some thousand lines a second; of
//!   what is written faster, or is gone from its files before, a part is counted, and a remark of the run says so. After a
//!   restart of the agent only what comes from then on is counted; of a container, also what it wrote meanwhile.
//!
//! In `command`, `args`, `env`, `directory`, `path`, and a volume's `source` these words are replaced, and other braces are left alone: `{NODE}`,
//! `{NAMESPACE}`, `{JOB}`, `{VERSION}`, `{SLOT}`, `{PORT}` (the first), `{PORT_HTTP}` (the one named `http`),
//! `{ARTIFACT}` (where it is). The workload finds the ports as `PORT` and `PORT_HTTP` in its environment, and the rest as `ORCHESTRATOR_NODE` and so on.

pub(crate) mod fault;
mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::read::known;
use crate::artifact::Artifact;

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
