//! How long the fleet waits before it believes that a node is away.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::spec::SpecErrors;
use crate::spec::parse::{Errors, Part, from_value, parse};
use crate::time::Span;

/// How patient the fleet is. Written as `{"lease": "30s", "down_after": "5m"}`; that is also what is taken where
/// something is left out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct FleetSettings {
    lease: Span,
    down_after: Span,
}

/// Nodes that are given less are lost before they can say a word.
const PATIENCE_MIN: Span = Span::from_secs(1);
const PATIENCE_MAX: Span = Span::from_secs(30 * 24 * 60 * 60);

impl FleetSettings {
    /// Each from one second to thirty days.
    pub fn new(lease: Span, down_after: Span) -> Result<Self, SpecErrors> {
        Self::from_value(&Self { lease, down_after }.into())
    }

    /// Reads what people write.
    pub fn parse(json: &str) -> Result<Self, SpecErrors> {
        parse(json, settings)
    }

    /// Reads the same when it was read as JSON before; its repeated keys are gone unnoticed.
    pub fn from_value(value: &Value) -> Result<Self, SpecErrors> {
        from_value(value, settings)
    }

    /// Silence for longer than this disconnects a node.
    pub fn lease(self) -> Span {
        self.lease
    }

    /// Being disconnected for longer than this makes a node down.
    pub fn down_after(self) -> Span {
        self.down_after
    }
}

fn settings(errors: &mut Errors, path: String, value: &Value) -> Option<FleetSettings> {
    let mut part = Part::open(errors, path, value, &["lease", "down_after"])?;
    let default = FleetSettings::default();
    let lease = part.span("lease", Some(default.lease), PATIENCE_MIN, PATIENCE_MAX);
    let down_after = Some(default.down_after);
    let down_after = part.span("down_after", down_after, PATIENCE_MIN, PATIENCE_MAX);
    Some(FleetSettings {
        lease: lease?,
        down_after: down_after?,
    })
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self {
            lease: Span::from_secs(30),
            down_after: Span::from_secs(300),
        }
    }
}

impl TryFrom<Value> for FleetSettings {
    type Error = SpecErrors;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        Self::from_value(&value)
    }
}

impl From<FleetSettings> for Value {
    fn from(FleetSettings { lease, down_after }: FleetSettings) -> Self {
        json!({ "lease": lease.to_string(), "down_after": down_after.to_string() })
    }
}
