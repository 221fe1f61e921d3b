//! From a job document to a workload, or to the sentence that says what is wrong with it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    Check, ErrorRate, Policy, Port, PortRef, Probe, Resources, Restart, Volume, Workload, fault,
    variable,
};
use crate::artifact::Artifact;
use crate::health::lines::Patterns;
use crate::health::prometheus::Selector;

/// The most ports, checks or volumes.
const LIST_MAX: usize = 32;
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Of a rollout whose document does not say them.
const INTERVAL: Duration = Duration::from_secs(10);
const MIN_HEALTHY_TIME: Duration = Duration::from_secs(30);
const INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Workload {
    /// Reads a job document; else the sentence that says what is wrong with it.
    pub fn read(document: &Value) -> Result<Self, String> {
        let batch = document["job_type"] == "batch";
        let driver: String = need(document, "driver")?;
        let mut config: Map<String, Value> = need(document, "config")?;
        let stop_grace = match config.remove("stop_grace") {
            Some(value) => span(&value).map_err(|why| format!("config: stop_grace: {why}"))?,
            None => STOP_GRACE,
        };
        let artifact: Option<Artifact> = part(document, "artifact")?;
        let ports: Vec<Port> = list(document, "ports")?;
        check_ports(&ports)?;
        let volumes: Vec<Volume> = list(document, "volumes")?;
        check_volumes(&volumes)?;
        let resources: Resources = part(document, "resources")?.unwrap_or_default();
        if resources
            .cpus
            .is_some_and(|cpus| !(0.001..=4096.0).contains(&cpus))
        {
            return Err("resources: cpus: 0.001 to 4096".to_owned());
        }
        let checks: Vec<CheckDocument> = list(document, "checks")?;
        let checks = checks.into_iter().enumerate().map(|(at, check)| {
            let read = check.read(&ports);
            read.map_err(|why| format!("checks: number {}: {why}", at + 1))
        });
        let checks = checks.collect::<Result<Vec<_>, _>>()?;
        let error_rate: Option<ErrorRate> = part(document, "error_rate")?;
        if let Some(error_rate) = &error_rate {
            check_error_rate(error_rate, &ports).map_err(|why| format!("error_rate: {why}"))?;
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
            Value::Null => INTERVAL,
            value => {
                span(value).map_err(|why| format!("rollout: health_check: interval: {why}"))?
            }
        };
        let min_healthy = &document["rollout"]["health_check"]["min_healthy_time"];
        Ok(Self {
            driver,
            config,
            batch,
            stop_grace,
            artifact,
            env: environment(&document["env"]),
            ports,
            volumes,
            resources,
            checks,
            error_rate,
            start_first,
            restart: restart.read(batch),
            interval: interval.max(INTERVAL_MIN),
            // Only the server needs to understand it.
            min_healthy: span(min_healthy).unwrap_or(MIN_HEALTHY_TIME),
        })
    }
}

impl Workload {
    /// What of a document is wrong on every node, though each could run it: a deadline that none would meet.
    pub(crate) fn check_deadline(&self, document: &Value) -> Result<(), String> {
        let gate = &document["rollout"]["health_check"];
        let is_gated = !self.batch && document["rollout"]["strategy"] != "immediate";
        let given = |name| gate.get(name).and_then(|value| span(value).ok());
        let Some(deadline) = given("deadline").filter(|_| is_gated) else {
            return Ok(());
        };
        // It is seen healthy at the end of an interval, and counts from there.
        let healthy = self.min_healthy;
        let intervals = healthy.as_nanos().div_ceil(self.interval.as_nanos()) + 1;
        let first = self.interval.as_nanos().saturating_mul(intervals);
        if first < deadline.as_nanos() {
            return Ok(());
        }
        Err(format!(
            "rollout: health_check: deadline: {} is too short: agents report each interval of {}, and so no node shows \
             within it that it was healthy for {}; take a later deadline or a shorter interval",
            humantime::format_duration(deadline),
            humantime::format_duration(self.interval),
            humantime::format_duration(healthy),
        ))
    }

    /// A word that is meant to be replaced, in a place where that is done, and would be left as it is.
    pub(crate) fn check_words(&self, document: &Value) -> Result<(), String> {
        for part in ["config", "env", "volumes", "checks", "error_rate"] {
            self.check_words_in(&document[part])
                .map_err(|why| format!("{part}: {why}"))?;
        }
        Ok(())
    }

    fn check_words_in(&self, value: &Value) -> Result<(), String> {
        match value {
            Value::String(text) => self.check_words_of(text),
            Value::Array(items) => items.iter().enumerate().try_for_each(|(at, item)| {
                let checked = self.check_words_in(item);
                checked.map_err(|why| format!("number {}: {why}", at + 1))
            }),
            Value::Object(fields) => fields.iter().try_for_each(|(name, inner)| {
                let checked = self.check_words_in(inner);
                checked.map_err(|why| format!("{name}: {why}"))
            }),
            _ => Ok(()),
        }
    }

    fn check_words_of(&self, text: &str) -> Result<(), String> {
        let ends = text.split('{').skip(1);
        let words = ends.filter_map(|rest| rest.split_once('}').map(|(word, _)| word));
        for word in words {
            let is_port = |port: &Port| word == format!("PORT_{}", variable(&port.name));
            let what = match word {
                "ARTIFACT" if self.artifact.is_none() => "the job brings no artifact along".into(),
                "PORT" if self.ports.is_empty() => "the job has no ports".into(),
                "PORT" => continue,
                _ if !word.starts_with("PORT") || self.ports.iter().any(is_port) => continue,
                _ => {
                    let names = self.ports.iter().map(|port| variable(&port.name));
                    let known: Vec<_> = names.map(|name| format!("{{PORT_{name}}}")).collect();
                    match known.is_empty() {
                        true => "the job has no ports".to_owned(),
                        false => {
                            format!("the ports are {{PORT}} (the first), {}", known.join(", "))
                        }
                    }
                }
            };
            return Err(format!("{{{word}}} stands for nothing: {what}"));
        }
        Ok(())
    }

    /// What it takes to stop it, and no more.
    pub(crate) fn in_part(document: &Value) -> Self {
        let config = document["config"].as_object().cloned();
        Self {
            driver: document["driver"].as_str().unwrap_or_default().to_owned(),
            config: config.unwrap_or_default(),
            batch: document["job_type"] == "batch",
            stop_grace: STOP_GRACE,
            artifact: None,
            env: BTreeMap::new(),
            ports: Vec::new(),
            volumes: Vec::new(),
            resources: Resources::default(),
            checks: Vec::new(),
            error_rate: None,
            start_first: false,
            restart: RestartDocument::default().read(false),
            interval: INTERVAL,
            min_healthy: MIN_HEALTHY_TIME,
        }
    }
}

fn check_ports(ports: &[Port]) -> Result<(), String> {
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

fn check_error_rate(error_rate: &ErrorRate, ports: &[Port]) -> Result<(), String> {
    match error_rate {
        ErrorRate::Checks {} => Ok(()),
        ErrorRate::Prometheus {
            port,
            path: _,
            requests,
            failed,
        } => {
            Selector::read(requests)?;
            Selector::read(failed)?;
            known(port.as_ref(), ports).map(drop)
        }
        ErrorRate::Logs { requests, failed } => Patterns::read(requests, failed).map(drop),
    }
}

fn check_volumes(volumes: &[Volume]) -> Result<(), String> {
    for Volume { source, target, .. } in volumes {
        // The engine takes both in one text.
        if source.is_empty() || [source, target].iter().any(|path| path.contains(':')) {
            return Err(format!(
                "volumes: {source:?}: a path or a name without a ':'"
            ));
        }
        if !target.starts_with('/') {
            return Err(format!("volumes: {target:?}: not an absolute path"));
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
                let is_of_paths = |byte: u8| byte.is_ascii_graphic();
                if !path.bytes().all(is_of_paths) {
                    return Err(format!(
                        "path: {path:?}: what is no letter, digit or sign of ASCII is written as %20"
                    ));
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
    #[serde(default)]
    put_back: bool,
}

impl RestartDocument {
    fn read(self, batch: bool) -> Restart {
        let (policy, attempts) = match batch {
            true => (Policy::OnFailure, Some(3)),
            false => (Policy::Always, None),
        };
        let backoff = span_or(self.backoff, 1).max(INTERVAL_MIN);
        Restart {
            policy: self.policy.unwrap_or(policy),
            attempts: self.attempts.or(attempts),
            backoff,
            backoff_max: span_or(self.backoff_max, 60).max(backoff),
            reset_after: span_or(self.reset_after, 60),
            put_back: self.put_back,
        }
    }
}

/// The longest time that a document may name.
const SPAN_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A length of time as people write it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = humantime::parse_duration(&text);
        let span = read.map_err(|_| format!("{text:?} is no length of time such as \"30s\""))?;
        if span > SPAN_MAX {
            return Err(format!("{text:?} is too long: no more than a year"));
        }
        Ok(Self(span))
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
        value => fault::read(value)
            .map(Some)
            .map_err(|why| format!("{name}: {why}")),
    }
}

/// Each of several; of one that is wrong its number is said.
fn list<T: DeserializeOwned>(document: &Value, name: &str) -> Result<Vec<T>, String> {
    let items: Vec<Value> = part(document, name)?.unwrap_or_default();
    if items.len() > LIST_MAX {
        return Err(format!("{name}: more than {LIST_MAX}"));
    }
    let items = items.iter().enumerate().map(|(at, item)| {
        let read = fault::read(item);
        read.map_err(|why| format!("{name}: number {}: {why}", at + 1))
    });
    items.collect()
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
                "number 1: often: 1 is not allowed; there is no such field; the fields are type, ",
            ),
            (
                json!({ "checks": [{ "type": "tcp", "port": 1, "timeout": "soon" }] }),
                "\"soon\" is no length",
            ),
            (
                json!({ "checks": [{ "type": "http", "port": 1, "path": "/a b" }] }),
                "is written as %20",
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
                "restart: tries: 1 is not allowed; there is no such field",
            ),
            (
                json!({ "error_rate": { "from": "mail" } }),
                "error_rate: from: \"mail\" is not allowed; one of ",
            ),
            (
                json!({ "error_rate": { "from": "logs", "requests": "GET" } }),
                "error_rate: failed: missing",
            ),
            (
                json!({ "error_rate": { "from": "logs", "requests": "GET", "failed": "5[0-9" } }),
                "error_rate: failed: \"5[0-9\" is no pattern",
            ),
            (
                json!({ "artifact": { "url": "x" } }),
                "artifact: url: \"x\" is not allowed; there is no such field",
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
    fn words_that_stand_for_nothing_are_told() {
        let document = |word: &str, more: Value| {
            let mut document = json!({ "driver": "exec", "config": { "command": ["sh", word] } });
            let all = document.as_object_mut().unwrap();
            all.extend(more.as_object().unwrap().clone());
            document
        };
        let ports = json!({ "ports": [{ "name": "http" }, { "name": "ad-min" }] });
        let check = |document: &Value| Workload::read(document).unwrap().check_words(document);
        for right in [
            "{PORT}",
            "{PORT_HTTP}",
            "{PORT_AD_MIN}",
            "{NODE}{SLOT}",
            "{port}",
            "{}",
            "{ PORT_X }",
            "${PORT",
            "}{",
            "{\"a\":1}",
        ] {
            check(&document(right, ports.clone())).unwrap();
        }
        for (wrong, more, sentence) in [
            (
                "{PORT_http}",
                ports.clone(),
                "config: command: number 2: {PORT_http} stands for nothing: the ports are {PORT} (the first), {PORT_HTTP}, {PORT_AD_MIN}",
            ),
            (
                "--port={PORTS}",
                ports,
                "config: command: number 2: {PORTS} stands for nothing: the ports are {PORT} (the first), {PORT_HTTP}, {PORT_AD_MIN}",
            ),
            (
                "{PORT}",
                json!({}),
                "config: command: number 2: {PORT} stands for nothing: the job has no ports",
            ),
            (
                "{ARTIFACT}/run",
                json!({}),
                "config: command: number 2: {ARTIFACT} stands for nothing: the job brings no artifact along",
            ),
            (
                "x",
                json!({ "env": { "A": "{PORT_A}" } }),
                "env: A: {PORT_A} stands for nothing: the job has no ports",
            ),
        ] {
            assert_eq!(check(&document(wrong, more)).unwrap_err(), sentence);
        }
    }

    #[test]
    fn a_deadline_has_room_for_the_reports_that_meet_it() {
        let refused = |gate: Value, more: Value| {
            let mut document = json!({
                "driver": "exec", "config": {},
                "rollout": { "strategy": "rolling", "health_check": gate },
            });
            let all = document.as_object_mut().unwrap();
            all.extend(more.as_object().unwrap().clone());
            let workload = Workload::read(&document).unwrap();
            workload.check_deadline(&document).err()
        };
        let gate = |deadline: &str, healthy: &str, interval: &str| json!({ "deadline": deadline, "min_healthy_time": healthy, "interval": interval });
        // Seen healthy at the end of the first interval, and again when that long has passed.
        let cases = [
            ("10s", "0s", true),
            ("11s", "0s", false),
            ("20s", "1s", true),
            ("21s", "1s", false),
            ("21s", "10s", false),
            ("30s", "11s", true),
            ("31s", "11s", false),
        ];
        for (deadline, healthy, is_refused) in cases {
            let why = refused(gate(deadline, healthy, "10s"), json!({}));
            assert_eq!(why.is_some(), is_refused, "{deadline} {healthy}: {why:?}");
        }
        let why = refused(gate("20s", "1s", "10s"), json!({})).unwrap();
        assert!(
            why.starts_with("rollout: health_check: deadline: 20s is"),
            "{why}"
        );
        assert!(refused(json!({ "deadline": "40s" }), json!({})).is_some());
        assert!(refused(json!({ "deadline": "41s" }), json!({})).is_none());
        assert!(refused(gate("20s", "1s", "2s"), json!({})).is_none());
        let ends = json!({ "job_type": "batch" });
        assert!(refused(gate("20s", "1s", "10s"), ends).is_none());
        let at_once =
            json!({ "rollout": { "strategy": "immediate", "health_check": { "deadline": "1s" } } });
        assert!(refused(json!({}), at_once).is_none());
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let document = json!({ "driver": "exec", "config": {}, "restart": { "backoff": "2s", "backoff_max": "9s" } });
        let restart = Workload::read(&document).unwrap().restart;
        let waits = [0, 1, 2, 3, 40, u32::MAX].map(|row| restart.wait(row).as_secs());
        assert_eq!(waits, [2, 4, 8, 9, 9, 9]);
    }
}
