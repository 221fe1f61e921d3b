//! What goes wrong on the way to an answer, each in one sentence that says what to do.

use std::path::{Path, PathBuf};

use super::show::printable;
use crate::native::{AGAIN, Fault, Problem, TAKEN_BACK};
use axum::http::StatusCode;
use serde_json::{Map, Value};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The address is none.
    #[error(
        "{0:?} is no address of a server: say something like http://127.0.0.1:4650 with --address"
    )]
    Address(String),
    /// A file that cannot be read.
    #[error("{} cannot be read: {why}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file that is to have a token.
    #[error("{} is empty: it has to have the token in it; see --token-file", _0.display())]
    NoToken(PathBuf),
    /// Files that are wrong, with all places as they are shown to people.
    #[error("{text}")]
    File {
        /// For people.
        text: String,
        /// In one sentence.
        detail: String,
        /// For programs.
        wrong: Vec<Value>,
    },
    /// Nobody listens there.
    #[error(
        "there is no server at {address}: {why}; start one with `orchestrator server`, or say where it is with --address"
    )]
    NoServer {
        /// Where.
        address: String,
        /// What the system says.
        why: String,
    },
    /// A certificate that nobody known has signed, or of somebody else.
    #[error("the certificate of {address} is not trusted: {why}")]
    Untrusted {
        /// Whose.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something listens there, and it is no such server; or it went away.
    #[error("the server at {address} gave no answer: {why}")]
    Broken {
        /// Where.
        address: String,
        /// What happened.
        why: String,
    },
    /// It answered something that is not of this API.
    #[error("what answers at {address} is no orchestrator of this version: {why}")]
    Foreign {
        /// Where.
        address: String,
        /// What it answered.
        why: String,
    },
    /// The server said no.
    #[error("{}", told(.problem, *.with_token))]
    Refused {
        /// Why.
        problem: Box<Problem>,
        /// Whether a token was shown.
        with_token: bool,
    },
    /// The server did not begin, or ended before it was told to.
    #[error(transparent)]
    Server(#[from] crate::server::Error),
    /// What is made offline could not be.
    #[error("{0}")]
    Offline(String),
    /// A law of the core is broken.
    #[error("a law is broken, which is a bug of the core\n{0}")]
    Law(String),
    /// Nobody reads any more what is written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// What is wrong with how a command is written, in sysexits' words.
pub(super) const USAGE: u8 = 64;
/// As a program ends that a broken pipe kills.
pub(super) const NOBODY_READS: u8 = 141;

impl Error {
    /// A file that the system does not let be read.
    pub(super) fn unreadable(path: &Path, why: &std::io::Error) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            why: unread(why),
        }
    }

    /// What is wrong with this file and with that one, as one.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::File {
                    text,
                    detail,
                    mut wrong,
                },
                Self::File {
                    text: more_text,
                    detail: more_detail,
                    wrong: more_wrong,
                },
            ) => {
                wrong.extend(more_wrong);
                Self::File {
                    text: format!("{text}\n\n{more_text}"),
                    detail: format!("{detail}; {more_detail}"),
                    wrong,
                }
            }
            (one, _) => one,
        }
    }

    /// The exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Address(_) => USAGE,
            _ => 1,
        }
    }

    /// Whether whoever read the output went away, which is no fault.
    pub(super) fn is_nobody_reads(&self) -> bool {
        matches!(self, Self::Output(why) if why.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// Whether the server may be there again, or have time again, in a moment.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::NoServer { .. } | Self::Broken { .. } => true,
            _ => self.problem().is_some_and(|problem| problem.status == 503),
        }
    }

    /// What the server refused, if it is that.
    pub(super) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }
}

/// Why a file is not read, as people say it.
pub(super) fn unread(why: &std::io::Error) -> String {
    match why.kind() {
        std::io::ErrorKind::NotFound => "it is not there".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => why.to_string(),
    }
}

/// What kind of problem a wrong command line is.
const USAGE_KIND: &str = "usage";

impl Error {
    /// The same for programs: the server's problem as it was sent, or one of the same form without a status.
    pub(super) fn to_json(&self) -> Value {
        let kind = match self {
            Self::Refused { problem, .. } => {
                return serde_json::to_value(problem).expect("a problem is JSON");
            }
            Self::Usage(_) => USAGE_KIND,
            Self::Address(_) => "no-address",
            Self::Unreadable { .. } => "unreadable-file",
            Self::NoToken(_) => "no-token",
            Self::File { .. } => "wrong-file",
            Self::NoServer { .. } => "no-server",
            Self::Untrusted { .. } => "untrusted",
            Self::Broken { .. } => "no-answer",
            Self::Foreign { .. } => "other-server",
            Self::Server(_) => "server-failed",
            Self::Offline(_) => "offline",
            Self::Law(_) => "broken-law",
            Self::Output(_) => "output",
        };
        match self {
            Self::File { detail, wrong, .. } => {
                let mut problem = local(kind, detail);
                problem.insert("errors".to_owned(), wrong.clone().into());
                problem.into()
            }
            other => local(kind, &other.to_string()).into(),
        }
    }
}

/// What clap finds wrong, for programs.
pub(super) fn usage_to_json(why: &clap::Error) -> Value {
    let text = why.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    local(USAGE_KIND, text.trim_end()).into()
}

/// A problem of no server.
fn local(kind: &str, detail: &str) -> Map<String, Value> {
    let problem = Problem::new(StatusCode::OK, kind, detail);
    match serde_json::to_value(problem) {
        Ok(Value::Object(mut fields)) => {
            fields.remove("status");
            fields
        }
        _ => Map::new(),
    }
}

/// What there is, for who named something that is not there.
const LISTS: [(&str, &str); 5] = [
    ("there is no job ", "job list"),
    ("there is no deployment ", "deployment list"),
    ("there is no group ", "group list"),
    ("there is no node ", "node list"),
    ("there is no token ", "token list"),
];

/// A refusal, what to do about it, and every fault at its place.
fn told(problem: &Problem, with_token: bool) -> String {
    let detail = &printable(&problem.detail);
    let missing = || LISTS.iter().find(|(what, _)| detail.starts_with(what));
    let mut text = match (problem.status, with_token) {
        (401, false) => {
            "the server wants a token: give one with --token-file, --token or ORCHESTRATOR_TOKEN"
                .to_owned()
        }
        (401, true) => format!("{detail}; see --token-file, --token and ORCHESTRATOR_TOKEN"),
        (404, _) => match missing() {
            Some((_, list)) => format!("{detail}; `orchestrator {list}` shows what there is"),
            None => detail.clone(),
        },
        _ if problem.kind.ends_with(TAKEN_BACK) => detail.replace(AGAIN, "with --again"),
        _ => detail.clone(),
    };
    match problem.errors.as_slice() {
        [] => {}
        [only] if only.detail == problem.detail => {
            text = format!("{}{detail}", place(only));
        }
        several => {
            text = text.replace(": see `errors`", "");
            for fault in several {
                text += &format!("\n  {}{}", place(fault), printable(&fault.detail));
            }
        }
    }
    text
}

fn place(fault: &Fault) -> String {
    match (&fault.pointer, &fault.parameter, &fault.header) {
        (Some(pointer), _, _) if !pointer.is_empty() => format!("{pointer}: "),
        (_, Some(name), _) => format!("{name}: "),
        (_, _, Some(name)) => format!("header {name}: "),
        _ => String::new(),
    }
}
