//! What a field is called, what it holds, and what it says of a row.

use std::fmt;

use orchestrator_core::Time;

use super::{Field, Value};
use crate::store::DeploymentRow;

/// Of what type a field is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Text,
    /// One of these.
    Word(&'static [&'static str]),
    Number,
    /// In milliseconds since 1970.
    Time,
}

const KINDS: [&str; 5] = ["create", "update", "restart", "rollback", "stop"];
const STATES: [&str; 6] = [
    "pending",
    "in_progress",
    "paused",
    "completed",
    "failed",
    "canceled",
];

impl Field {
    /// All of them, in the order in which people are told of them.
    pub const ALL: [Self; 14] = [
        Self::Id,
        Self::Namespace,
        Self::JobId,
        Self::Type,
        Self::State,
        Self::FromVersion,
        Self::ToVersion,
        Self::TotalNodes,
        Self::UpdatedNodes,
        Self::FailedNodes,
        Self::Revision,
        Self::CreatedAt,
        Self::UpdatedAt,
        Self::CompletedAt,
    ];

    /// What the record calls it, without the `status.` that it may stand in.
    pub fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Namespace => "namespace",
            Self::JobId => "job_id",
            Self::Type => "type",
            Self::State => "state",
            Self::FromVersion => "from_version",
            Self::ToVersion => "to_version",
            Self::TotalNodes => "total_nodes",
            Self::UpdatedNodes => "updated_nodes",
            Self::FailedNodes => "failed_nodes",
            Self::Revision => "revision",
            Self::CreatedAt => "created_at",
            Self::UpdatedAt => "updated_at",
            Self::CompletedAt => "completed_at",
        }
    }

    /// The field of this name, which may be the record's with its `status.` or without.
    pub fn named(name: &str) -> Option<Self> {
        let inner = name.strip_prefix("status.");
        Self::ALL.into_iter().find(|field| {
            field.name() == inner.unwrap_or(name) && (inner.is_none() || field.is_in_status())
        })
    }

    fn is_in_status(self) -> bool {
        match self {
            Self::Id
            | Self::Namespace
            | Self::JobId
            | Self::Type
            | Self::FromVersion
            | Self::ToVersion => false,
            Self::State
            | Self::TotalNodes
            | Self::UpdatedNodes
            | Self::FailedNodes
            | Self::Revision
            | Self::CreatedAt
            | Self::UpdatedAt
            | Self::CompletedAt => true,
        }
    }

    /// What this field says of a row.
    pub fn of(self, row: &DeploymentRow) -> Option<Value> {
        Some(match self {
            Self::Id => Value::Text(row.id.to_string()),
            Self::Namespace => Value::Text(row.job.namespace().into()),
            Self::JobId => Value::Text(row.job.name().into()),
            Self::Type => Value::Text(row.kind.word().into()),
            Self::State => Value::Text(row.state.word().into()),
            Self::FromVersion => Value::Number(row.from_version.into()),
            Self::ToVersion => Value::Number(row.to_version.into()),
            Self::TotalNodes => Value::Number(row.total_nodes.into()),
            Self::UpdatedNodes => Value::Number(row.updated_nodes.into()),
            Self::FailedNodes => Value::Number(row.failed_nodes.into()),
            Self::Revision => Value::Number(number(row.revision)),
            Self::CreatedAt => Value::Number(number(row.created_at.as_millis())),
            Self::UpdatedAt => Value::Number(number(row.updated_at.as_millis())),
            Self::CompletedAt => Value::Number(number(row.completed_at.map(Time::as_millis)?)),
        })
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Id | Self::Namespace | Self::JobId => Kind::Text,
            Self::Type => Kind::Word(&KINDS),
            Self::State => Kind::Word(&STATES),
            Self::FromVersion
            | Self::ToVersion
            | Self::TotalNodes
            | Self::UpdatedNodes
            | Self::FailedNodes
            | Self::Revision => Kind::Number,
            Self::CreatedAt | Self::UpdatedAt | Self::CompletedAt => Kind::Time,
        }
    }

    /// Whether a row can have this value there.
    pub(super) fn takes(self, value: Option<&Value>) -> bool {
        match (value, self.kind()) {
            (None, _) => self == Self::CompletedAt,
            (Some(Value::Text(_)), Kind::Text) => true,
            (Some(Value::Text(text)), Kind::Word(words)) => words.contains(&text.as_str()),
            (Some(Value::Number(_)), Kind::Number | Kind::Time) => true,
            (Some(Value::Text(_)), Kind::Number | Kind::Time)
            | (Some(Value::Number(_)), Kind::Text | Kind::Word(_)) => false,
        }
    }

    /// The names of all, for a message.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No store keeps a larger one.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use orchestrator_core::{DeploymentKind, DeploymentState};

    use super::*;

    #[test]
    fn words_are_those_of_the_record() {
        for word in KINDS {
            let kind: DeploymentKind = serde_json::from_value(word.into()).unwrap();
            assert_eq!(kind.word(), word);
        }
        for word in STATES {
            let state: DeploymentState = serde_json::from_value(word.into()).unwrap();
            assert_eq!(state.word(), word);
        }
    }

    #[test]
    fn fields_are_found_by_the_names_of_the_record() {
        for field in Field::ALL {
            assert_eq!(Field::named(field.name()), Some(field));
            let inner = Field::named(&format!("status.{field}"));
            assert_eq!(inner, field.is_in_status().then_some(field));
        }
        for name in [
            "",
            "status",
            "status.",
            "State",
            "status.status.state",
            " id",
        ] {
            assert_eq!(Field::named(name), None, "{name:?}");
        }
    }
}
