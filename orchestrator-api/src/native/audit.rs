//! Who did what, for who may see it.

use axum::extract::State;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::ask::Ask;
use super::page::page;
use super::problem::Problem;
use super::schema;
use crate::access::audit;
use crate::list::seal;

/// Of the list, for its page tokens.
const LIST: &str = "audit";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The audit log, newest first: what was done, and what was denied.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit",
    params(
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before"),
    ),
    responses((status = 200, body = schema::AuditPage))
)]
async fn list(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let limit = ask.page_size();
    let before = ask.place(LIST, |place| place.parse().ok());
    ask.done(Some(()))?;
    let lines = audit::list(&**api.handle().store(), before, limit).await?;
    let write = |line| serde_json::to_string(line).expect("it holds texts and numbers");
    let rows: Vec<String> = lines.items.iter().map(write).collect();
    let next = lines
        .next
        .map(|next| seal(LIST, next.to_string().as_bytes()));
    Ok(page("lines", &rows, next))
}
