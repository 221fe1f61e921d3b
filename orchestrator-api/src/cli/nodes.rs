//! `orchestrator node`: the machines.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Limit;
use super::client::Client;
use super::error::Error;
use super::show::Column::{Left, Right};
use super::show::{Out, Table, ago, pairs, word, yes};
use crate::native::schema;
use crate::typed;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Lists nodes
    #[command(after_help = "Examples:\n  orchestrator node list")]
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Shows one node, with its labels and what it told about itself
    #[command(after_help = "Examples:\n  orchestrator node status n17")]
    Status(Name),
    /// Empties a node: nothing new starts there, and what runs there ends
    #[command(
        after_help = "Executions of a job with replicas begin on another node that can take them first, and go on where there is none.\nA job that runs on every node ends there.\n\nExamples:\n  orchestrator node drain n17"
    )]
    Drain(Name),
    /// Lets new work start on a node again
    #[command(after_help = "Examples:\n  orchestrator node enable n17")]
    Enable(Name),
    /// Forgets a node that is gone; an agent that still lives joins again and starts its work anew
    #[command(
        after_help = "To take a node away for good: drain it, end its agent, remove it, and revoke its token.\n\nExamples:\n  orchestrator node remove n17"
    )]
    Remove(Name),
}

#[derive(clap::Args)]
pub(super) struct Name {
    /// The node's name
    #[arg(value_parser = typed::name)]
    node: String,
}

pub(super) async fn run(command: Command, client: &Client, out: &Out) -> Result<u8, Error> {
    let path = |node: &str, verb: &str| format!("/v1/nodes/{node}{verb}");
    match command {
        Command::List { limit } => {
            let page = client.list("/v1/nodes", &[], "nodes", limit.rows()).await?;
            out.answer(page, list_text)?;
        }
        Command::Status(Name { node }) => {
            out.answer(client.get(&path(&node, "")).await?, node_text)?;
        }
        Command::Drain(Name { node }) => {
            let answer = client.post(&path(&node, "/drain"), &json!({})).await?;
            out.answer(answer, mark_text)?;
        }
        Command::Enable(Name { node }) => {
            let body = json!({ "eligible": true });
            let answer = client.post(&path(&node, "/eligibility"), &body).await?;
            out.answer(answer, mark_text)?;
        }
        Command::Remove(Name { node }) => {
            client.delete(&path(&node, "")).await?;
            out.answer(json!({ "removed": node }), |_: &Value, _| {
                format!("{node}: removed\n")
            })?;
        }
    }
    Ok(0)
}

fn list_text(page: &schema::NodePage, out: &Out) -> String {
    let mut table = Table::new(&[
        Left("node"),
        Left("status"),
        Left("drain"),
        Right("executions"),
        Left("since"),
        Left("labels"),
    ]);
    for node in &page.nodes {
        table.row(vec![
            node.name.clone(),
            out.paint.state(&word(&node.status)),
            yes(node.drain),
            node.executions.to_string(),
            ago(&node.since),
            all(&node.labels),
        ]);
    }
    let refuse = page.nodes.iter().filter(|node| refuses(node));
    let refuse: Vec<String> = refuse.map(|node| node.name.clone()).collect();
    let mut text = table.text(out);
    if let [first, more @ ..] = &refuse[..] {
        let who = match more.len() {
            0 => format!("{first} does"),
            more => format!("{first} and {more} more do"),
        };
        text += &format!(
            "\n{who} not do what the server wants, which is older than what it wanted before: if the server was restored, start the agent there once with --accept-older\n"
        );
    }
    text
}

/// Its agent says so: what the server wants is older than what it wanted before.
fn refuses(node: &schema::Node) -> bool {
    node.facts.contains_key("refuses")
}

fn node_text(schema::NodeResponse { node }: &schema::NodeResponse, out: &Out) -> String {
    pairs(
        &[
            ("node", node.name.clone()),
            ("status", out.paint.state(&word(&node.status))),
            ("drain", yes(node.drain)),
            ("leaving", yes(node.leaving)),
            ("executions", node.executions.to_string()),
            ("since", ago(&node.since)),
            ("labels", all(&node.labels)),
            ("facts", all(&node.facts)),
        ],
        out,
    )
}

fn mark_text(schema::NodeResponse { node }: &schema::NodeResponse, out: &Out) -> String {
    let status = out.paint.state(&word(&node.status));
    let drain = match (node.drain, node.leaving) {
        (true, _) => {
            "nothing new starts there, and what runs there ends: replicas when they run elsewhere, the rest at once"
        }
        (false, true) => "nothing new starts there before its agent joins again: it is leaving",
        (false, false) => "new work may start there",
    };
    format!("{}: {status}, {drain}\n", node.name)
}

fn all(texts: &BTreeMap<String, String>) -> String {
    let texts: Vec<String> = texts.iter().map(|(k, v)| format!("{k}={v}")).collect();
    texts.join(", ")
}
