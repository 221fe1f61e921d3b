//! What of a job document an agent looks at: how to run it, and how to see its health.
//!
//! The server has checked the document's outline. What is inside is checked here, once: an unknown field or a value that makes
//! no sense becomes `cannot_start`, with a sentence that names it.
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `config.stop_grace` | `10s` | from the signal to stop to the kill; with any driver |
//! | `config`, the rest | | the driver's, see [`exec`](crate::driver::exec) |
//! | `env` | | the workload's environment: nothing of the agent's is passed on but `PATH` |
//! | `ports` | | `[{"name": "http", "port": 8080}]`; without `port`, the agent picks a free one for each run |
//! | `checks` | | see below; that the process lives is always checked |
//! | `error_rate` | | see below |
//! | `switch` | `stop_first` | or `start_first`: the old run goes on until the new one is healthy; not with a fixed port |
//! | `restart.policy` | `always`; `on_failure` for a batch | or `never`. After `on_failure`, an exit with 0 is final |
//! | `restart.attempts` | unlimited; 3 for a batch | so many restarts in a row, and it is given up |
//! | `restart.backoff`, `backoff_max` | `1s`, `1m` | doubles with every restart in a row |
//! | `restart.reset_after` | `1m` | what ran so long begins a new row |
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
//! | `start_period` | `10s` | until it first passed, failures within this time say nothing |
//!
//! `error_rate` is one of
//!
//! - `{"from": "checks"}`: each result of a check is a request;
//! - `{"from": "prometheus", "port": "http", "path": "/metrics", "requests": "http_requests_total", "failed":
//!   "http_errors_total"}`: two counters, each a name, or `name{label="value"}`; of several series that match, the sum.
//!   While it cannot be read, the interval has no result: nobody knows is not healthy.
//!
//! In `command`, `args`, `env`, `directory`, `path` these words are replaced, and other braces are left alone: `{NODE}`,
//! `{NAMESPACE}`, `{JOB}`, `{VERSION}`, `{SLOT}`, `{PORT}` (the first), `{PORT_HTTP}` (the one named `http`). The
//! workload finds the ports as `PORT` and `PORT_HTTP` in its environment, and the rest as `ORCHESTRATOR_NODE` and so on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::health::prometheus::Selector;

/// The most ports, and the most checks.
const LIST_MAX: usize = 32;
const INTERVAL_MIN: Duration = Duration::from_millis(100);

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
    /// The environment, before words are replaced.
    pub env: BTreeMap<String, String>,
    /// What it listens on.
    pub ports: Vec<Port>,
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

impl Workload {
    /// Reads a job document; else the sentence that says what is wrong with it.
    pub fn read(document: &Value) -> Result<Self, String> {
        let batch = document["job_type"] == "batch";
        for unable in ["artifact", "volumes"] {
            let value = &document[unable];
            if !(value.is_null() || value.as_array().is_some_and(Vec::is_empty)) {
                return Err(format!("{unable}: this agent cannot do that"));
            }
        }
        let driver: String = need(document, "driver")?;
        let mut config: Map<String, Value> = need(document, "config")?;
        let stop_grace = match config.remove("stop_grace") {
            Some(value) => span(&value).map_err(|why| format!("config: stop_grace: {why}"))?,
            None => Duration::from_secs(10),
        };
        let ports: Vec<Port> = part(document, "ports")?.unwrap_or_default();
        check_ports(&ports)?;
        let checks: Vec<CheckDocument> = part(document, "checks")?.unwrap_or_default();
        if checks.len() > LIST_MAX {
            return Err(format!("checks: more than {LIST_MAX}"));
        }
        let checks = checks.into_iter().enumerate().map(|(at, check)| {
            let read = check.read(&ports);
            read.map_err(|why| format!("checks: number {}: {why}", at + 1))
        });
        let checks = checks.collect::<Result<Vec<_>, _>>()?;
        let error_rate: Option<ErrorRate> = part(document, "error_rate")?;
        if let Some(ErrorRate::Prometheus {
            port,
            path: _,
            requests,
            failed,
        }) = &error_rate
        {
            let counters = Selector::read(requests).and_then(|_| Selector::read(failed));
            let checked = counters.and_then(|_| known(port.as_ref(), &ports));
            checked.map_err(|why| format!("error_rate: {why}"))?;
        }
        let start_first = document["switch"] == "start_first";
        if let Some(fixed) = ports.iter().find(|port| port.port.is_some())
            && start_first
        {
            let name = &fixed.name;
            return Err(format!(
                "switch: start_first, but port {name} is fixed: two runs cannot share it"
            ));
        }
        let restart: RestartDocument = part(document, "restart")?.unwrap_or_default();
        let interval = match &document["rollout"]["health_check"]["interval"] {
            Value::Null => Duration::from_secs(10),
            value => {
                span(value).map_err(|why| format!("rollout: health_check: interval: {why}"))?
            }
        };
        Ok(Self {
            driver,
            config,
            batch,
            stop_grace,
            env: environment(&document["env"]),
            ports,
            checks,
            error_rate,
            start_first,
            restart: restart.read(batch),
            interval: interval.max(INTERVAL_MIN),
        })
    }
}

impl Restart {
    /// How long to wait after so many quick ends in a row.
    pub fn wait(&self, row: u32) -> Duration {
        let doubled = 1_u32.checked_shl(row).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(doubled).min(self.backoff_max)
    }
}

fn check_ports(ports: &[Port]) -> Result<(), String> {
    if ports.len() > LIST_MAX {
        return Err(format!("ports: more than {LIST_MAX}"));
    }
    for (at, port) in ports.iter().enumerate() {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if port.name.is_empty() || port.name.len() > 40 || !port.name.bytes().all(allowed) {
            return Err(format!(
                "ports: {:?}: a name is 1 to 40 of letters, digits, '-' and '_'",
                port.name
            ));
        }
        if ports[..at]
            .iter()
            .any(|other| variable(&other.name) == variable(&port.name))
        {
            return Err(format!("ports: {:?} is there twice", port.name));
        }
        if port.port == Some(0) {
            return Err(format!("ports: {:?}: 0 is no port", port.name));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckDocument {
    #[serde(rename = "type")]
    kind: String,
    port: Option<PortRef>,
    path: Option<String>,
    command: Option<Vec<String>>,
    interval: Option<Span>,
    timeout: Option<Span>,
    passes: Option<u32>,
    fails: Option<u32>,
    start_period: Option<Span>,
}

impl CheckDocument {
    fn read(self, ports: &[Port]) -> Result<Check, String> {
        let only = |fields: &[&str]| {
            let given = [
                ("port", self.port.is_some()),
                ("path", self.path.is_some()),
                ("command", self.command.is_some()),
            ];
            let strange = given
                .iter()
                .find(|(name, is)| *is && !fields.contains(name));
            strange.map_or(Ok(()), |(name, _)| {
                Err(format!("a check of type {:?} takes no {name}", self.kind))
            })
        };
        let probe = match self.kind.as_str() {
            "http" => {
                only(&["port", "path"])?;
                let path = self.path.clone().unwrap_or_else(|| "/".to_owned());
                if !path.starts_with('/') {
                    return Err(format!("path: {path:?} does not begin with '/'"));
                }
                let port = known(self.port.as_ref(), ports)?;
                Probe::Http { port, path }
            }
            "tcp" => {
                only(&["port"])?;
                let port = known(self.port.as_ref(), ports)?;
                Probe::Tcp { port }
            }
            "command" => {
                only(&["command"])?;
                let command = self.command.clone().unwrap_or_default();
                if command.is_empty() {
                    return Err("command: missing; the program and its arguments".to_owned());
                }
                Probe::Command { command }
            }
            "process" => {
                only(&[])?;
                Probe::Process
            }
            other => {
                return Err(format!(
                    "type: {other:?} is none of http, tcp, command, process"
                ));
            }
        };
        Ok(Check {
            probe,
            interval: span_or(self.interval, 5).max(INTERVAL_MIN),
            timeout: span_or(self.timeout, 2)
                .clamp(Duration::from_millis(1), Duration::from_secs(300)),
            passes: self.passes.unwrap_or(1).max(1),
            fails: self.fails.unwrap_or(1).max(1),
            start_period: span_or(self.start_period, 10),
        })
    }
}

/// The port that is meant, if there is such a one.
pub(crate) fn known(port: Option<&PortRef>, ports: &[Port]) -> Result<PortRef, String> {
    match (port, ports.first()) {
        (Some(PortRef::Name(name)), _) if !ports.iter().any(|port| port.name == *name) => {
            Err(format!("port: no {name:?} among the ports"))
        }
        (Some(port), _) => Ok(port.clone()),
        (None, Some(first)) => Ok(PortRef::Name(first.name.clone())),
        (None, None) => Err("port: missing, and the job has no ports".to_owned()),
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestartDocument {
    policy: Option<Policy>,
    attempts: Option<u32>,
    backoff: Option<Span>,
    backoff_max: Option<Span>,
    reset_after: Option<Span>,
}

impl RestartDocument {
    fn read(self, batch: bool) -> Restart {
        let (policy, attempts) = match batch {
            true => (Policy::OnFailure, Some(3)),
            false => (Policy::Always, None),
        };
        Restart {
            policy: self.policy.unwrap_or(policy),
            attempts: self.attempts.or(attempts),
            backoff: span_or(self.backoff, 1).max(INTERVAL_MIN),
            backoff_max: span_or(self.backoff_max, 60),
            reset_after: span_or(self.reset_after, 60),
        }
    }
}

/// A length of time as people write it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = humantime::parse_duration(&text);
        read.map(Self)
            .map_err(|_| format!("{text:?} is no length of time such as \"30s\""))
    }
}

fn span_or(given: Option<Span>, secs: u64) -> Duration {
    given.map_or_else(|| Duration::from_secs(secs), |span| span.0)
}

fn span(value: &Value) -> Result<Duration, String> {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    Span::try_from(text).map(|span| span.0)
}

fn part<T: DeserializeOwned>(document: &Value, name: &str) -> Result<Option<T>, String> {
    match &document[name] {
        Value::Null => Ok(None),
        value => T::deserialize(value)
            .map(Some)
            .map_err(|why| format!("{name}: {why}")),
    }
}

fn need<T: DeserializeOwned>(document: &Value, name: &str) -> Result<T, String> {
    part(document, name)?.ok_or_else(|| format!("{name}: missing"))
}

fn environment(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    entries
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

/// A port's name as a variable calls it: `admin-http` is `ADMIN_HTTP`.
pub(crate) fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            (json!({ "config": {} }), "driver: missing"),
            (
                json!({ "checks": [{ "type": "udp" }] }),
                "checks: number 1: type: \"udp\" is none of http",
            ),
            (
                json!({ "checks": [{ "type": "http" }] }),
                "checks: number 1: port: missing",
            ),
            (
                json!({ "checks": [{ "type": "tcp", "port": "x" }] }),
                "no \"x\" among the ports",
            ),
            (
                json!({ "checks": [{ "type": "tcp", "port": 1, "path": "/" }] }),
                "takes no path",
            ),
            (
                json!({ "checks": [{ "type": "tcp", "port": 1, "often": 1 }] }),
                "unknown field `often`",
            ),
            (
                json!({ "checks": [{ "type": "tcp", "port": 1, "timeout": "soon" }] }),
                "\"soon\" is no length",
            ),
            (json!({ "ports": [{ "name": "a b" }] }), "ports: \"a b\""),
            (
                json!({ "ports": [{ "name": "a" }, { "name": "A" }] }),
                "is there twice",
            ),
            (
                json!({ "ports": [{ "name": "a", "port": 1 }], "switch": "start_first" }),
                "port a is fixed",
            ),
            (
                json!({ "restart": { "tries": 1 } }),
                "restart: unknown field `tries`",
            ),
            (
                json!({ "error_rate": { "from": "logs" } }),
                "error_rate: unknown variant `logs`",
            ),
            (
                json!({ "artifact": { "url": "x" } }),
                "artifact: this agent cannot",
            ),
            (
                json!({ "config": { "stop_grace": 5 } }),
                "config: stop_grace: \"5\"",
            ),
        ];
        for (wrong, sentence) in cases {
            let mut document = json!({ "driver": "exec", "config": {} });
            let all = document.as_object_mut().unwrap();
            if sentence.starts_with("driver") {
                all.clear();
            }
            all.extend(wrong.as_object().unwrap().clone());
            let why = Workload::read(&document).unwrap_err();
            assert!(why.contains(sentence), "{why}");
        }
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let document = json!({ "driver": "exec", "config": {}, "restart": { "backoff": "2s", "backoff_max": "9s" } });
        let restart = Workload::read(&document).unwrap().restart;
        let waits = [0, 1, 2, 3, 40, u32::MAX].map(|row| restart.wait(row).as_secs());
        assert_eq!(waits, [2, 4, 8, 9, 9, 9]);
    }
}
