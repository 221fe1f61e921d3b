//! Who asks, as the rest of the API sees it.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use orchestrator_core::fleet::NodeName;

/// Who asks. Put into the request by the layer that lets him in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// The name of a token, or what else tells a person from another.
    pub name: String,
    /// What he may do.
    pub role: Role,
}

/// What somebody may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// Look.
    Viewer,
    /// Also command deployments and nodes.
    Operator,
    /// Also register jobs.
    Deployer,
    /// Everything.
    Admin,
    /// Speak for this node, and nothing else.
    Node(NodeName),
}

impl Caller {
    /// Nobody in particular, where everybody may do everything.
    pub fn anonymous() -> Self {
        Self {
            name: "anonymous".to_owned(),
            role: Role::Admin,
        }
    }

    /// Whether this is the agent of this node, or may do as if.
    pub fn speaks_for(&self, node: &str) -> bool {
        match &self.role {
            Role::Admin => true,
            Role::Node(own) => &**own == node,
            Role::Viewer | Role::Operator | Role::Deployer => false,
        }
    }
}

/// The layer that lets everybody do everything.
pub async fn open(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Caller::anonymous());
    next.run(request).await
}
