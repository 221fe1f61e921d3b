//! Progressive rollouts as pure state machines.

#![forbid(unsafe_code)]

mod admit;
mod apply;
mod decide;
mod draw;
mod effect;
mod event;
mod explain;
pub mod fleet;
mod format;
pub mod group;
mod health;
mod id;
mod input;
mod job;
mod members;
mod names;
mod order;
mod packed;
mod placement;
mod plan;
mod record;
mod rollout;
mod runs;
pub mod selector;
pub mod spec;
mod state;
mod time;
mod waiting_on;

pub use admit::{Ignored, Rejection};
pub use effect::Effect;
pub use event::{
    Aftermath, Answered, Bad, Cause, DeploymentKind, DeploymentState, Entry, Event, Heard, Member,
    Of, Presence, Reason, Started, Want,
};
pub use explain::{Explanation, explain};
pub use format::FormatError;
pub use id::{DeploymentId, InvalidName, JobId, NAME_BYTES_MAX, is_name};
pub use input::{
    Command, Input, Interval, NODES_MAX, NodeChange, Observation, Report, Request, TEXT_BYTES_MAX,
};
pub use job::{Answer, Assignment, BrokenLog, Committed, Job, Sealed, Step, VersionView};
pub use plan::{Plan, PlannedWave};
pub use record::{Record, Status, TargetView};
pub use rollout::TargetState;
pub use runs::Runs;
pub use time::{Span, Time};
pub use waiting_on::WaitingOn;
