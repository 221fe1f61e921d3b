//! Whatever a program of the node's operator runs.
//!
#![doc = include_str!("../../docs/external.md")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::exec::ProcessGroup;
use super::{Doing, Driver, Lack, Look, Stop};
use crate::disk;
use crate::net::within;
use crate::runs::{self, Run};
use crate::shim::{BEGUN, ENDED, Ended, Needs, RUN};
use crate::workload::Workload;

/// What a job file may say of what is driven by a program, as Markdown.
pub const FIELDS: &str = include_str!("../../docs/external.md");

/// From here on, a run that is not there has ended.
const STARTED: &str = "started";
/// Between two looks at a run that lives.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// What is left running may hold the program's outputs.
const DRAIN_WITHIN: Duration = Duration::from_millis(250);
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Of standard error, the last so many.
const REASON_BYTES_MAX: usize = 400;
/// A check has a time of its own.
const RUN_WITHIN: Duration = Duration::from_secs(600);

/// Runs programs that run workloads.
#[derive(Debug)]
pub struct External {
    programs: BTreeMap<String, PathBuf>,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    start: Duration,
    look: Duration,
    stop: Duration,
    forget: Duration,
}

const LIMITS: Limits = Limits {
    start: Duration::from_secs(5 * 60),
    look: Duration::from_secs(10),
    stop: Duration::from_secs(30),
    forget: Duration::from_secs(60),
};

/// What is answered to `look`.
#[derive(Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum State {
    Absent {},
    Running {},
    Ended {
        #[serde(default)]
        code: i32,
        #[serde(default)]
        ran_millis: u64,
    },
}

/// What is answered to `run`.
#[derive(Deserialize)]
struct Code {
    code: i64,
}

fn look_for(program: &Path) -> io::Result<()> {
    let needs = Needs {
        directory: None,
        program: Some(program.to_owned()),
        path: Some(runs::search_path()),
    };
    needs.look()
}

/// What of a job no such driver takes, whatever programs it knows.
pub(super) fn check(workload: &Workload) -> Result<(), String> {
    program_name(workload).map(drop)
}

fn program_name(workload: &Workload) -> Result<&String, String> {
    match workload.config.get("program") {
        Some(Value::String(name)) => Ok(name),
        Some(_) => Err("config: program: not a text".to_owned()),
        None => Err("config: program: missing".to_owned()),
    }
}

impl External {
    /// With these programs, by name.
    pub fn new(programs: &BTreeMap<String, PathBuf>) -> Self {
        // Each runs in a directory of its own. A bare name is looked for in `PATH`.
        let absolute = |path: &PathBuf| match path.parent() {
            Some(parent) if parent != Path::new("") => std::path::absolute(path).ok(),
            _ => None,
        };
        let programs = programs.iter().map(|(name, path)| {
            let path = absolute(path).unwrap_or_else(|| path.clone());
            (name.clone(), path)
        });
        Self {
            programs: programs.collect(),
            limits: LIMITS,
        }
    }

    /// Says which of its programs are not there, of whom no job may ever ask.
    pub(crate) fn tell_of_missing(&self) {
        for (name, program) in &self.programs {
            if let Err(why) = look_for(program) {
                tracing::warn!(%why, "--external {name}: no job can have this program until it is there");
            }
        }
    }

    fn program(&self, workload: &Workload) -> Result<&Path, String> {
        let name = program_name(workload)?;
        let known = self.programs.get(name).map(PathBuf::as_path);
        known.ok_or_else(|| {
            format!(
                "config: program: this agent has no {name:?}: it has to be told with --external {name}=PROGRAM"
            )
        })
    }

    /// Runs the program; what it answered.
    async fn ask(
        &self,
        run: &Run,
        verb: &str,
        more: Value,
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        let program = self.program(&run.workload).map_err(io::Error::other)?;
        let failed = |why: io::Error| {
            io::Error::new(why.kind(), format!("{} {verb}: {why}", program.display()))
        };
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new(program)
            .arg(verb)
            .env_clear()
            .env("PATH", path)
            .env(RUN, &run.dir)
            .current_dir(&run.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut group = ProcessGroup(child);
        let mut text = document(run, more).to_string();
        text.push('\n');
        match within(limit, converse(&mut group.0, text.as_bytes())).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "it has not ended within {}",
                    humantime::format_duration(limit)
                ),
            ))),
        }
    }

    async fn begin(&self, run: &Run) -> io::Result<()> {
        disk::directory(&run.dir.join("state"))?;
        disk::note(&run.dir.join(BEGUN), b"")?;
        self.ask(run, "start", json!({}), self.limits.start).await?;
        disk::note(&run.dir.join(STARTED), b"")
    }

    async fn state(&self, run: &Run) -> io::Result<Look> {
        let noted = run.dir.join(ENDED);
        if let Some(ended) = disk::read_or_put_aside::<Ended>(&noted)? {
            return Ok(ended.into());
        }
        if !run.dir.join(BEGUN).exists() {
            return Ok(Look::Absent);
        }
        let answer = self.ask(run, "look", json!({}), self.limits.look).await?;
        let ended = match read(&answer, "look")? {
            State::Absent {} if !run.dir.join(STARTED).exists() => return Ok(Look::Absent),
            State::Absent {} => Ended::unseen(&run.dir),
            State::Running {} => return Ok(Look::Running),
            State::Ended { code, ran_millis } => {
                Ended::with(code, Duration::from_millis(ran_millis))
            }
        };
        Ok(super::note_end(&run.dir, ended))
    }

    async fn remove(&self, run: &Run) -> io::Result<()> {
        if run.dir.join(BEGUN).exists() {
            if self.state(run).await? == Look::Running {
                return Err(io::Error::other("it lives"));
            }
            self.ask(run, "forget", json!({}), self.limits.forget)
                .await?;
        }
        super::remove(&run.dir).await
    }
}

impl Driver for External {
    fn check(&self, workload: &Workload) -> Result<(), String> {
        self.program(workload).map(drop)
    }

    fn start<'a>(&'a self, run: &'a Run) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            let Err(why) = self.begin(run).await else {
                return Ok(());
            };
            // A program that cannot be run has begun nothing.
            let never = matches!(
                why.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            );
            let why = why.to_string();
            let state = match never {
                true => Ok(Look::Absent),
                false => self.state(run).await,
            };
            match state {
                // It lives after all.
                Ok(Look::Beginning | Look::Running) => Ok(()),
                Ok(Look::Absent | Look::Ended { .. }) => {
                    super::note_end(&run.dir, Ended::cannot_start(why.clone()));
                    Err(why)
                }
                // Nobody knows, and it is asked until somebody does.
                Err(_) => Err(why),
            }
        })
    }

    fn provide<'a>(&'a self, workload: &'a Workload) -> Option<Doing<'a, Result<(), Lack>>> {
        Some(Box::pin(async move {
            let program = self.program(workload).map_err(Lack::Missing)?.to_owned();
            let looked = tokio::task::spawn_blocking(move || look_for(&program)).await;
            let looked = looked.map_err(io::Error::other).flatten();
            looked.map_err(|why| Lack::Missing(format!("config: program: {why}")))
        }))
    }

    fn look<'a>(&'a self, run: &'a Run) -> Doing<'a, io::Result<Look>> {
        Box::pin(self.state(run))
    }

    fn stop<'a>(&'a self, run: &'a Run, how: Stop) -> Doing<'a, io::Result<()>> {
        let how = match how {
            Stop::Gracefully => "gracefully",
            Stop::Now => "now",
        };
        Box::pin(async move {
            let asked = self.ask(run, "stop", json!({ "how": how }), self.limits.stop);
            asked.await.map(drop)
        })
    }

    fn ended<'a>(&'a self, run: &'a Run) -> Doing<'a, ()> {
        Box::pin(async move {
            loop {
                sleep(LOOK_AGAIN_AFTER).await;
                match self.state(run).await {
                    Ok(Look::Beginning | Look::Running) => {}
                    Ok(Look::Absent | Look::Ended { .. }) => return,
                    Err(why) => tracing::warn!(run = %run.id, %why, "a run cannot be looked at"),
                }
            }
        })
    }

    fn run<'a>(&'a self, run: &'a Run, command: &'a [String]) -> Doing<'a, io::Result<i64>> {
        Box::pin(async move {
            let more = json!({ "command": command });
            let answer = self.ask(run, "run", more, RUN_WITHIN).await?;
            read::<Code>(&answer, "run").map(|answer| answer.code)
        })
    }

    fn forget<'a>(&'a self, run: &'a Run) -> Doing<'a, io::Result<()>> {
        Box::pin(self.remove(run))
    }
}

/// All that the program is told of a run.
fn document(run: &Run, more: Value) -> Value {
    let (id, workload) = (&run.id, &run.workload);
    let mut config = workload.config.clone();
    config.remove("program");
    let mut volumes = workload.volumes.clone();
    for volume in &mut volumes {
        volume.source = run.expand(&volume.source);
    }
    let grace = u64::try_from(workload.stop_grace.as_millis()).unwrap_or(u64::MAX);
    let mut document = json!({
        "run": run.name,
        "state": run.dir.join("state"),
        "directory": run.dir.join("work"),
        "output": run.dir.join("stdout.log"),
        "node": &*run.node,
        "namespace": id.key.job.namespace(),
        "job": id.key.job.name(),
        "version": run.version,
        "slot": id.key.slot,
        "generation": id.generation,
        "attempt": id.attempt,
        "config": expand(run, Value::Object(config)),
        "env": run.environment(),
        "ports": run.ports,
        "volumes": volumes,
        "resources": workload.resources,
        "artifact": run.artifact,
        "stop_grace_millis": grace,
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        document[name] = value.clone();
    }
    document
}

fn expand(run: &Run, value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(run.expand(&text)),
        Value::Array(all) => all.into_iter().map(|value| expand(run, value)).collect(),
        Value::Object(all) => {
            let all = all.into_iter();
            let all: Map<_, _> = all.map(|(key, value)| (key, expand(run, value))).collect();
            Value::Object(all)
        }
        other => other,
    }
}

fn read<'a, T: Deserialize<'a>>(answer: &'a [u8], verb: &str) -> io::Result<T> {
    serde_json::from_slice(answer).map_err(|why| {
        let said = String::from_utf8_lossy(&answer[..answer.len().min(100)]);
        io::Error::other(format!("{verb}: it answered {said:?}: {why}"))
    })
}

/// Says the document to the program, and hears it to its end.
async fn converse(child: &mut Child, document: &[u8]) -> io::Result<Vec<u8>> {
    let mut input = child.stdin.take().expect("it is a pipe");
    let output = child.stdout.take().expect("it is a pipe");
    let error = child.stderr.take().expect("it is a pipe");
    let (mut answer, mut reason) = (Vec::new(), Vec::new());
    let status = {
        let say = async {
            // Who knows what to do need not listen.
            let _ = input.write_all(document).await;
            drop(input);
            Ok(())
        };
        let hear =
            async { tokio::try_join!(say, all(output, &mut answer), end(error, &mut reason)) };
        let mut hear = std::pin::pin!(hear);
        tokio::select! {
            heard = &mut hear => {
                heard?;
                child.wait().await?
            }
            status = child.wait() => {
                if let Ok(heard) = within(DRAIN_WITHIN, hear).await {
                    heard?;
                }
                status?
            }
        }
    };
    if status.success() {
        return Ok(answer);
    }
    let reason = String::from_utf8_lossy(&reason);
    Err(io::Error::other(format!("{status}: {}", reason.trim())))
}

async fn all(output: impl AsyncRead + Unpin, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut output = output.take(ANSWER_BYTES_MAX as u64 + 1);
    output.read_to_end(answer).await?;
    match answer.len() > ANSWER_BYTES_MAX {
        true => Err(io::Error::other(format!(
            "it answered more than {ANSWER_BYTES_MAX} bytes"
        ))),
        false => Ok(()),
    }
}

/// The last bytes.
async fn end(mut error: impl AsyncRead + Unpin, reason: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        let read = error.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        reason.extend_from_slice(&bytes[..read]);
        let over = reason.len().saturating_sub(REASON_BYTES_MAX);
        reason.drain(..over);
    }
}

#[cfg(test)]
mod tests;
