//! Which class the routes of the native API have. A route that is not in here is not reached.

use axum::http::Method;

use super::role::Class;

/// To be given to a [`Guard`](super::Guard).
pub fn native(method: &Method, path: &str) -> Option<Class> {
    let class = match (method.as_str(), path) {
        ("GET", "/" | "/healthz" | "/readyz" | "/openapi.json" | "/docs") => Class::Public,

        ("GET", "/metrics" | "/v1/jobs" | "/v1/deployments" | "/v1/nodes") => Class::Read,
        ("GET", "/v1/groups" | "/v1/groups/{id}") => Class::Read,
        ("GET", "/v1/jobs/{namespace}/{job_id}") => Class::Read,
        ("GET", "/v1/jobs/{namespace}/{job_id}/logs") => Class::Read,
        ("GET", "/v1/jobs/{namespace}/{job_id}/versions") => Class::Read,
        ("GET", "/v1/jobs/{namespace}/{job_id}/versions/{version}") => Class::Read,
        ("GET", "/v1/deployments/{id}" | "/v1/nodes/{id}") => Class::Read,
        ("GET", "/v1/deployments/{id}/targets") => Class::Read,
        ("GET", "/v1/deployments/{id}/events") => Class::Read,
        ("GET", "/v1/deployments/{id}/explain") => Class::Read,

        // What is run already, or was: nothing new comes in by these.
        ("POST", "/v1/deployments/{id}/promote") => Class::Operate,
        ("POST", "/v1/deployments/{id}/pause") => Class::Operate,
        ("POST", "/v1/deployments/{id}/resume") => Class::Operate,
        ("POST", "/v1/deployments/{id}/cancel") => Class::Operate,
        ("POST", "/v1/deployments/{id}/fail") => Class::Operate,
        ("POST", "/v1/deployments/{id}/rollback") => Class::Operate,
        ("POST", "/v1/jobs/{namespace}/{job_id}/restart") => Class::Operate,
        ("POST", "/v1/jobs/{namespace}/{job_id}/rollback") => Class::Operate,

        ("POST", "/v1/groups/{id}/cancel") => Class::Operate,

        ("POST", "/v1/nodes/{id}/drain" | "/v1/nodes/{id}/eligibility") => Class::Fleet,

        ("POST", "/v1/jobs" | "/v1/groups") => Class::Deploy,
        ("POST", "/v1/jobs/{namespace}/{job_id}/stop") => Class::Deploy,
        ("POST", "/v1/jobs/{namespace}/{job_id}/scale") => Class::Deploy,

        ("DELETE", "/v1/nodes/{id}") => Class::Administer,
        ("GET" | "POST", "/v1/tokens") => Class::Administer,
        ("DELETE", "/v1/tokens/{id}") => Class::Administer,
        ("GET", "/v1/audit") => Class::Administer,

        ("POST", "/v1/agent/join") => Class::Join,
        ("GET", "/v1/agent/stream") => Class::Agent,
        ("POST", "/v1/agent/reports" | "/v1/agent/logs") => Class::Agent,

        _ => return None,
    };
    Some(class)
}
