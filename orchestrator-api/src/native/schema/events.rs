//! What happened in a deployment.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One entry of a deployment's log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Event {
    /// The deployment's revision from here on.
    pub revision: u64,
    /// When.
    pub at: String,
    /// What happened: `started`, `dispatched`, `failed`, …
    pub kind: String,
    /// The same as a sentence, with the names of a few nodes.
    pub message: String,
    /// The first 20 of the nodes that it speaks of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// How many nodes it speaks of; absent where none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_count: Option<u32>,
    /// What there is to say about it. Targets are named by their numbers, several as `[first, count]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// A page of a deployment's log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct EventPage {
    /// They.
    pub events: Vec<Event>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Why a deployment is where it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct ExplanationResponse {
    /// It.
    pub explanation: Explanation,
}

/// A chain of causes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Explanation {
    /// What happened, oldest first.
    pub links: Vec<Link>,
    /// Where that has led to.
    pub now: String,
}

/// One of the causes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Link {
    /// When.
    pub at: String,
    /// What.
    pub text: String,
}
