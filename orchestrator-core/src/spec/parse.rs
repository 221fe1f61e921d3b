//! Turns a JSON document into a spec, or into the list of everything that is wrong with it.

mod error;
mod part;
mod text;

use serde_json::{Map, Value, json};

use super::{Canaries, HealthCheck, JobSpec, JobType, OnFailure, Placement, RolloutSpec, Strategy};
use crate::id::{JobId, NAME_BYTES_MAX, is_name};
use crate::selector::{KEY, Selector, is_key};
use crate::time::Span;

use text::Notes;

pub(crate) use error::{Errors, found, join};
pub use error::{SpecError, SpecErrors};
pub(crate) use part::Part;

/// The longest document that is looked at, in bytes.
pub const SPEC_BYTES_MAX: usize = 1 << 20;

/// The most executions a replicated job may have.
pub const REPLICAS_MAX: u32 = 1_000_000;
/// A log entry nests a carried field deeper still, and serde_json reads no more than 127 levels.
const DEPTH_MAX: usize = 64;
const DAY: Span = Span::from_secs(24 * 60 * 60);
const MONTH: Span = Span::from_secs(30 * 24 * 60 * 60);

impl JobSpec {
    /// Reads a [job document](crate::spec), or says all that is wrong with it.
    pub fn parse(json: &str) -> Result<Self, SpecErrors> {
        parse(json, job)
    }

    /// Reads a job document that was read before, as JSON or from a file of another form; its repeated keys are gone
    /// unnoticed.
    pub fn from_value(value: &Value) -> Result<Self, SpecErrors> {
        from_value(value, job)
    }

    /// The rules of a document for a spec that was made by hand; but the workload is its owner's.
    ///
    /// A log that comes back is held to it, too: a rule that is added here later makes the logs unreadable that have
    /// what it refuses. One that is for new documents only belongs to [`job`].
    pub(crate) fn check(&self) -> Result<(), SpecErrors> {
        let mut errors = Errors::default();
        rollout(&mut errors, "rollout".into(), &self.rollout.to_json());
        let replicas = match self.placement {
            Placement::Every => 0,
            Placement::Replicas { count, .. } => count,
        };
        if replicas > REPLICAS_MAX {
            let allowed = format!("at most {REPLICAS_MAX}");
            errors.add("replicas".into(), replicas.to_string(), allowed);
        }
        if self.lost_after > MONTH {
            let allowed = format!("at most {MONTH}");
            errors.add("lost_after".into(), self.lost_after.to_string(), allowed);
        }
        for (name, value) in &self.workload {
            if JOB_FIELDS.contains(&name.as_str()) {
                errors.add(
                    name.clone(),
                    found(value),
                    "no part of a workload: the spec has it already".to_owned(),
                );
            }
            if let Some(allowed) = unreadable(value, DEPTH_MAX) {
                errors.add(name.clone(), found(value), allowed);
            }
        }
        let bytes = self.to_json().to_string().len();
        if bytes > SPEC_BYTES_MAX {
            let allowed = format!("at most {SPEC_BYTES_MAX} bytes in all");
            errors.add("workload".into(), format!("{bytes} bytes"), allowed);
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors.in_order(|_| 0)),
        }
    }

    /// The document, every default spelled out.
    ///
    /// [`JobSpec::parse`] makes an equal spec of it where it made this one, and of one that was made by hand where a
    /// [document](crate::spec) could have said the same: the workload is as the table has it, with a `driver` and a
    /// `config`, and canaries are not 0, which becomes 1. In what no job would take it finds errors; that may be a
    /// document, too, which its defaults make longer than [`SPEC_BYTES_MAX`].
    pub fn to_json(&self) -> Value {
        let mut document = self.workload.clone();
        let placement = match self.placement {
            Placement::Every => json!("every"),
            Placement::Replicas { count, distinct } => {
                json!({ "replicas": count, "distinct": distinct })
            }
        };
        for (name, value) in [
            ("namespace", json!(self.id.namespace())),
            ("job_id", json!(self.id.name())),
            ("job_type", json!(self.job_type)),
            ("selector", json!(self.selector)),
            ("placement", placement),
            ("lost_after", json!(self.lost_after.to_string())),
            ("rollout", self.rollout.to_json()),
        ] {
            document.insert(name.into(), value);
        }
        Value::Object(document)
    }
}

impl RolloutSpec {
    /// Reads the document that a [job](crate::spec) has under `rollout`.
    pub fn parse(json: &str) -> Result<Self, SpecErrors> {
        parse(json, rollout)
    }

    /// Reads the same when it was read as JSON before; its repeated keys are gone unnoticed.
    pub fn from_value(value: &Value) -> Result<Self, SpecErrors> {
        from_value(value, rollout)
    }

    /// The record's `spec`: the document, every default spelled out. [`RolloutSpec::parse`] makes an equal spec of it,
    /// unless it was made by hand with 0 canaries, which becomes 1, or against the rules.
    pub fn to_json(&self) -> Value {
        let (strategy, health_check, canaries, auto_promote) = match &self.strategy {
            Strategy::Immediate { health_check } => (
                "immediate",
                health_check.as_ref(),
                Canaries::Count(0),
                false,
            ),
            Strategy::Rolling { health_check } => {
                ("rolling", Some(health_check), Canaries::Count(0), false)
            }
            Strategy::Canary {
                health_check,
                canaries,
                auto_promote,
            } => ("canary", Some(health_check), *canaries, *auto_promote),
        };
        let (canary_count, canary_percent) = match canaries {
            Canaries::Count(count) => (count, 0),
            Canaries::Percent(percent) => (0, percent),
        };
        let mut document = json!({
            "strategy": strategy,
            "max_parallel": self.max_parallel,
            "canary_count": canary_count,
            "canary_percent": canary_percent,
            "auto_promote": auto_promote,
            "max_failed_nodes": self.max_failed_nodes,
            "max_failed_nodes_percent": self.max_failed_nodes_percent,
            "no_auto_rollback": self.no_auto_rollback,
            "on_failure": self.on_failure,
        });
        if let Some(check) = health_check {
            document["health_check"] = json!({
                "deadline": check.deadline.to_string(),
                "min_healthy_time": check.min_healthy_time.to_string(),
                "max_error_rate": check.max_error_rate,
                "interval": check.interval.to_string(),
                "failure_threshold": check.failure_threshold,
                "min_samples": check.min_samples,
            });
        }
        if let Some(label) = &self.spread {
            document["spread"] = json!(label);
        }
        document
    }
}

/// Reads one object of a document, given its path; `None` only after it has reported why.
type Read<T> = fn(&mut Errors, String, &Value) -> Option<T>;

/// Reads a whole document.
pub(crate) fn parse<T>(json: &str, read: Read<T>) -> Result<T, SpecErrors> {
    let (value, notes) = text::read(json)?;
    check(&value, read, notes)
}

/// Reads one that was read as JSON before; its repeated keys are gone unnoticed.
pub(crate) fn from_value<T>(value: &Value, read: Read<T>) -> Result<T, SpecErrors> {
    check(value, read, Notes::default())
}

fn check<T>(value: &Value, read: Read<T>, notes: Notes) -> Result<T, SpecErrors> {
    let Notes { mut errors, places } = notes;
    match read(&mut errors, String::new(), value) {
        Some(spec) if errors.is_empty() => Ok(spec),
        _ => Err(errors.in_order(|field| places.rank(field))),
    }
}

/// What a spec says by itself.
const JOB_FIELDS: [&str; 8] = [
    "namespace",
    "job_id",
    "job_type",
    "selector",
    "placement",
    "replicas",
    "lost_after",
    "rollout",
];

/// What a carried field looks like from outside; the driver looks inside.
#[derive(Clone, Copy)]
enum Shape {
    OneOf(&'static [&'static str]),
    Object,
    Array,
    /// An object, and what its entries are.
    Entries(&'static str, fn(&Value) -> bool),
}

const CARRIED: [(&str, Shape); 12] = [
    ("driver", Shape::OneOf(&["exec", "docker", "external"])),
    ("config", Shape::Object),
    (
        "env",
        Shape::Entries("a string, a number, true or false", |value| {
            value.is_string() || value.is_number() || value.is_boolean()
        }),
    ),
    ("resources", Shape::Object),
    ("ports", Shape::Array),
    ("volumes", Shape::Array),
    ("artifact", Shape::Object),
    ("checks", Shape::Array),
    ("error_rate", Shape::Object),
    ("switch", Shape::OneOf(&["stop_first", "start_first"])),
    ("restart", Shape::Object),
    ("labels", Shape::Entries("a string", Value::is_string)),
];
/// Of a document only: what drives a job that was made by hand is its owner's to know.
const REQUIRED: [&str; 2] = ["driver", "config"];

fn job(errors: &mut Errors, path: String, value: &Value) -> Option<JobSpec> {
    let known: Vec<_> = JOB_FIELDS
        .into_iter()
        .chain(CARRIED.map(|(name, _)| name))
        .collect();
    let mut part = Part::open(errors, path, value, &known)?;
    let allowed_name = format!("1 to {NAME_BYTES_MAX} of letters, digits, '-', '_' and '.'");
    let name = |value: &Value| {
        value
            .as_str()
            .filter(|name| is_name(name))
            .map(String::from)
    };
    let namespace = part.read("namespace", Some("default".into()), &allowed_name, name);
    let job_id = part.read("job_id", None, &allowed_name, name);
    let job_type = part.choice(
        "job_type",
        &[("service", JobType::Service), ("batch", JobType::Batch)],
    );
    let selector = part.selector();
    let placement = part.placement();
    let lost_after = part.span("lost_after", Some(Span::from_secs(300)), Span::ZERO, MONTH);
    let rollout = match part.fields.get("rollout") {
        Some(value) => rollout(part.errors, part.at("rollout"), value),
        None => Some(RolloutSpec::default()),
    };
    let workload = part.workload();
    Some(JobSpec {
        id: JobId::new(&namespace?, &job_id?).ok()?,
        job_type: job_type?,
        selector: selector?,
        placement: placement?,
        lost_after: lost_after?,
        rollout: rollout?,
        workload,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Immediate,
    Rolling,
    Canary,
}

fn rollout(errors: &mut Errors, path: String, value: &Value) -> Option<RolloutSpec> {
    let mut part = Part::open(
        errors,
        path,
        value,
        &[
            "strategy",
            "max_parallel",
            "canary_count",
            "canary_percent",
            "auto_promote",
            "health_check",
            "max_failed_nodes",
            "max_failed_nodes_percent",
            "no_auto_rollback",
            "on_failure",
            "spread",
        ],
    )?;
    let defaults = RolloutSpec::default();
    let kind = part.choice(
        "strategy",
        &[
            ("immediate", Kind::Immediate),
            ("rolling", Kind::Rolling),
            ("canary", Kind::Canary),
        ],
    );
    let max_parallel = part.whole("max_parallel", Some(defaults.max_parallel), u32::MAX);
    let canaries = part.canaries(kind);
    let auto_promote = part.flag("auto_promote");
    let health_check = part.health_check(kind);
    let max_failed_nodes = part.whole(
        "max_failed_nodes",
        Some(defaults.max_failed_nodes),
        u32::MAX,
    );
    let max_failed_nodes_percent = part.number(
        "max_failed_nodes_percent",
        defaults.max_failed_nodes_percent,
        100,
    );
    let no_auto_rollback = part.flag("no_auto_rollback");
    let on_failure = part.choice(
        "on_failure",
        &[
            ("rollback", OnFailure::Rollback),
            ("pause", OnFailure::Pause),
            ("fail", OnFailure::Fail),
        ],
    );
    let label = |value: &Value| {
        value
            .as_str()
            .filter(|key| is_key(key))
            .map(|key| Some(key.into()))
    };
    let spread = part.read(
        "spread",
        Some(None),
        &format!("the key of a node label; {KEY}"),
        label,
    );
    let (health_check, canaries, auto_promote) = (health_check?, canaries?, auto_promote?);
    let strategy = match kind? {
        Kind::Immediate => Strategy::Immediate { health_check },
        Kind::Rolling => Strategy::Rolling {
            health_check: health_check?,
        },
        Kind::Canary => Strategy::Canary {
            health_check: health_check?,
            canaries,
            auto_promote,
        },
    };
    Some(RolloutSpec {
        strategy,
        max_parallel: max_parallel?,
        max_failed_nodes: max_failed_nodes?,
        max_failed_nodes_percent: max_failed_nodes_percent?,
        no_auto_rollback: no_auto_rollback?,
        on_failure: on_failure?,
        spread: spread?,
    })
}

fn health_check(errors: &mut Errors, path: String, value: &Value) -> Option<HealthCheck> {
    let mut part = Part::open(
        errors,
        path,
        value,
        &[
            "deadline",
            "min_healthy_time",
            "max_error_rate",
            "interval",
            "failure_threshold",
            "min_samples",
        ],
    )?;
    let deadline = part.span("deadline", None, Span::from_millis(1), MONTH);
    let min_healthy_time = part.span(
        "min_healthy_time",
        Some(Span::from_secs(30)),
        Span::ZERO,
        MONTH,
    );
    if let (Some(deadline), Some(healthy)) = (deadline, min_healthy_time)
        && deadline <= healthy
    {
        let unset = match part.fields.contains_key("min_healthy_time") {
            true => "",
            false => " when it is not given",
        };
        part.reject(
            "deadline",
            format!("more than min_healthy_time, which is {healthy}{unset}"),
        );
    }
    let max_error_rate = part.number("max_error_rate", 0.1, 1);
    let second = Span::from_secs(1);
    let interval = part.span("interval", Some(Span::from_secs(10)), second, DAY);
    let failure_threshold = part.whole("failure_threshold", Some(3), 100);
    let min_samples = part.whole("min_samples", Some(10), u32::MAX);
    Some(HealthCheck {
        deadline: deadline?,
        min_healthy_time: min_healthy_time?,
        max_error_rate: max_error_rate?,
        interval: interval?,
        failure_threshold: failure_threshold?.try_into().ok()?,
        min_samples: min_samples?,
    })
}

impl Part<'_> {
    fn selector(&mut self) -> Option<Selector> {
        let text = match self.fields.get("selector") {
            Some(value) => value.as_str().map(str::parse),
            None => Some(Ok(Selector::default())),
        };
        let example = "a selector such as \"zone in (eu-1, eu-2), gpu, !spot\"";
        match text {
            Some(Ok(selector)) => return Some(selector),
            Some(Err(why)) => self.reject("selector", format!("{example}; {why}")),
            None => self.reject("selector", example.into()),
        }
        None
    }

    fn placement(&mut self) -> Option<Placement> {
        let shorthand = match self.fields.contains_key("replicas") {
            true => Some(self.whole("replicas", None, REPLICAS_MAX)),
            false => None,
        };
        let value = match (self.fields.get("placement"), shorthand) {
            (None, None) => return Some(Placement::default()),
            (None, Some(count)) => {
                return Some(Placement::Replicas {
                    count: count?,
                    distinct: false,
                });
            }
            (Some(value), None | Some(None)) => value,
            (Some(value), Some(Some(_))) => {
                self.reject("replicas", "only one of placement and replicas".into());
                value
            }
        };
        if value.is_object() {
            let path = self.at("placement");
            let mut part = Part::open(self.errors, path, value, &["replicas", "distinct"])?;
            let count = part.whole("replicas", None, REPLICAS_MAX);
            let distinct = part.flag("distinct");
            return Some(Placement::Replicas {
                count: count?,
                distinct: distinct?,
            });
        }
        let allowed = "\"every\" or an object with replicas and distinct";
        self.read("placement", None, allowed, |value| {
            (value.as_str() == Some("every")).then_some(Placement::Every)
        })
    }

    fn canaries(&mut self, kind: Option<Kind>) -> Option<Canaries> {
        let count = self.whole("canary_count", Some(0), u32::MAX);
        let percent = self.whole("canary_percent", Some(0), 100);
        for (name, number) in [("canary_count", count), ("canary_percent", percent)] {
            if number > Some(0) && kind.is_some_and(|kind| kind != Kind::Canary) {
                self.reject(
                    name,
                    "0, or the strategy canary, which alone has canaries".into(),
                );
            }
        }
        match (count?, percent?) {
            (0, 0) => Some(Canaries::Count(1)),
            (count, 0) => Some(Canaries::Count(count)),
            (0, percent) => Some(Canaries::Percent(percent)),
            (count, _) => {
                self.reject(
                    "canary_percent",
                    format!("0, because canary_count is {count}"),
                );
                None
            }
        }
    }

    fn health_check(&mut self, kind: Option<Kind>) -> Option<Option<HealthCheck>> {
        match (self.fields.get("health_check"), kind) {
            (Some(value), _) => {
                let path = self.at("health_check");
                health_check(self.errors, path, value).map(Some)
            }
            (None, Some(Kind::Rolling | Kind::Canary)) => {
                let allowed = "an object with a deadline, because rolling and canary need one";
                self.reject("health_check", allowed.into());
                None
            }
            (None, Some(Kind::Immediate) | None) => Some(None),
        }
    }

    fn workload(&mut self) -> Map<String, Value> {
        let mut workload = Map::new();
        for (name, shape) in CARRIED {
            match self.fields.get(name) {
                Some(value) if shape.fits(value) => {
                    if let Some(allowed) = unreadable(value, DEPTH_MAX) {
                        self.reject(name, allowed);
                    }
                    if let Shape::Entries(allowed, fits) = shape {
                        for (key, value) in value.as_object().into_iter().flatten() {
                            if !fits(value) {
                                let field = join(&self.at(name), key);
                                self.errors.add(field, found(value), allowed.into());
                            }
                        }
                    }
                    workload.insert(name.into(), value.clone());
                }
                None if !REQUIRED.contains(&name) => {}
                Some(_) | None => self.reject(name, shape.allowed()),
            }
        }
        workload
    }
}

impl Shape {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Object | Self::Entries(..) => value.is_object(),
            Self::Array => value.is_array(),
        }
    }

    fn allowed(self) -> String {
        match self {
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Object => "an object".into(),
            Self::Entries(allowed, _) => format!("an object, each entry {allowed}"),
            Self::Array => "an array".into(),
        }
    }
}

/// What a log could not read back: serde_json refuses deep nesting, and takes keys of its own for
/// something else.
fn unreadable(value: &Value, levels: usize) -> Option<String> {
    const OWN: &str = "$serde_json::private::";
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => {
            Some(format!("at most {DEPTH_MAX} levels of nesting"))
        }
        Value::Array(items) => items.iter().find_map(|item| unreadable(item, levels - 1)),
        Value::Object(fields) => {
            fields
                .iter()
                .find_map(|(key, value)| match key.starts_with(OWN) {
                    true => Some(format!("no key that starts with {OWN}")),
                    false => unreadable(value, levels - 1),
                })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests;
