//! The audit log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A line of the audit log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct AuditLine {
    /// Its number.
    pub number: u64,
    /// When.
    pub at: String,
    /// A token's name and id, or what else tells one caller from another.
    pub who: String,
    /// The request by which it came, as in `x-request-id`.
    pub request: String,
    /// What was done or tried.
    pub action: String,
    /// To which job, node or token, or at which path.
    pub object: String,
    /// What came of it.
    pub outcome: String,
}

/// A page of the audit log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct AuditPage {
    /// Its lines.
    pub lines: Vec<AuditLine>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}
