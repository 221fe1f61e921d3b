//! `orchestrator token` and `orchestrator audit`: who may do what, and who did it.

use std::path::PathBuf;

use orchestrator_core::Span;
use serde_json::{Value, json};

use super::Limit;
use super::client::Client;
use super::error::Error;
use super::show::Column::Left;
use super::show::{Out, Table, ago, maybe_ago, now, read, word};
use crate::access::Role;
use crate::access::token::{Made, New, TokenError, create_offline};
use crate::engine::chain;
use crate::native::schema;
use crate::store::StoreError;
use crate::typed;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Makes a token and writes it, once, to the standard output
    #[command(
        after_help = "Examples:\n  orchestrator token create --name ci --role deployer --expires-in 90d\n  orchestrator token create --name n17 --role node --node n17\n  orchestrator token create --name first --role admin --data-dir /var/lib/orchestrator"
    )]
    Create {
        /// What people call it
        #[arg(long)]
        name: String,
        /// What its holder may do
        #[arg(long, value_parser = role())]
        role: Role,
        /// The node that it is for, of the roles node and join
        #[arg(long)]
        node: Option<String>,
        /// After which time it is no longer good: 90d
        #[arg(long, value_name = "TIME", value_parser = typed::time)]
        expires_in: Option<Span>,
        /// Make it in the data directory of a server that does not run: the first token
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Lists tokens, also those that are no longer good, without their secrets
    #[command(after_help = "Examples:\n  orchestrator token list")]
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Lets nobody in with a token any more
    #[command(after_help = "Examples:\n  orchestrator token revoke 4k2m9x0a7c1d")]
    Revoke {
        /// The token's id, as it is listed
        #[arg(value_parser = id)]
        id: String,
    },
}

#[derive(clap::Subcommand)]
pub(super) enum Audit {
    /// Lists what was done and what was denied, the newest first
    #[command(after_help = "Examples:\n  orchestrator audit list --limit 20")]
    List {
        #[command(flatten)]
        limit: Limit,
    },
}

fn role() -> impl clap::builder::TypedValueParser<Value = Role> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    let words = PossibleValuesParser::new(Role::ALL.map(Role::as_str));
    words.map(|word| Role::named(&word).expect("it is one of them"))
}

/// It becomes a part of a path.
fn id(text: &str) -> Result<String, String> {
    let sound = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match sound {
        true => Ok(text.to_owned()),
        false if text.starts_with("orc_") => {
            Err("this is the token itself; its id is between the two underscores".to_owned())
        }
        false => Err("an id is made of letters and digits".to_owned()),
    }
}

pub(super) async fn run(
    command: Command,
    client: impl FnOnce() -> Result<Client, Error>,
    out: &Out,
) -> Result<u8, Error> {
    match command {
        Command::Create {
            name,
            role,
            node,
            expires_in,
            data_dir,
        } => {
            let made = match data_dir {
                Some(dir) => {
                    let new = New {
                        name,
                        role,
                        node,
                        expires_at: expires_in.map(|span| now().after(span)),
                    };
                    let is_new = !dir.join("orchestrator.db").exists();
                    let made = create_offline(&dir, new).await;
                    let Made { id, token } = made.map_err(|why| offline(&why))?;
                    if is_new {
                        eprintln!(
                            "{} was no data directory, and is a new one now.",
                            dir.display()
                        );
                    }
                    json!({ "id": id, "token": token.reveal() })
                }
                None => {
                    let mut new = json!({ "name": name, "role": role });
                    if let Some(node) = node {
                        new["node"] = node.into();
                    }
                    if let Some(span) = expires_in {
                        new["expires_in"] = span.to_string().into();
                    }
                    client()?.post("/v1/tokens", &new).await?
                }
            };
            show_made(made, out)?;
        }
        Command::List { limit } => {
            let page = client()?
                .list("/v1/tokens", &[], "tokens", limit.rows())
                .await?;
            out.answer(page, list_text)?;
        }
        Command::Revoke { id } => {
            let client = client()?;
            // Asked before: afterwards there may be nobody left who is let in.
            let is_last = is_last_admin(&id, &client).await?;
            client.delete(&format!("/v1/tokens/{id}")).await?;
            let done = json!({ "revoked": id });
            out.answer(done, |_: &Value, _| format!("{id}: revoked\n"))?;
            if is_last {
                eprintln!(
                    "It was the last admin token that was good: another can be made only where the server's data is, the \
                     server being stopped (orchestrator token create --data-dir <dir> --role admin --name <who>)."
                );
            }
        }
    }
    Ok(0)
}

/// Whether nobody can make tokens any more without this one.
async fn is_last_admin(id: &str, client: &Client) -> Result<bool, Error> {
    let all = client.list("/v1/tokens", &[], "tokens", usize::MAX).await?;
    let schema::TokenPage { tokens, .. } = read(all)?;
    let good = |token: &&schema::Token| token.active && token.role == schema::Role::Admin;
    let admins: Vec<&str> = tokens.iter().filter(good).map(|t| t.id.as_str()).collect();
    Ok(admins == [id])
}

/// Why no token was made in a directory, and what to do.
fn offline(why: &TokenError) -> Error {
    Error::Offline(match why {
        TokenError::Store(StoreError::InUse { place, pid }) => {
            let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            format!(
                "a server runs on {place}{process}: leave out --data-dir, so that it is the one who is asked for the \
                 token, or stop it first"
            )
        }
        TokenError::Store(why) => chain(why),
        why => chain(why),
    })
}

/// The token alone, so that a script can keep it; what is to be known of it goes the other way.
fn show_made(made: Value, out: &Out) -> Result<(), Error> {
    if out.json {
        return out.answer(made, |_: &Value, _| String::new());
    }
    let schema::MadeToken {
        id,
        token,
        agents_shut_out,
    } = read(made)?;
    if let Some(agents) = agents_shut_out {
        eprintln!(
            "{} without a token, and not let in any more: give each a join token (orchestrator token create --role \
             join --name <node>), and start it again with that.",
            match agents {
                1 => "1 agent is".to_owned(),
                _ => format!("{agents} agents are"),
            }
        );
    }
    eprintln!("This is token {id}. It will not be shown again:");
    out.say(&format!("{token}\n"))
}

pub(super) async fn audit(command: Audit, client: &Client, out: &Out) -> Result<u8, Error> {
    let Audit::List { limit } = command;
    let page = client.list("/v1/audit", &[], "lines", limit.rows()).await?;
    out.answer(page, audit_text)?;
    Ok(0)
}

fn list_text(page: &schema::TokenPage, out: &Out) -> String {
    let mut table = Table::new(&[
        Left("id"),
        Left("name"),
        Left("role"),
        Left("node"),
        Left("good"),
        Left("made"),
        Left("last used"),
    ]);
    for token in &page.tokens {
        let good = match (token.active, &token.revoked_at, &token.expires_at) {
            (true, _, None) => "yes".to_owned(),
            (true, _, Some(at)) => format!("ends {}", ago(at)),
            (false, Some(at), _) => format!("revoked {}", ago(at)),
            (false, None, at) => format!("expired {}", maybe_ago(at.as_ref())),
        };
        table.row(vec![
            token.id.clone(),
            token.name.clone(),
            word(&token.role),
            token.node.clone().unwrap_or_default(),
            out.paint.state(&good),
            ago(&token.created_at),
            maybe_ago(token.last_used_at.as_ref()),
        ]);
    }
    table.text(out)
}

fn audit_text(page: &schema::AuditPage, out: &Out) -> String {
    let mut table = Table::new(&[
        Left("when"),
        Left("who"),
        Left("action"),
        Left("object"),
        Left("outcome"),
    ])
    .giving(&[
        ("who", 10),
        ("when", 0),
        ("who", 4),
        ("object", 12),
        ("action", 8),
    ]);
    for line in &page.lines {
        table.row(vec![
            ago(&line.at),
            line.who.clone(),
            line.action.clone(),
            line.object.clone(),
            line.outcome.clone(),
        ]);
    }
    table.text(out)
}
