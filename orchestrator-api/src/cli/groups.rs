//! `orchestrator group`: several jobs, in the order of what depends on what.

mod file;
mod watch;

use std::path::PathBuf;

use axum::http::StatusCode;
use orchestrator_core::group::OnFailure;
use orchestrator_core::{JobId, Span};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use self::file::GroupFile;
use super::Limit;
use super::client::{Client, with_query};
use super::error::Error;
use super::show::Column::{Left, Right};
use super::show::{Out, Table, ago, count, maybe_ago, pairs, read, some, word};
use super::watch::{CANCELED, Follow};
use crate::native::{Problem, schema};
use crate::typed;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Says in which order a group's jobs would start, and asks no server
    #[command(after_help = "Examples:\n  orchestrator group plan release.toml")]
    Plan {
        #[command(flatten)]
        document: Document,
    },
    /// Brings the jobs of a group to their documents, each after what it depends on, and watches that
    #[command(
        after_help = "A group file names job files beside it, and what each job is after:\n\n  name = \"release\"\n\n  [[members]]\n  file = \"db.toml\"\n\n  [[members]]\n  file = \"web.toml\"\n  after = [\"db\"]\n\nInstead of a file, a member may have the job document itself as its spec. When a job ends badly, all that is connected with it is taken back; with on_failure = \"stop\", what depends on it does not start, and that is all.\n\nExamples:\n  orchestrator group run release.toml\n  orchestrator group run release.toml --timeout 30m --output json"
    )]
    Run {
        #[command(flatten)]
        document: Document,
        /// Take jobs to their documents though the very same were taken back before
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        follow: Follow,
    },
    /// Lists groups, the newest first
    #[command(
        after_help = "Examples:\n  orchestrator group list\n  orchestrator group list --name release"
    )]
    List {
        /// Those of this name
        #[arg(long, value_parser = typed::name)]
        name: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Shows one group, and what has become of each of its jobs
    #[command(after_help = "Examples:\n  orchestrator group status release")]
    Status(Which),
    /// Watches a group to its end; the exit code says how it ended
    #[command(
        after_help = "One line is written for each change.\nThe exit code is 3 where all that was to be taken back was, and 2 where something stays as it is.\nCtrl-C ends the watching and not the group.\nA server that does not answer any more is asked for 5 minutes; then the exit code is 1.\n\nExamples:\n  orchestrator group watch release\n  orchestrator group watch release --timeout 30m --output json"
    )]
    Watch {
        #[command(flatten)]
        which: Which,
        /// Watch for so long at the most: 10m; then the exit code is 5
        #[arg(long, value_name = "TIME", value_parser = typed::time)]
        timeout: Option<Span>,
    },
    /// Calls a group off: nothing more of it starts, and what it has begun is canceled; nodes stay as they are
    #[command(
        after_help = "Examples:\n  orchestrator group cancel release\n  orchestrator group cancel release --detach"
    )]
    Cancel {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        follow: Follow,
    },
}

#[derive(clap::Args)]
pub(super) struct Document {
    /// The group file, TOML or JSON; - reads it from the standard input
    file: PathBuf,
}

#[derive(clap::Args)]
pub(super) struct Which {
    /// The group's id; or a name, for the newest one of that name
    #[arg(value_name = "GROUP", value_parser = typed::name)]
    which: String,
}

impl Which {
    async fn id(&self, client: &Client) -> Result<String, Error> {
        let name = &self.which;
        if let Ok(id) = Uuid::parse_str(name) {
            return Ok(id.to_string());
        }
        let query = [("name", Some(name.clone()))];
        let newest = client.list("/v1/groups", &query, "groups", 1).await?;
        let schema::GroupPage { groups, .. } = read(newest)?;
        match groups.into_iter().next() {
            Some(group) => Ok(group.id),
            None => {
                let detail = format!("there is no group {name}");
                let problem = Problem::new(StatusCode::NOT_FOUND, "not-found", detail);
                Err(Error::Refused {
                    problem: Box::new(problem),
                    with_token: false,
                })
            }
        }
    }
}

pub(super) async fn run(
    command: Command,
    client: impl FnOnce() -> Result<Client, Error>,
    out: &Out,
) -> Result<u8, Error> {
    match command {
        Command::Plan { document } => {
            let file = GroupFile::read(&document.file)?;
            out.answer(plan(&file), plan_text)?;
        }
        Command::Run {
            document,
            again,
            follow,
        } => {
            let client = client()?;
            let file = GroupFile::read(&document.file)?;
            let path = with_query("/v1/groups", &[("again", again.then(|| "true".to_owned()))]);
            let answer = client.post(&path, file.document()).await;
            let answer = answer.map_err(|why| file.placed(why))?;
            return followed(answer, &follow, &client, out).await;
        }
        Command::List { name, limit } => {
            let query = [("name", name)];
            let client = client()?;
            let page = client.list("/v1/groups", &query, "groups", limit.rows());
            out.answer(page.await?, list_text)?;
        }
        Command::Status(which) => {
            let client = client()?;
            let id = which.id(&client).await?;
            out.answer(client.get(&format!("/v1/groups/{id}")).await?, status_text)?;
        }
        Command::Watch { which, timeout } => {
            let client = client()?;
            let id = which.id(&client).await?;
            let answer = client.get(&format!("/v1/groups/{id}")).await?;
            return watch::watch(answer, timeout, &client, out).await;
        }
        Command::Cancel { which, follow } => {
            let client = client()?;
            let id = which.id(&client).await?;
            let path = format!("/v1/groups/{id}/cancel");
            let answer = client.post(&path, &json!({})).await?;
            return match followed(answer, &follow, &client, out).await? {
                // That is what was asked for.
                CANCELED => Ok(0),
                code => Ok(code),
            };
        }
    }
    Ok(0)
}

/// Says which group it is about, and watches that.
async fn followed(answer: Value, follow: &Follow, client: &Client, out: &Out) -> Result<u8, Error> {
    if !out.json {
        let schema::GroupResponse { group } = read(answer.clone())?;
        let schema::Group {
            name, id, message, ..
        } = &group;
        let message = match follow.detach {
            true => format!(", {message}"),
            false => String::new(),
        };
        out.say(&format!("{name}: group {id}{message}\n"))?;
    }
    if follow.detach {
        if out.json {
            out.line(&answer)?;
        }
        return Ok(0);
    }
    watch::watch(answer, follow.timeout, client, out).await
}

/// What a file would lead to.
#[derive(Deserialize, Serialize)]
struct PlanResponse {
    plan: Plan,
}

#[derive(Deserialize, Serialize)]
struct Plan {
    name: String,
    on_failure: OnFailure,
    waves: Vec<Vec<JobId>>,
}

fn plan(file: &GroupFile) -> Value {
    let group = file.group();
    let spec = group.state().spec();
    let plan = Plan {
        name: spec.name.clone(),
        on_failure: spec.on_failure,
        waves: group.plan(),
    };
    serde_json::to_value(PlanResponse { plan }).expect("it is names only")
}

fn plan_text(PlanResponse { plan }: &PlanResponse, out: &Out) -> String {
    let Plan {
        name,
        on_failure,
        waves,
    } = plan;
    let jobs = waves.iter().map(Vec::len).sum();
    let what = match on_failure {
        OnFailure::Rollback => "what is connected with it is taken back",
        OnFailure::Stop => "what depends on it does not start",
    };
    let mut text = format!(
        "{name}: {}, {}; when one ends badly, {what}\n\n",
        count(jobs, "job"),
        count(waves.len(), "wave")
    );
    let mut table = Table::new(&[Right("wave"), Right("jobs"), Left("which")]);
    for (at, wave) in waves.iter().enumerate() {
        let names: Vec<String> = wave.iter().map(JobId::to_string).collect();
        let number = (at + 1).to_string();
        table.row(vec![number, wave.len().to_string(), some(&names)]);
    }
    text += &table.text(out);
    text
}

fn list_text(page: &schema::GroupPage, out: &Out) -> String {
    let mut table = Table::new(&[
        Left("group"),
        Left("name"),
        Left("state"),
        Right("jobs"),
        Left("begun"),
        Left("message"),
    ])
    .giving(&[
        ("message", 30),
        ("jobs", 0),
        ("begun", 0),
        ("message", 12),
        ("message", 0),
        ("name", 8),
    ]);
    for group in &page.groups {
        table.row(vec![
            group.id.clone(),
            group.name.clone(),
            out.paint.state(&word(&group.state)),
            group.members.len().to_string(),
            ago(&group.created_at),
            group.message.clone(),
        ]);
    }
    table.text(out)
}

fn status_text(schema::GroupResponse { group }: &schema::GroupResponse, out: &Out) -> String {
    let mut text = pairs(
        &[
            ("group", group.id.clone()),
            ("name", group.name.clone()),
            ("state", out.paint.state(&word(&group.state))),
            ("on failure", word(&group.on_failure)),
            ("message", group.message.clone()),
            ("begun", ago(&group.created_at)),
            ("ended", maybe_ago(group.completed_at.as_ref())),
            ("revision", group.revision.to_string()),
        ],
        out,
    );
    let mut table = Table::new(&[
        Left("job"),
        Left("after"),
        Left("state"),
        Left("deployment"),
        Left("taken back by"),
    ])
    .giving(&[
        ("after", 12),
        ("taken back by", 0),
        ("deployment", 0),
        ("after", 0),
    ]);
    for member in &group.members {
        table.row(vec![
            job(member),
            some(&member.after),
            out.paint.state(&watch::state(member)),
            member.deployment_id.clone().unwrap_or_default(),
            member.rollback_id.clone().unwrap_or_default(),
        ]);
    }
    text += "\n";
    text += &table.text(out);
    text
}

fn job(member: &schema::GroupMemberStatus) -> String {
    format!("{}/{}", member.namespace, member.job_id)
}
