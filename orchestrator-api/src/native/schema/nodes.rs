//! Nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What may be asked of it: `ready`, `draining`, `disconnected`, `down`.
    pub status: NodeStatus,
    /// Whether an operator wants nothing new to start there.
    pub drain: bool,
    /// Whether its agent says that it is about to go. It is over when the agent joins again.
    #[serde(default)]
    #[schema(required)]
    pub leaving: bool,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// What it told about itself.
    pub facts: BTreeMap<String, String>,
    /// How many executions it has.
    pub executions: u32,
    /// Since when it is heard of, or is not.
    pub since: String,
}

/// What may be asked of a node.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Everything.
    Ready,
    /// That it goes on; nothing new.
    Draining,
    /// Nothing: it is silent.
    Disconnected,
    /// Nothing: it has been silent for long.
    Down,
}

/// One node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct NodeResponse {
    /// It.
    pub node: Node,
}

/// A page of nodes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct NodePage {
    /// They.
    pub nodes: Vec<Node>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Whether anything new may start there.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Eligibility {
    /// Whether it may.
    pub eligible: bool,
}
