//! Groups of jobs: beginning one, reading them, and ending one.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{ETAG, LOCATION};
use axum::response::{IntoResponse, Response};
use orchestrator_core::JobId;
use orchestrator_core::group::GroupSpec;
use orchestrator_core::spec::JobSpec;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::ask::{Ask, places};
use super::page::{audited, cut, json, page};
use super::problem::{Fault, Problem, of_spec};
use super::request::soon;
use super::schema;
use crate::engine::{Release, ShownGroup};
use crate::store::GroupId;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, begin))
        .routes(routes!(cancel))
}

/// Those that may wait.
pub(super) fn patient_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get))
}

/// Brings several jobs to their documents: each one after all that it depends on, and all of them back where one ends
/// badly.
#[utoipa::path(
    post, path = "/v1/groups", tag = "groups",
    params(
        ("again" = Option<bool>, Query, description = "Also to documents that were taken back before"),
    ),
    request_body = schema::GroupDocument,
    responses(
        (status = 201, body = schema::GroupResponse, headers(("Location" = String, description = "The group"))),
    )
)]
async fn begin(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let (key, who) = (ask.key(), ask.who());
    let again = ask.flag("again");
    let body = ask.json();
    let release = release(&body, again, ask.faults());
    let release = ask.done(release)?;
    let shown = api.handle().begin_group(release, key, who).await?;
    let location = format!("/v1/groups/{}", shown.id);
    let shown = audited(show(&shown));
    Ok((StatusCode::CREATED, [(LOCATION, location)], shown).into_response())
}

/// The group without the documents, and those; with all that is wrong with any of it.
fn release(body: &Value, again: bool, faults: &mut Vec<Fault>) -> Option<Release> {
    let mut group = body.clone();
    let members = group.get_mut("members").and_then(Value::as_array_mut);
    let mut jobs = Vec::new();
    for (at, member) in members.into_iter().flatten().enumerate() {
        let Some(member) = member.as_object_mut() else {
            continue;
        };
        let place = format!("/members/{at}/spec");
        let Some(spec) = member.remove("spec") else {
            faults.push(Fault::at(place, "missing; a job document".to_owned()));
            continue;
        };
        match JobSpec::from_value(&spec) {
            Err(errors) => {
                let errors = of_spec(&errors).into_iter();
                faults.extend(errors.map(|fault| fault.below(&place)));
            }
            Ok(spec) => {
                faults.extend(places(&spec.id).map(|fault| fault.below(&place)));
                let named = member.get("job").and_then(Value::as_str);
                let named = named.and_then(|named| named.parse::<JobId>().ok());
                if let Some(named) = named.filter(|named| *named != spec.id) {
                    let detail = format!("it is that of {}; one of {named}", spec.id);
                    faults.push(Fault::at(format!("{place}/job_id"), detail));
                }
                jobs.push(spec);
            }
        }
    }
    match GroupSpec::from_value(&group) {
        Err(errors) => {
            faults.extend(of_spec(&errors));
            None
        }
        Ok(group) => Release::new(group, jobs, again),
    }
}

/// The groups, the newest first.
#[utoipa::path(
    get, path = "/v1/groups", tag = "groups",
    params(
        ("name" = Option<String>, Query, description = "Those of this name"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before, with the same name"),
    ),
    responses((status = 200, body = schema::GroupPage))
)]
async fn list(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let name = ask.named("name");
    let limit = ask.page_size();
    let list = match &name {
        Some(name) => format!("groups called {name}"),
        None => "groups".to_owned(),
    };
    let before = ask.place(&list, |place| place.parse().ok());
    ask.done(Some(()))?;
    let rows = api.handle().store().groups(name, before, limit + 1).await?;
    let (rows, next) = cut(&list, rows, limit, |row| row.id.to_string());
    let rows: Vec<String> = rows.into_iter().map(|row| row.record).collect();
    Ok(page("groups", &rows, next))
}

/// One group, as it is now or when it has changed.
#[utoipa::path(
    get, path = "/v1/groups/{id}", tag = "groups",
    params(
        ("id" = uuid::Uuid, Path, description = "The group"),
        ("revision" = Option<u64>, Query, description = "Wait for a later revision than this one"),
        ("wait" = Option<String>, Query, description = "For how long to wait at the most, up to 60s; 30s if nothing is said. What is answered then is the group as it is"),
    ),
    responses((status = 200, body = schema::GroupResponse, headers(("ETag" = String, description = "The revision"))))
)]
async fn get(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let id = ask.group();
    let seen = ask.whole("revision");
    let wait = ask.wait(seen);
    let caller = seen.map(|_| ask.caller().clone());
    let id = ask.done(id)?;
    let mut shown = api.group(id).await?;
    if let Some((seen, caller)) = seen.zip(caller)
        && shown.revision <= seen
        && let Some(mut news) = api.handle().watch_group(id)
    {
        let later = async {
            // An error means that it will not change any more.
            let _ = news.wait_for(|shown| shown.revision > seen).await;
        };
        api.wait(&caller, wait, later).await?;
        shown = api.group(id).await?;
    }
    Ok(show(&shown))
}

impl Api {
    /// A group, or the answer that there is none.
    async fn group(&self, id: GroupId) -> Result<std::sync::Arc<ShownGroup>, Problem> {
        let shown = soon(self.handle().group(id)).await??;
        shown.ok_or_else(|| Problem::not_found("group", id))
    }
}

fn show(shown: &ShownGroup) -> Response {
    let tag = format!("\"{}\"", shown.revision);
    ([(ETAG, tag)], json(shown.answer.clone())).into_response()
}

/// Ends it: nothing more of it starts, what it has begun is canceled, and no more is taken back than was before. Jobs stay
/// as they are.
#[utoipa::path(
    post, path = "/v1/groups/{id}/cancel", tag = "groups",
    params(("id" = uuid::Uuid, Path, description = "The group")),
    request_body = schema::Nothing,
    responses((status = 200, body = schema::GroupResponse))
)]
async fn cancel(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.nothing();
    // Said twice it is as said once.
    let (_, who) = (ask.key(), ask.who());
    let id = ask.group();
    let id = ask.done(id)?;
    let shown = api.handle().cancel_group(id, who).await?;
    Ok(audited(show(&shown)))
}
