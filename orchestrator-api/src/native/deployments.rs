//! Deployments: reading one, listing them, their targets, and what an operator may say to them.

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::ETAG;
use axum::response::{IntoResponse, Response};
use orchestrator_core::{Command, DeploymentId, Job, Request, TEXT_BYTES_MAX};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::ask::Ask;
use super::fields::Fields;
use super::page::{audited, cut, json, page};
use super::problem::Problem;
use super::rates::Rate;
use super::request::soon;
use super::schema;
use crate::engine::{Done, ShownDeployment};
use crate::list::{Condition, Field, Order, Place, Query, Relation, Value};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(promote))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
        .routes(routes!(fail))
        .routes(routes!(roll_back))
        .routes(routes!(targets))
}

/// Those that may wait.
pub(super) fn patient_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get))
}

impl Api {
    /// A deployment, or the answer that there is none.
    pub(super) async fn deployment(
        &self,
        id: DeploymentId,
    ) -> Result<std::sync::Arc<ShownDeployment>, Problem> {
        // Boxed: most are at hand, and those do not pay for the room that the others need.
        let shown = match self.handle().shown(id) {
            Some(shown) => Some(shown),
            None => Box::pin(soon(self.handle().deployment(id))).await??,
        };
        shown.ok_or_else(|| Problem::not_found("deployment", id))
    }
}

/// One deployment, as it is now or when it has changed.
#[utoipa::path(
    get, path = "/v1/deployments/{id}", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("revision" = Option<u64>, Query, description = "Wait for a later revision than this one"),
        ("wait" = Option<String>, Query, description = "For how long to wait at the most, up to 60s; 30s if nothing is said. What is answered then is the deployment as it is"),
    ),
    responses((status = 200, body = schema::GetDeploymentResponse, headers(("ETag" = String, description = "The revision"))))
)]
async fn get(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let id = ask.deployment();
    let seen = ask.whole("revision");
    let wait = ask.wait(seen);
    let caller = seen.map(|_| ask.caller().clone());
    let id = ask.done(id)?;
    let mut shown = api.deployment(id).await?;
    if let Some((seen, caller)) = seen.zip(caller)
        && shown.revision <= seen
        && !shown.state.is_final()
        && let Some(mut news) = api.handle().watch(id)
    {
        let later = async {
            // An error means that it will not change any more.
            let _ = news.wait_for(|shown| shown.revision > seen).await;
        };
        Box::pin(api.wait(&caller, wait, later)).await?;
        shown = api.deployment(id).await?;
    }
    Ok(show(&shown))
}

fn show(shown: &ShownDeployment) -> Response {
    let mut response = json(shown.answer.clone());
    let tag = HeaderValue::from_maybe_shared(shown.tag.clone());
    let tag = tag.expect("digits in quotes are ASCII");
    response.headers_mut().insert(ETAG, tag);
    response
}

/// A page of deployments, the newest first.
#[utoipa::path(
    get, path = "/v1/deployments", tag = "deployments",
    params(
        ("namespace" = Option<String>, Query, description = "Those of jobs in this namespace"),
        ("job_id" = Option<String>, Query, description = "Those of jobs of this name"),
        ("state" = Option<schema::State>, Query, description = "Those in this state"),
        ("type" = Option<schema::Type>, Query, description = "Those of this type"),
        ("filter" = Option<String>, Query, description = "Those of which this is true (AIP-160): `state = failed AND failed_nodes > 3`"),
        ("order_by" = Option<String>, Query, description = "By which fields (AIP-132): `created_at desc, job_id`"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said. A page may be shorter, or empty, and yet not be the last"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before, with all other parameters as they were"),
    ),
    responses((status = 200, body = schema::DeploymentPage))
)]
async fn list(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let mut parts = Vec::new();
    let mut only = |field: Field, value: Option<String>| {
        parts.extend(value.map(|v| Condition::Compare(field, Relation::Equal, Value::Text(v))));
    };
    only(Field::Namespace, ask.named("namespace"));
    only(Field::JobId, ask.named("job_id"));
    only(Field::State, word::<schema::State>(&mut ask, "state"));
    only(Field::Type, word::<schema::Type>(&mut ask, "type"));
    let filter = ask.parsed("filter", |text| {
        Condition::parse(text).map_err(|e| texts(&e))
    });
    parts.extend(filter);
    let order = ask.parsed("order_by", |text| Order::parse(text).map_err(|e| texts(&e)));
    let (condition, order) = (Condition::All(parts), order.unwrap_or_default());
    let limit = ask.page_size();
    // Of a list that is wrong itself a token says nothing.
    let sound = ask.faults().is_empty();
    let after = ask.parsed("page_token", |token| {
        let place = Place::from_token(token, &condition, &order);
        place.map(Some).or_else(|why| match sound {
            true => Err(vec![why.to_string()]),
            false => Ok(None),
        })
    });
    ask.done(Some(()))?;
    let query = Query {
        condition: condition.clone(),
        order: order.clone(),
        after: after.flatten(),
        limit,
    };
    let found = api.handle().store().deployments(query).await?;
    let next = found.next.map(|place| place.token(&condition, &order));
    let rows: Vec<String> = found.rows.into_iter().map(|row| row.record).collect();
    Ok(page("deployments", &rows, next))
}

/// A parameter that is one of an enum's words.
fn word<T: schema::Word>(ask: &mut Ask, name: &'static str) -> Option<String> {
    let allowed = format!("one of {}", T::WORDS.join(", "));
    ask.parameter(name, &allowed, |text| {
        T::WORDS.contains(&text).then(|| text.to_owned())
    })
}

fn texts<E: std::fmt::Display>(faults: &crate::list::Faults<E>) -> Vec<String> {
    faults.faults().iter().map(ToString::to_string).collect()
}

/// Lets the rest follow the canaries.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/promote", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("expected_revision" = Option<u64>, Query, description = "Refuse it unless it is of this revision"),
    ), request_body = schema::Nothing,
    responses((status = 200, body = schema::GetDeploymentResponse))
)]
async fn promote(State(api): State<Api>, ask: Ask) -> Result<Response, Problem> {
    simply(&api, ask, Command::Promote).await
}

/// Starts nothing more for now.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/pause", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("expected_revision" = Option<u64>, Query, description = "Refuse it unless it is of this revision"),
    ), request_body = schema::Nothing,
    responses((status = 200, body = schema::GetDeploymentResponse))
)]
async fn pause(State(api): State<Api>, ask: Ask) -> Result<Response, Problem> {
    simply(&api, ask, Command::Pause).await
}

/// Goes on after a pause.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/resume", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("expected_revision" = Option<u64>, Query, description = "Refuse it unless it is of this revision"),
    ), request_body = schema::Nothing,
    responses((status = 200, body = schema::GetDeploymentResponse))
)]
async fn resume(State(api): State<Api>, ask: Ask) -> Result<Response, Problem> {
    simply(&api, ask, Command::Resume).await
}

/// Calls it off; nodes stay as they are.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/cancel", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("expected_revision" = Option<u64>, Query, description = "Refuse it unless it is of this revision"),
    ), request_body = schema::Nothing,
    responses((status = 200, body = schema::GetDeploymentResponse))
)]
async fn cancel(State(api): State<Api>, ask: Ask) -> Result<Response, Problem> {
    simply(&api, ask, Command::Cancel).await
}

async fn simply(
    api: &Api,
    mut ask: Ask,
    command: fn(DeploymentId) -> Command,
) -> Result<Response, Problem> {
    ask.nothing();
    say(api, ask, command).await
}

/// Calls it failed; what follows a failure follows.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/fail", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("expected_revision" = Option<u64>, Query, description = "Refuse it unless it is of this revision"),
    ), request_body = schema::Fail,
    responses((status = 200, body = schema::GetDeploymentResponse))
)]
async fn fail(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let body = ask.json();
    let fields = Fields::open(String::new(), &body, &["reason"], ask.faults());
    let allowed = format!("a string of at most {TEXT_BYTES_MAX} bytes");
    let reason = fields.and_then(|mut fields| {
        fields.read("reason", &allowed, |value| {
            value.as_str().filter(|text| text.len() <= TEXT_BYTES_MAX)
        })
    });
    let reason = reason.unwrap_or_default().to_owned();
    say(&api, ask, |deployment| Command::Fail { deployment, reason }).await
}

/// What a command to a deployment has beside its body.
async fn say(
    api: &Api,
    mut ask: Ask,
    command: impl FnOnce(DeploymentId) -> Command,
) -> Result<Response, Problem> {
    let (key, who) = (ask.key(), ask.who());
    let expected = ask.expected("expected_revision");
    let id = ask.deployment();
    let id = ask.done(id)?;
    let job = api.deployment(id).await?.job.clone();
    let request = Request {
        command: command(id),
        key,
        expected,
    };
    api.handle().command(job, request, who).await?;
    // That one, and not what may have followed from it: the record says what that is.
    Ok(audited(show(&*api.deployment(id).await?)))
}

/// Takes it back, where it is the last one of its job: answers the deployment that does so.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/rollback", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("expected_revision" = Option<u64>, Query, description = "Refuse it unless it is of this revision"),
    ),
    request_body = schema::RollBack,
    responses((status = 200, body = schema::GetDeploymentResponse))
)]
async fn roll_back(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let (key, who) = (ask.key(), ask.who());
    let body = ask.json();
    let fields = Fields::open(String::new(), &body, &["to_version"], ask.faults());
    let to = fields.and_then(|mut fields| fields.whole("to_version"));
    let expected = ask.expected("expected_revision");
    let id = ask.deployment();
    let id = ask.done(id)?;
    let done = api.handle().take_back(id, to, key, expected, who).await?;
    answer(&api, done, id).await
}

/// The deployment that a command led to, as it now is.
async fn answer(api: &Api, done: Done, asked: DeploymentId) -> Result<Response, Problem> {
    let shown = match done.deployment {
        Some(shown) => shown,
        None => {
            api.deployment(done.answer.deployment.unwrap_or(asked))
                .await?
        }
    };
    Ok(audited(show(&shown)))
}

/// What has become of each node, in the order of their turn.
#[utoipa::path(
    get, path = "/v1/deployments/{id}/targets", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before"),
    ),
    responses((status = 200, body = schema::TargetPage))
)]
async fn targets(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let id = ask.deployment();
    let limit = ask.page_size();
    let list = id.map_or_else(String::new, |id| format!("targets of {id}"));
    let from: u32 = ask.place(&list, |place| place.parse().ok()).unwrap_or(0);
    let id = ask.done(id)?;
    let shown = api.deployment(id).await?;
    // One more than wanted says whether there is more.
    let live = move |job: &Job| {
        let last = job.deployment()?.id == id;
        let targets = job.targets().skip(from as usize).take(limit as usize + 1);
        last.then(|| targets.collect::<Vec<_>>())
    };
    let live = api.handle().look(shown.job.clone(), live).await?;
    let rows = match live {
        Some(targets) => targets
            .iter()
            .map(|target| {
                let mut row = serde_json::to_string(target).expect("it is a record");
                let rates = &api.0.rates;
                let (node, generation) = (&target.node, target.generation);
                if let Some(rate) = rates.get(node, &shown.job, target.slot, generation) {
                    let Rate { requests, failed } = rate;
                    row.truncate(row.len() - 1);
                    row += &format!(
                        ",\"requests\":{requests},\"failed_requests\":{failed},\"error_rate\":{}}}",
                        serde_json::Value::from(rate.share())
                    );
                }
                row
            })
            .collect(),
        None => {
            let aside = api.handle().store().targets(id, from, limit + 1);
            aside.await?
        }
    };
    let numbered = (from..).zip(rows).map(|(number, row)| {
        // By which the log names them.
        let row = row.replacen('{', &format!("{{\"target\":{number},"), 1);
        (number, row)
    });
    let (rows, next) = cut(&list, numbered.collect(), limit, |(number, _)| {
        (number + 1).to_string()
    });
    let rows: Vec<String> = rows.into_iter().map(|(_, row)| row).collect();
    Ok(page("targets", &rows, next).into_response())
}
