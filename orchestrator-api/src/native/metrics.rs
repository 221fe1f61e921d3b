//! What is counted, for Prometheus.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use orchestrator_core::DeploymentState;
use orchestrator_core::fleet::{Fleet, NodeStatus};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::engine::{EngineError, Handle};
use crate::logs::Counts;

/// Up to a long poll's wait.
const BUCKETS: [f64; 12] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 90.0,
];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Answered {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct InState {
    state: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OfStatus {
    status: String,
}

/// What the API counts itself.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    answered: Family<Answered, Histogram, fn() -> Histogram>,
    streams: Gauge,
    agents: Gauge,
    agents_without_token: Gauge,
}

/// One more, until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Open {
    fn one(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(super) fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let answered = Family::new_with_constructor(histogram);
        let (streams, agents) = (Gauge::default(), Gauge::default());
        let agents_without_token = Gauge::default();
        let mut registry = Registry::default();
        registry.register(
            "http_request_duration_seconds",
            "From a request to the head of its answer",
            answered.clone(),
        );
        registry.register("http_streams", "Open event streams", streams.clone());
        let help = "Agents that listen for what they should run";
        registry.register("orchestrator_agents_connected", help, agents.clone());
        let help = "Those of them that show no token: the first token shuts them out";
        registry.register(
            "orchestrator_agents_without_token",
            help,
            agents_without_token.clone(),
        );
        Self {
            registry,
            answered,
            streams,
            agents,
            agents_without_token,
        }
    }

    pub(super) fn note(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let labels = Answered {
            route: route.to_owned(),
            method: word(method),
            status: status.as_u16(),
        };
        let histogram = self.answered.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }

    pub(super) fn stream_opened(&self) -> Open {
        Open::one(&self.streams)
    }

    pub(super) fn agent_listens(&self, has_token: bool) -> (Open, Option<Open>) {
        let without = (!has_token).then(|| Open::one(&self.agents_without_token));
        (Open::one(&self.agents), without)
    }

    /// How many listen now that show no token.
    pub(super) fn agents_without_token(&self) -> u64 {
        self.agents_without_token.get().unsigned_abs()
    }

    /// All there is to tell, in the text form.
    pub(super) async fn text(&self, handle: &Handle, logs: Counts) -> Result<String, EngineError> {
        let nodes = handle.look_at_fleet(nodes).await?;
        let mut now = Registry::with_prefix("orchestrator");
        let deployments = Family::<InState, Gauge>::default();
        let of = |state: DeploymentState| InState {
            state: state.word().to_owned(),
        };
        // Also where there is none: who is to be warned of one has to see that.
        for state in DeploymentState::ALL {
            deployments.get_or_create(&of(state)).set(0);
        }
        for (state, count) in handle.states() {
            deployments
                .get_or_create(&of(state))
                .set(count.cast_signed());
        }
        let help = "The last deployment of each job, by its state";
        now.register("deployments", help, deployments);
        let statuses = Family::<OfStatus, Gauge>::default();
        for (status, count) in nodes {
            let status = status.to_owned();
            statuses.get_or_create(&OfStatus { status }).set(count);
        }
        now.register("nodes", "Nodes of the fleet, by their status", statuses);
        let counts = handle.counts();
        let mut count = |name: &str, help: &str, value: u64| {
            now.register(name, help, ConstCounter::new(value));
        };
        count("commits", "Transactions of the engine", counts.commits());
        let help = "Transactions of the engine that failed, or of which nobody knows";
        count("commits_failed", help, counts.commits_failed());
        count("entries", "Entries in the engine's logs", counts.entries());
        let help = "Lines of output that agents sent";
        count("log_lines", help, logs.lines);
        let help = "Bytes of output that were left out before they came here";
        count("log_left_out_bytes", help, logs.left_out_bytes);
        let mut gauge = |name: &str, help: &str, value: usize| {
            now.register(name, help, ConstGauge::new(value as u64));
        };
        gauge("log_bytes", "The output that is kept", logs.bytes);
        let help = "Executions whose output is kept";
        gauge("log_executions", help, logs.executions);
        let position = *handle.store().position().borrow();
        let help = "The position of the last change in the store";
        now.register("store_position", help, ConstGauge::new(position));

        let mut text = String::new();
        // Texts can always be written to.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &now);
        let _ = encode_eof(&mut text);
        Ok(text)
    }
}

/// Whatever a caller makes up is no name of a series.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn nodes(fleet: &Fleet) -> [(&'static str, i64); 4] {
    let mut counts = [
        ("ready", 0),
        ("draining", 0),
        ("disconnected", 0),
        ("down", 0),
    ];
    for node in fleet.nodes() {
        let index = match node.status() {
            NodeStatus::Ready => 0,
            NodeStatus::Draining => 1,
            NodeStatus::Disconnected => 2,
            NodeStatus::Down => 3,
        };
        counts[index].1 += 1;
    }
    counts
}
