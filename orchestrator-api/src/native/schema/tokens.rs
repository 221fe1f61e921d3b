//! Tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a token lets its holder do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Also look after deployments and nodes.
    Operator,
    /// Bring new versions, and look after their deployments.
    Deployer,
    /// Everything that people do.
    Admin,
    /// Be one node's agent.
    Node,
    /// Become one node's agent, once.
    Join,
}

/// A token to be made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What people call it; two may have the same name.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The node that it is for: of the role `node` always, of the role `join` if it is for this one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub node: Option<String>,
    /// After which time it is no longer good: `90d`. A `join` token is good for an hour if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_in: Option<String>,
}

/// A token that was made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct MadeToken {
    /// What it is called in lists and when it is revoked.
    pub id: String,
    /// What its holder shows. It will not be seen again.
    pub token: String,
    /// So many agents talk without a token, and are not let in any more: this was the first one, and it closes the
    /// server. Absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents_shut_out: Option<u64>,
}

/// A token.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Token {
    /// What it is called.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The node that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether it is good now.
    pub active: bool,
    /// When it was made.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
    /// From when on it is no longer good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
    /// When it was last used, give or take an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
}

/// A page of tokens.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct TokenPage {
    /// They.
    pub tokens: Vec<Token>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}
