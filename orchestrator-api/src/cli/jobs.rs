//! `orchestrator job`: what should run.

use std::path::PathBuf;

use orchestrator_core::JobId;
use serde_json::{Value, json};

use super::Limit;
use super::client::{Client, with_query};
use super::error::Error;
use super::fields;
use super::file::JobFile;
use super::logs;
use super::show::Column::{Left, Right};
use super::show::{Out, Table, ago, count, pairs, read, some, version, word, yes};
use super::watch::{self, Follow};
use crate::native::schema::{self, State, Type};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Shows what a job file would lead to, and touches nothing
    #[command(after_help = "Examples:\n  orchestrator job plan web.toml")]
    Plan {
        #[command(flatten)]
        document: Document,
    },
    /// Registers a job file as the newest version, rolls it out, and watches that
    #[command(
        after_help = "Examples:\n  orchestrator job run web.toml\n  orchestrator job run web.toml --timeout 10m --output json\n  sed s/TAG/$TAG/ web.toml | orchestrator job run -"
    )]
    Run {
        #[command(flatten)]
        document: Document,
        #[command(flatten)]
        follow: Follow,
    },
    /// Says what a job file may say
    #[command(
        after_help = "It asks no server.\n\nExamples:\n  orchestrator job fields\n  orchestrator job fields health_check\n  orchestrator job fields docker"
    )]
    Fields {
        /// Only fields with this in their names, or the part with this in its title
        word: Option<String>,
    },
    /// Runs a job nowhere any more, on all nodes at once
    #[command(after_help = "Examples:\n  orchestrator job stop web")]
    Stop {
        #[command(flatten)]
        job: Name,
        #[command(flatten)]
        follow: Follow,
    },
    /// Starts the same version again, node by node
    #[command(after_help = "Examples:\n  orchestrator job restart web")]
    Restart {
        #[command(flatten)]
        job: Name,
        #[command(flatten)]
        follow: Follow,
    },
    /// Changes how many executions a job with replicas has, in whichever version
    #[command(
        after_help = "Executions begin and end at once, and no deployment waits for them.\n\nExamples:\n  orchestrator job scale web 5"
    )]
    Scale {
        #[command(flatten)]
        job: Name,
        /// So many
        replicas: u32,
    },
    /// Goes back to a version that proved itself
    #[command(
        after_help = "Examples:\n  orchestrator job rollback web\n  orchestrator job rollback web --to 3"
    )]
    Rollback {
        #[command(flatten)]
        job: Name,
        /// The version; the newest that was not taken back, if nothing is said
        #[arg(long, value_name = "VERSION")]
        to: Option<u32>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Lists a job's versions
    #[command(after_help = "Examples:\n  orchestrator job versions web")]
    Versions {
        #[command(flatten)]
        job: Name,
        #[command(flatten)]
        limit: Limit,
    },
    /// Lists jobs
    #[command(
        after_help = "Examples:\n  orchestrator job list\n  orchestrator job list --namespace shop"
    )]
    List {
        /// Those in this namespace
        #[arg(long)]
        namespace: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Shows the last lines that a job's workloads wrote
    #[command(
        after_help = "Examples:\n  orchestrator job logs web\n  orchestrator job logs shop/web --node n17 --tail 1000\n  orchestrator job logs web --follow --output json"
    )]
    Logs {
        #[command(flatten)]
        job: Name,
        #[command(flatten)]
        lines: logs::Lines,
    },
    /// Shows one job
    #[command(after_help = "Examples:\n  orchestrator job status shop/web")]
    Status {
        #[command(flatten)]
        job: Name,
    },
}

/// A job that is there.
#[derive(clap::Args)]
pub(super) struct Name {
    /// The job: its name, or namespace/name
    job: JobId,
}

#[derive(clap::Args)]
pub(super) struct Document {
    /// The job file, TOML or JSON (`orchestrator job fields` tells what it may say); - reads it from the standard input
    file: PathBuf,
    /// Refuse it unless this is the newest version by now
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
    /// Take it though the very same was taken back before
    #[arg(long)]
    again: bool,
}

pub(super) async fn run(
    command: Command,
    client: impl FnOnce() -> Result<Client, Error>,
    out: &Out,
) -> Result<u8, Error> {
    match command {
        Command::Fields { word } => fields::show(word.as_deref(), out)?,
        Command::Plan { document } => {
            let (_, plan) = document.send(&client()?, true).await?;
            out.answer(plan, plan_text)?;
        }
        Command::Run { document, follow } => {
            let client = client()?;
            let (_, answer) = document.send(&client, false).await?;
            return started(answer, &follow, &client, out).await;
        }
        Command::Stop { job, follow } => {
            return job.say("stop", json!({}), &follow, &client()?, out).await;
        }
        Command::Restart { job, follow } => {
            return job
                .say("restart", json!({}), &follow, &client()?, out)
                .await;
        }
        Command::Scale { job, replicas } => {
            let path = format!("/v1/jobs/{}/scale", job.job);
            let answer = client()?
                .post(&path, &json!({ "replicas": replicas }))
                .await?;
            out.answer(answer, |answer: &schema::JobResponse, _| {
                let (job, how_many) = (&job.job, count(replicas as usize, "execution"));
                match answer.changed {
                    true => format!("{job}: scaled to {how_many}\n"),
                    false => format!("{job}: nothing to change, {how_many}\n"),
                }
            })?;
        }
        Command::Rollback { job, to, follow } => {
            let body = to.map_or_else(|| json!({}), |to| json!({ "to_version": to }));
            return job.say("rollback", body, &follow, &client()?, out).await;
        }
        Command::Versions { job, limit } => {
            let path = format!("/v1/jobs/{}/versions", job.job);
            let page = client()?.list(&path, &[], "versions", limit.rows()).await?;
            out.answer(page, versions_text)?;
        }
        Command::List { namespace, limit } => {
            let query = [("namespace", namespace)];
            let page = client()?
                .list("/v1/jobs", &query, "jobs", limit.rows())
                .await?;
            out.answer(page, jobs_text)?;
        }
        Command::Logs { job, lines } => logs::show(&job.job, &lines, &client()?, out).await?,
        Command::Status { job } => {
            let answer = client()?.get(&format!("/v1/jobs/{}", job.job)).await?;
            out.answer(answer, job_text)?;
        }
    }
    Ok(0)
}

impl Document {
    async fn send(&self, client: &Client, dry_run: bool) -> Result<(JobFile, Value), Error> {
        let file = JobFile::read(&self.file)?;
        let query = [
            ("dry_run", dry_run.then(|| "true".to_owned())),
            ("again", self.again.then(|| "true".to_owned())),
            (
                "expected_version",
                self.expected_version.map(|v| v.to_string()),
            ),
        ];
        let path = with_query("/v1/jobs", &query);
        let answer = client.post(&path, file.document()).await;
        let answer = answer.map_err(|why| file.placed(why))?;
        Ok((file, answer))
    }
}

impl Name {
    async fn say(
        &self,
        verb: &str,
        body: Value,
        follow: &Follow,
        client: &Client,
        out: &Out,
    ) -> Result<u8, Error> {
        let path = format!("/v1/jobs/{}/{verb}", self.job);
        let answer = client.post(&path, &body).await?;
        started(answer, follow, client, out).await
    }
}

/// Says what a command to a job led to, and watches that.
async fn started(answer: Value, follow: &Follow, client: &Client, out: &Out) -> Result<u8, Error> {
    if out.json {
        out.line(&answer)?;
    }
    let answer: schema::JobResponse = read(answer)?;
    let schema::Job {
        namespace, job_id, ..
    } = &answer.job;
    let mut is_settled = false;
    let what = match &answer.deployment_id {
        Some(id) => {
            let last = client.get(&format!("/v1/deployments/{id}")).await?;
            let schema::GetDeploymentResponse { deployment: last } = read(last)?;
            let is_over = last.status.completed_at.is_some();
            // What is asked for runs already, and a restart that was called off says nothing of that.
            let is_off = last.kind == Type::Restart && last.status.state == State::Canceled;
            is_settled = !answer.changed && is_off;
            // After a rollback that is not the newest one, which the answer has.
            let goal = match is_over {
                false => last.to_version,
                true => answer.job.current_version,
            };
            match answer.changed {
                true => format!("{}, deployment {id}", aim(&last)),
                false => format!("nothing to change{}, last deployment {id}", at(goal)),
            }
        }
        None => format!("nothing to do{}", at(answer.version)),
    };
    if !out.json {
        out.say(&format!("{namespace}/{job_id}: {what}\n"))?;
    }
    match answer.deployment_id {
        Some(id) if !follow.detach && !is_settled => {
            watch::watch(id, watch::Until::End, follow.timeout, client, out).await
        }
        _ => Ok(0),
    }
}

/// At which version it stays, where there is one.
fn at(version: u32) -> String {
    match version {
        0 => String::new(),
        version => format!(" at version {version}"),
    }
}

/// What a deployment is to bring about.
fn aim(deployment: &schema::Deployment) -> String {
    let (from, to) = (deployment.from_version, deployment.to_version);
    match deployment.kind {
        Type::Create | Type::Update => format!("version {to}"),
        Type::Restart => format!("restart of version {to}"),
        Type::Rollback => format!("rollback to version {to}"),
        Type::Stop if from == 0 => "stop of what has not proved itself".to_owned(),
        Type::Stop => format!("stop of version {from}"),
    }
}

fn plan_text(schema::PlanResponse { plan, changes }: &schema::PlanResponse, out: &Out) -> String {
    let schema::Plan {
        kind,
        from_version,
        to_version,
        waves,
        skipped,
        retired,
        supersedes,
        members_needed,
    } = plan;
    let Some(kind) = kind else {
        return match from_version {
            0 => "Nothing would change: it is under way already.\n".to_owned(),
            _ => format!("Nothing would change: version {from_version} is what runs.\n"),
        };
    };
    let mut text = match from_version {
        0 => format!("{}, version {to_version}\n", word(kind)),
        _ => format!(
            "{}, version {from_version} to version {to_version}\n",
            word(kind)
        ),
    };
    if *supersedes {
        text += "The deployment that is under way would give way.\n";
    }
    if !changes.is_empty() {
        text += "\n";
    }
    for change in changes {
        let field = change.pointer.trim_start_matches('/').replace('/', ".");
        if let Some(from) = &change.from {
            text += &out.paint.bad(&format!("- {field} = {from}"));
            text += "\n";
        }
        if let Some(to) = &change.to {
            text += &out.paint.good(&format!("+ {field} = {to}"));
            text += "\n";
        }
    }
    text += "\n";
    let mut table = Table::new(&[Left("wave"), Right("nodes"), Left("which")]);
    for wave in waves {
        let name = match wave.canary {
            true => format!("{} canary", wave.wave),
            false => wave.wave.to_string(),
        };
        table.row(vec![name, wave.nodes.len().to_string(), some(&wave.nodes)]);
    }
    text += &match waves.len() {
        0 if *members_needed => "It is to be seen then which nodes match.\n".to_owned(),
        0 => "No node would start it now.\n".to_owned(),
        _ => table.text(out),
    };
    for (nodes, what) in [
        (
            skipped,
            "not ready now, and would follow when they are back",
        ),
        (retired, "would be told to stop"),
    ] {
        if !nodes.is_empty() {
            text += &format!("\n{} {what}: {}\n", count(nodes.len(), "node"), some(nodes));
        }
    }
    text
}

fn versions_text(page: &schema::VersionPage, out: &Out) -> String {
    let mut table = Table::new(&[
        Right("version"),
        Left("registered"),
        Left("current"),
        Left("stable"),
        Left("taken back"),
        Right("executions"),
    ]);
    for version in &page.versions {
        table.row(vec![
            version.version.to_string(),
            ago(&version.registered_at),
            yes(version.current),
            yes(version.stable),
            yes(version.taken_back),
            version.executions.to_string(),
        ]);
    }
    table.text(out)
}

fn jobs_text(page: &schema::JobPage, out: &Out) -> String {
    let mut table = Table::new(&[
        Left("job"),
        Left("type"),
        Right("version"),
        Right("current"),
        Right("stable"),
        Left("last deployment"),
    ])
    .giving(&[("type", 0), ("last deployment", 0)]);
    for job in &page.jobs {
        let stable = job.stable_versions.last().map(ToString::to_string);
        table.row(vec![
            format!("{}/{}", job.namespace, job.job_id),
            job.job_type.as_ref().map(word).unwrap_or_default(),
            job.version.to_string(),
            version(job.current_version),
            stable.unwrap_or_default(),
            job.deployment_id.clone().unwrap_or_default(),
        ]);
    }
    table.text(out)
}

fn job_text(schema::GetJobResponse { job }: &schema::GetJobResponse, out: &Out) -> String {
    let stable: Vec<String> = job.stable_versions.iter().map(u32::to_string).collect();
    let kind = job.job_type.as_ref().map(word).unwrap_or_default();
    let current = match job.current_version {
        0 if stable.is_empty() => "none yet".to_owned(),
        0 => "none: it is to run nowhere".to_owned(),
        version => version.to_string(),
    };
    pairs(
        &[
            ("job", format!("{}/{}", job.namespace, job.job_id)),
            ("type", kind),
            ("newest version", job.version.to_string()),
            ("current version", current),
            ("stable versions", stable.join(", ")),
            (
                "last deployment",
                job.deployment_id.clone().unwrap_or_default(),
            ),
        ],
        out,
    )
}
