//! `orchestrator deployment`: how the fleet moves from one version to the next.

use std::str::FromStr;

use clap::builder::PossibleValuesParser;
use orchestrator_core::{DeploymentId, JobId};
use serde_json::{Value, json};

use super::Limit;
use super::client::{Client, with_query};
use super::error::Error;
use super::live;
use super::show::Column::{Left, Right};
use super::show::{Out, Table, ago, maybe_ago, pairs, read, version, word, yes};
use super::watch::{self, Follow};
use crate::native::schema;
use crate::typed;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Lists deployments, the newest first
    #[command(
        after_help = "Examples:\n  orchestrator deployment list --state in_progress\n  orchestrator deployment list --filter 'job_id = web AND failed_nodes > 3'"
    )]
    List(List),
    /// Shows one deployment
    #[command(after_help = "Examples:\n  orchestrator deployment status web")]
    Status(Which),
    /// Watches a deployment to its end; the exit code says how it ended
    #[command(
        after_help = "Where the output is no terminal, one line is written for each change.\nCtrl-C ends the watching and not the deployment.\nA server that does not answer any more is asked for 5 minutes; then the exit code is 1.\n\nExamples:\n  orchestrator deployment watch web\n  orchestrator deployment watch web --timeout 10m --output json\n  orchestrator deployment watch web --until promotion --timeout 10m"
    )]
    Watch {
        #[command(flatten)]
        which: Which,
        /// When to stop watching: at its end, or once healthy canaries wait for a person or a script
        #[arg(long, value_name = "WHAT", value_enum, default_value_t = watch::Until::End)]
        until: watch::Until,
        /// Watch for so long at the most: 10m; then the exit code is 5
        #[arg(long, value_name = "TIME", value_parser = typed::time)]
        timeout: Option<orchestrator_core::Span>,
    },
    /// Lets the rest follow the canaries
    #[command(after_help = "Examples:\n  orchestrator deployment promote web")]
    Promote(Guarded),
    /// Starts nothing more for now
    #[command(after_help = "Examples:\n  orchestrator deployment pause web")]
    Pause(Guarded),
    /// Goes on after a pause
    #[command(after_help = "Examples:\n  orchestrator deployment resume web")]
    Resume(Guarded),
    /// Calls a deployment off; nodes stay as they are
    #[command(after_help = "Examples:\n  orchestrator deployment cancel web")]
    Cancel(Guarded),
    /// Calls a deployment failed; what follows a failure follows
    #[command(
        after_help = "Examples:\n  orchestrator deployment fail web --reason 'customers complain'"
    )]
    Fail {
        #[command(flatten)]
        which: Guarded,
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Takes a deployment back, where it is the last one of its job
    #[command(
        after_help = "Examples:\n  orchestrator deployment rollback web\n  orchestrator deployment rollback web --to 3 --detach"
    )]
    Rollback {
        #[command(flatten)]
        which: Which,
        /// The version; the newest that was not taken back, if nothing is said
        #[arg(long, value_name = "VERSION")]
        to: Option<u32>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Tells why a deployment is where it is
    #[command(after_help = "Examples:\n  orchestrator deployment explain web")]
    Explain(Which),
    /// Lists what has become of each node, in the order of their turn
    #[command(after_help = "Examples:\n  orchestrator deployment targets web")]
    Targets {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limit: Limit,
    },
    /// Lists what happened, the oldest first
    #[command(after_help = "Examples:\n  orchestrator deployment events web --limit 1000")]
    Events {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limit: Limit,
    },
}

fn words<T: schema::Word>() -> PossibleValuesParser {
    PossibleValuesParser::new(T::WORDS)
}

#[derive(clap::Args)]
pub(super) struct List {
    /// Those of jobs in this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Those of jobs of this name
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
    /// Those in this state
    #[arg(long, value_parser = words::<schema::State>())]
    state: Option<String>,
    /// Those of this type
    #[arg(long = "type", value_name = "TYPE", value_parser = words::<schema::Type>())]
    kind: Option<String>,
    /// Those of which this is true, as AIP-160 writes it
    #[arg(long, value_name = "CONDITION")]
    filter: Option<String>,
    /// By which fields: created_at desc, job_id
    #[arg(long, value_name = "FIELDS")]
    order_by: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

#[derive(clap::Args)]
pub(super) struct Which {
    /// The deployment's id; or a job, for its last one
    #[arg(value_name = "DEPLOYMENT")]
    which: IdOrJob,
}

#[derive(clap::Args)]
pub(super) struct Guarded {
    #[command(flatten)]
    which: Which,
    /// Refuse it unless it is of this revision by now
    #[arg(long, value_name = "REVISION")]
    expected_revision: Option<u64>,
}

#[derive(Clone)]
enum IdOrJob {
    Id(DeploymentId),
    Job(JobId),
}

impl FromStr for IdOrJob {
    type Err = orchestrator_core::InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Job),
        }
    }
}

impl Which {
    async fn id(&self, client: &Client) -> Result<String, Error> {
        let job = match &self.which {
            IdOrJob::Id(id) => return Ok(id.to_string()),
            IdOrJob::Job(job) => job,
        };
        let answer = client.get(&format!("/v1/jobs/{job}")).await?;
        let schema::GetJobResponse { job: found } = read(answer)?;
        let none = || Error::Usage(format!("job {job} has no deployment yet"));
        found.deployment_id.ok_or_else(none)
    }
}

impl Guarded {
    async fn say(&self, verb: &str, body: Value, client: &Client, out: &Out) -> Result<(), Error> {
        let id = self.which.id(client).await?;
        let expected = self.expected_revision.map(|revision| revision.to_string());
        let path = format!("/v1/deployments/{id}/{verb}");
        let path = with_query(&path, &[("expected_revision", expected)]);
        let answer = client.post(&path, &body).await?;
        let led_to: schema::GetDeploymentResponse = read(answer.clone())?;
        // The answer may be about what follows, a rollback: people also want to see what became of this one.
        if !out.json && led_to.deployment.id != id {
            let asked = client.get(&format!("/v1/deployments/{id}")).await?;
            out.say(&line_text(&read(asked)?, out))?;
        }
        out.answer(answer, line_text)
    }
}

pub(super) async fn run(command: Command, client: &Client, out: &Out) -> Result<u8, Error> {
    match command {
        Command::List(list) => {
            let List {
                namespace,
                job,
                state,
                kind,
                filter,
                order_by,
                limit,
            } = list;
            let query = [
                ("namespace", namespace),
                ("job_id", job),
                ("state", state),
                ("type", kind),
                ("filter", filter),
                ("order_by", order_by),
            ];
            let page = client.list("/v1/deployments", &query, "deployments", limit.rows());
            out.answer(page.await?, list_text)?;
        }
        Command::Status(which) => {
            let id = which.id(client).await?;
            let answer = client.get(&format!("/v1/deployments/{id}")).await?;
            out.answer(answer, status_text)?;
        }
        Command::Watch {
            which,
            until,
            timeout,
        } => {
            let id = which.id(client).await?;
            return watch::watch(id, until, timeout, client, out).await;
        }
        Command::Promote(which) => which.say("promote", json!({}), client, out).await?,
        Command::Pause(which) => which.say("pause", json!({}), client, out).await?,
        Command::Resume(which) => which.say("resume", json!({}), client, out).await?,
        Command::Cancel(which) => which.say("cancel", json!({}), client, out).await?,
        Command::Fail { which, reason } => {
            let body = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            which.say("fail", body, client, out).await?;
        }
        Command::Rollback { which, to, follow } => {
            let id = which.id(client).await?;
            let body = to.map_or_else(|| json!({}), |to| json!({ "to_version": to }));
            let path = format!("/v1/deployments/{id}/rollback");
            let answer = client.post(&path, &body).await?;
            if out.json {
                out.line(&answer)?;
            }
            let answer: schema::GetDeploymentResponse = read(answer)?;
            if !out.json {
                out.say(&line_text(&answer, out))?;
            }
            if !follow.detach {
                let id = answer.deployment.id;
                return watch::watch(id, watch::Until::End, follow.timeout, client, out).await;
            }
        }
        Command::Explain(which) => {
            let id = which.id(client).await?;
            let answer = client.get(&format!("/v1/deployments/{id}/explain")).await?;
            out.answer(answer, explain_text)?;
            if !out.json {
                let shown = client.get(&format!("/v1/deployments/{id}")).await?;
                let schema::GetDeploymentResponse { deployment } = read(shown)?;
                out.say(&pairs(&live::choice(&deployment), out))?;
            }
        }
        Command::Targets { which, limit } => {
            let id = which.id(client).await?;
            let path = format!("/v1/deployments/{id}/targets");
            let page = client.list(&path, &[], "targets", limit.rows()).await?;
            out.answer(page, targets_text)?;
        }
        Command::Events { which, limit } => {
            let id = which.id(client).await?;
            let path = format!("/v1/deployments/{id}/events");
            let page = client.list(&path, &[], "events", limit.rows()).await?;
            out.answer(page, events_text)?;
        }
    }
    Ok(0)
}

/// What an operator's word led to.
fn line_text(answer: &schema::GetDeploymentResponse, _: &Out) -> String {
    let shown = &answer.deployment;
    format!("{}  {}\n", shown.id, shown.status.message)
}

fn list_text(page: &schema::DeploymentPage, out: &Out) -> String {
    let mut table = Table::new(&[
        Left("deployment"),
        Left("job"),
        Left("type"),
        Right("from"),
        Right("to"),
        Left("state"),
        Left("begun"),
        Left("message"),
    ])
    .giving(&[
        ("message", 30),
        ("from", 0),
        ("to", 0),
        ("begun", 0),
        ("type", 0),
        ("message", 12),
        ("message", 0),
        ("job", 8),
    ]);
    for shown in &page.deployments {
        table.row(vec![
            shown.id.clone(),
            format!("{}/{}", shown.namespace, shown.job_id),
            word(&shown.kind),
            version(shown.from_version),
            version(shown.to_version),
            out.paint.state(&word(&shown.status.state)),
            ago(&shown.status.created_at),
            shown.status.message.clone(),
        ]);
    }
    table.text(out)
}

fn status_text(answer: &schema::GetDeploymentResponse, out: &Out) -> String {
    let shown = &answer.deployment;
    let status = &shown.status;
    pairs(
        &[
            ("deployment", shown.id.clone()),
            ("job", format!("{}/{}", shown.namespace, shown.job_id)),
            ("what", live::what(shown)),
            ("state", out.paint.state(&word(&status.state))),
            ("nodes", live::nodes(shown, out.paint)),
            ("wave", status.current_wave.to_string()),
            ("canaries", status.canary_nodes.join(", ")),
            ("message", status.message.clone()),
            ("waits for", status.waiting_on.clone().unwrap_or_default()),
            (
                "next deadline",
                maybe_ago(status.health_check_deadline.as_ref()),
            ),
            ("begun", ago(&status.created_at)),
            ("ended", maybe_ago(status.completed_at.as_ref())),
            ("takes back", shown.rollback_of.clone().unwrap_or_default()),
            (
                "taken back by",
                shown.rolled_back_by.clone().unwrap_or_default(),
            ),
            ("revision", status.revision.to_string()),
        ],
        out,
    )
}

pub(super) fn explain_text(answer: &schema::ExplanationResponse, out: &Out) -> String {
    let schema::Explanation { links, now } = &answer.explanation;
    // Of one that is over, its end is the last that happened.
    let is_said = links.last().is_some_and(|last| last.text == *now);
    let now = (!is_said).then(|| ("now".to_owned(), &**now));
    causes(links.iter().map(line).chain(now).collect(), out)
}

/// What led to something, without what that is.
pub(super) fn links_text<'a>(links: impl Iterator<Item = &'a schema::Link>, out: &Out) -> String {
    causes(links.map(line).collect(), out)
}

fn line(link: &schema::Link) -> (String, &str) {
    (ago(&link.at), &link.text)
}

fn causes(lines: Vec<(String, &str)>, out: &Out) -> String {
    let longest = lines.iter().map(|(when, _)| when.len()).max().unwrap_or(0);
    lines
        .iter()
        .map(|(when, text)| {
            let room = " ".repeat(longest - when.len() + 2);
            format!("{}{room}{text}\n", out.paint.faint(when))
        })
        .collect()
}

fn targets_text(page: &schema::TargetPage, out: &Out) -> String {
    let mut table = Table::new(&[
        Right("target"),
        Left("node"),
        Right("wave"),
        Left("canary"),
        Left("state"),
        Left("errors"),
        Left("deadline"),
        Left("reason"),
    ]);
    for target in &page.targets {
        let state = out.paint.state(&target.state);
        table.row(vec![
            target.target.to_string(),
            target.node.clone(),
            target.wave.to_string(),
            yes(target.canary),
            match (target.lost, target.unproven) {
                (true, _) => format!("{state}, silent"),
                (false, true) => format!("{state}, not yet well again"),
                (false, false) => state,
            },
            live::errors(target).unwrap_or_default(),
            maybe_ago(target.deadline.as_ref()),
            target.reason.clone().unwrap_or_default(),
        ]);
    }
    table.text(out)
}

fn events_text(page: &schema::EventPage, out: &Out) -> String {
    let mut table = Table::new(&[Right("revision"), Left("when"), Left("what")]);
    for event in &page.events {
        let revision = event.revision.to_string();
        table.row(vec![revision, ago(&event.at), event.message.clone()]);
    }
    table.text(out)
}
