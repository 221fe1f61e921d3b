//! What is sent and answered: for the contract, and for programs that read answers. One file for each resource.

mod agents;
mod audit;
mod deployments;
mod events;
mod groups;
mod jobs;
mod logs;
mod nodes;
mod tokens;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::agents::*;
pub use self::audit::*;
pub use self::deployments::*;
pub use self::events::*;
pub use self::groups::*;
pub use self::jobs::*;
pub use self::logs::*;
pub use self::nodes::*;
pub use self::tokens::*;

/// A type that is written as one of a few words.
pub trait Word {
    /// All of them.
    const WORDS: &'static [&'static str];
}

/// It lives.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// A body that says nothing; it may be left out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
