//! Jobs: registering and reading them, and what an operator may say to one as a whole.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{ETAG, LOCATION};
use axum::response::{IntoResponse, Response};
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{Answer, Command, DeploymentId, Job, JobId, Plan, Request};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::ask::Ask;
use super::fields::Fields;
use super::page::{audited, cut, json, page, written};
use super::problem::{Problem, escaped};
use super::schema;
use crate::engine::EngineError;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, register))
        .routes(routes!(get))
        .routes(routes!(versions))
        .routes(routes!(version))
        .routes(routes!(restart))
        .routes(routes!(roll_back))
        .routes(routes!(stop))
        .routes(routes!(scale))
}

/// What a command to a job led to.
#[derive(Serialize)]
struct JobAnswer {
    job: Box<RawValue>,
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment_id: Option<DeploymentId>,
    changed: bool,
}

/// What registering would lead to.
#[derive(Serialize)]
struct PlanAnswer {
    plan: Plan,
    changes: Vec<schema::Change>,
}

/// Makes this the newest version of its job, and rolls it out. Or says what that would lead to.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    params(
        ("dry_run" = Option<bool>, Query, description = "Answer the plan, and touch nothing"),
        ("again" = Option<bool>, Query, description = "Roll it out though the very same was taken back before"),
        ("expected_version" = Option<u64>, Query, description = "Refuse it unless this is the newest version"),
    ),
    request_body = schema::JobDocument,
    responses(
        (status = 200, body = schema::RegisterResponse, description = "The plan of a dry run; or the job, where it was so already"),
        (status = 201, body = schema::JobResponse, headers(("Location" = String, description = "The job"))),
    )
)]
async fn register(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let (key, who) = (ask.key(), ask.who());
    let dry_run = ask.flag("dry_run");
    let again = ask.flag("again");
    let expected = ask.expected("expected_version");
    let spec = ask.spec();
    let spec = ask.done(spec)?;
    let job = spec.id.clone();
    let mut request = Request {
        command: Command::Register {
            spec: Box::new(spec.clone()),
            members: None,
            again,
        },
        key,
        expected,
    };
    if dry_run {
        // Nor is the key used up.
        request.key = None;
        let plan = api.handle().plan(job.clone(), request).await?;
        let changes = changes(&api, job, &spec).await?;
        return Ok(audited(written(&PlanAnswer { plan, changes })));
    }
    let done = api.handle().command(job.clone(), request, who).await?;
    let location = format!("/v1/jobs/{job}");
    let changed = done.answer.changed;
    let answer = answer(&api, job, done.answer).await?;
    if changed {
        return Ok((StatusCode::CREATED, [(LOCATION, location)], answer).into_response());
    }
    Ok(answer)
}

/// In what a document differs from the newest version of its job.
async fn changes(api: &Api, job: JobId, spec: &JobSpec) -> Result<Vec<schema::Change>, Problem> {
    let newest = |job: &Job| job.spec(job.version()).cloned();
    let newest = match api.handle().look(job, newest).await {
        Ok(newest) => newest,
        Err(EngineError::NoSuchJob(_)) => None,
        Err(why) => return Err(why.into()),
    };
    let mut changes = Vec::new();
    if let Some(newest) = newest {
        let (before, after) = (newest.to_json(), spec.to_json());
        compare(String::new(), Some(&before), Some(&after), &mut changes);
    }
    Ok(changes)
}

fn compare(
    pointer: String,
    before: Option<&Value>,
    after: Option<&Value>,
    changes: &mut Vec<schema::Change>,
) {
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let pointer = format!("{pointer}/{}", escaped(name));
                compare(pointer, old.get(name), new.get(name), changes);
            }
        }
        _ if before == after => {}
        _ => changes.push(schema::Change {
            pointer,
            from: before.cloned(),
            to: after.cloned(),
        }),
    }
}

async fn answer(api: &Api, job: JobId, answer: Answer) -> Result<Response, Problem> {
    let row = api.handle().job(job).await?;
    let Answer {
        version,
        deployment,
        changed,
        standing: _,
    } = answer;
    let record = RawValue::from_string(row.record).expect("a record is JSON");
    Ok(audited(written(&JobAnswer {
        job: record,
        version,
        deployment_id: deployment,
        changed,
    })))
}

/// The jobs, in the order of their names.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs",
    params(
        ("namespace" = Option<String>, Query, description = "Those in this namespace"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before, with the same namespace"),
    ),
    responses((status = 200, body = schema::JobPage))
)]
async fn list(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let namespace = ask.named("namespace");
    let limit = ask.page_size();
    let list = format!("jobs in {}", namespace.as_deref().unwrap_or("all"));
    let list = if namespace.is_some() {
        list
    } else {
        "jobs".to_owned()
    };
    let after = ask.place(&list, |place| place.parse().ok());
    ask.done(Some(()))?;
    let rows = api.handle().store().jobs(namespace, after, limit + 1);
    let (rows, next) = cut(&list, rows.await?, limit, |row| row.id.to_string());
    let rows: Vec<String> = rows.into_iter().map(|row| row.record).collect();
    Ok(page("jobs", &rows, next))
}

/// One job.
#[utoipa::path(
    get, path = "/v1/jobs/{namespace}/{job_id}", tag = "jobs",
    params(("namespace" = String, Path, description = "Its namespace"), ("job_id" = String, Path, description = "Its name")),
    responses((status = 200, body = schema::GetJobResponse, headers(("ETag" = String, description = "The newest version"))))
)]
async fn get(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let id = ask.job();
    let id = ask.done(id)?;
    let newest = |job: &Job| job.version();
    let version = api.handle().look(id.clone(), newest).await?;
    let record = api.handle().job(id).await?.record;
    let tag = format!("\"{version}\"");
    Ok(([(ETAG, tag)], json(format!("{{\"job\":{record}}}"))).into_response())
}

/// The versions of a job that are remembered, oldest first.
#[utoipa::path(
    get, path = "/v1/jobs/{namespace}/{job_id}/versions", tag = "jobs",
    params(
        ("namespace" = String, Path, description = "Its namespace"), ("job_id" = String, Path, description = "Its name"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before"),
    ),
    responses((status = 200, body = schema::VersionPage))
)]
async fn versions(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let id = ask.job();
    let limit = ask.page_size();
    let list = id
        .as_ref()
        .map_or_else(String::new, |id| format!("versions of {id}"));
    let after: u32 = ask.place(&list, |place| place.parse().ok()).unwrap_or(0);
    let id = ask.done(id)?;
    let look = move |job: &Job| {
        let current = job.current();
        let versions = job.versions().filter(|version| version.number > after);
        let shown = versions.map(move |version| shown_version(version, current));
        shown.take(limit as usize + 1).collect::<Vec<_>>()
    };
    let versions = api.handle().look(id, look).await?;
    let (versions, next) = cut(&list, versions, limit, |version| {
        version.version.to_string()
    });
    let write = |version| serde_json::to_string(version).expect("it holds texts and numbers");
    let rows: Vec<String> = versions.iter().map(write).collect();
    Ok(page("versions", &rows, next))
}

fn shown_version(version: orchestrator_core::VersionView, current: u32) -> schema::Version {
    schema::Version {
        version: version.number,
        registered_at: version.registered.to_string(),
        current: version.number == current,
        stable: version.stable,
        taken_back: version.rejected,
        executions: version.executions,
    }
}

/// One version of a job, with its document.
#[utoipa::path(
    get, path = "/v1/jobs/{namespace}/{job_id}/versions/{version}", tag = "jobs",
    params(("namespace" = String, Path, description = "Its namespace"), ("job_id" = String, Path, description = "Its name"), ("version" = u32, Path, description = "Its number")),
    responses((status = 200, body = schema::VersionResponse))
)]
async fn version(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let wanted = ask.job().zip(ask.version());
    let (id, number) = ask.done(wanted)?;
    let look = move |job: &Job| {
        let version = job.versions().find(|version| version.number == number)?;
        let version = shown_version(version, job.current());
        Some((version, job.spec(number)?.clone()))
    };
    let found = api.handle().look(id.clone(), look).await?;
    let missing = || Problem::not_found("version", format!("{number} of job {id}"));
    let (version, spec) = found.ok_or_else(missing)?;
    let spec = spec.to_json();
    Ok(written(&schema::VersionResponse { version, spec }))
}

/// Starts the current version again, node by node as its rollout says.
#[utoipa::path(
    post, path = "/v1/jobs/{namespace}/{job_id}/restart", tag = "jobs",
    params(("namespace" = String, Path, description = "Its namespace"), ("job_id" = String, Path, description = "Its name"), ("expected_version" = Option<u64>, Query, description = "Refuse it unless this is the newest version")), request_body = schema::Nothing,
    responses((status = 200, body = schema::JobResponse))
)]
async fn restart(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.nothing();
    say(&api, ask, Some(Command::Restart)).await
}

/// Goes back to a stable version: the newest that was not taken back, or this one.
#[utoipa::path(
    post, path = "/v1/jobs/{namespace}/{job_id}/rollback", tag = "jobs",
    params(("namespace" = String, Path, description = "Its namespace"), ("job_id" = String, Path, description = "Its name"), ("expected_version" = Option<u64>, Query, description = "Refuse it unless this is the newest version")), request_body = schema::RollBack,
    responses((status = 200, body = schema::JobResponse))
)]
async fn roll_back(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let body = ask.json();
    let fields = Fields::open(String::new(), &body, &["to_version"], ask.faults());
    let to = fields.and_then(|mut fields| fields.whole("to_version"));
    say(&api, ask, Some(Command::RollBack { to })).await
}

/// Runs it nowhere any more, on all nodes at once.
#[utoipa::path(
    post, path = "/v1/jobs/{namespace}/{job_id}/stop", tag = "jobs",
    params(("namespace" = String, Path, description = "Its namespace"), ("job_id" = String, Path, description = "Its name"), ("expected_version" = Option<u64>, Query, description = "Refuse it unless this is the newest version")), request_body = schema::Nothing,
    responses((status = 200, body = schema::JobResponse))
)]
async fn stop(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.nothing();
    say(&api, ask, Some(Command::Stop)).await
}

/// Changes the number of its executions.
#[utoipa::path(
    post, path = "/v1/jobs/{namespace}/{job_id}/scale", tag = "jobs",
    params(("namespace" = String, Path, description = "Its namespace"), ("job_id" = String, Path, description = "Its name"), ("expected_version" = Option<u64>, Query, description = "Refuse it unless this is the newest version")), request_body = schema::Scale,
    responses((status = 200, body = schema::JobResponse))
)]
async fn scale(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let body = ask.json();
    let fields = Fields::open(String::new(), &body, &["replicas"], ask.faults());
    let replicas = fields.and_then(|mut fields| fields.need_whole("replicas"));
    let command = replicas.map(|replicas| Command::Scale { replicas });
    say(&api, ask, command).await
}

/// What a command to a job has beside its body.
async fn say(api: &Api, mut ask: Ask, command: Option<Command>) -> Result<Response, Problem> {
    let (key, who) = (ask.key(), ask.who());
    let expected = ask.expected("expected_version");
    let job = ask.job();
    let (job, command) = ask.done(job.zip(command))?;
    let request = Request {
        command,
        key,
        expected,
    };
    let done = api.handle().command(job.clone(), request, who).await?;
    answer(api, job, done.answer).await
}
