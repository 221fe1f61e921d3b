//! `orchestrator job logs`: what workloads write.

use std::cell::Cell;
use std::collections::HashMap;

use orchestrator_core::JobId;
use tokio::time::{Instant, sleep};

use super::client::{Client, with_query};
use super::error::Error;
use super::show::{Out, read};
use super::watch::{AWAY_MAX, AWAY_PAUSE};
use crate::native::schema::{LogLine, LogPage, Stream};

/// Which lines.
#[derive(clap::Args)]
pub(super) struct Lines {
    /// Only what was written on this node
    #[arg(long)]
    node: Option<String>,
    /// At most so many of the last ones
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    tail: u32,
    /// Go on with those that come
    #[arg(long, short)]
    follow: bool,
}

pub(super) async fn show(
    job: &JobId,
    lines: &Lines,
    client: &Client,
    out: &Out,
) -> Result<(), Error> {
    let query = [
        ("node", lines.node.clone()),
        ("tail", Some(lines.tail.to_string())),
    ];
    let path = with_query(&format!("/v1/jobs/{job}/logs"), &query);
    let mut shown = Shown::default();
    if lines.follow {
        return shown.follow(&path, client, out).await;
    }
    let answer = client.get(&path).await?;
    out.answer(answer, |page: &LogPage, out| {
        page.lines
            .iter()
            .map(|line| shown.text(line, out))
            .collect()
    })
}

/// What was shown already.
#[derive(Default)]
struct Shown(HashMap<Source, u64>);

/// Which stream of which run.
type Source = (String, u32, u64, u32, bool);

impl Shown {
    async fn follow(&mut self, path: &str, client: &Client, out: &Out) -> Result<(), Error> {
        let (mut last, away) = (None, Cell::new(None));
        loop {
            let begun = || away.set(None);
            let followed = client.events(path, &mut last, begun, |value| {
                let line: LogLine = read(value.clone())?;
                // A server that has begun again may send it again.
                let end = self.0.get(&source(&line));
                if end.is_some_and(|end| *end >= line.end) {
                    return Ok(());
                }
                match out.json {
                    true => {
                        self.0.insert(source(&line), line.end);
                        out.line(&value)
                    }
                    false => out.say(&self.text(&line, out)),
                }
            });
            match followed.await {
                Ok(()) => {}
                Err(why) if client.has_answered() && why.passes() => {
                    let since = away.get().unwrap_or_else(|| {
                        eprintln!("{why}; trying again");
                        Instant::now()
                    });
                    away.set(Some(since));
                    if since.elapsed() > AWAY_MAX {
                        return Err(why);
                    }
                }
                Err(why) => return Err(why),
            }
            sleep(AWAY_PAUSE).await;
        }
    }

    /// A line as people read it, and before it what was left out.
    fn text(&mut self, line: &LogLine, out: &Out) -> String {
        let from = out.paint.faint(&format!("{}/{} |", line.node, line.slot));
        let before = self.0.insert(source(line), line.end);
        let gap = before.map_or(0, |end| line.position.saturating_sub(end));
        let left_out = match gap {
            0 => String::new(),
            _ => format!(
                "{from} {}\n",
                out.paint.busy(&format!("({gap} bytes left out)"))
            ),
        };
        let text = match line.stream {
            Stream::Stdout => line.text.clone(),
            Stream::Stderr => out.paint.bad(&line.text),
        };
        format!("{left_out}{}\n", format!("{from} {text}").trim_end())
    }
}

fn source(line: &LogLine) -> Source {
    let is_error = line.stream == Stream::Stderr;
    (
        line.node.clone(),
        line.slot,
        line.generation,
        line.attempt,
        is_error,
    )
}
