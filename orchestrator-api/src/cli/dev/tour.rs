//! What a rollout looks like when it goes well, when it waits for somebody, and when it is taken back.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::DEMO;
use crate::cli::client::Client;
use crate::cli::error::Error;
use crate::cli::show::{Out, read};
use crate::cli::watch::{COMPLETED, FAILED, ROLLED_BACK, watch_to_its_end};
use crate::native::schema::{self, State};

/// How long it looks at a healthy canary before it promotes that.
const LOOK_AT_CANARY: Duration = Duration::from_secs(5);
/// A service that says nothing for so long is shown as one that gives no answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// More than the little service says, and less than whatever else there might be.
const ANSWER_BYTES_MAX: u64 = 4096;

/// What can be tried while a canary waits.
const MEANWHILE: [&str; 2] = [
    "deployment explain demo",
    "deployment pause demo      # and resume, or promote it yourself",
];
/// What can be tried when all was shown, on a new canary.
const AFTERWARDS: [&str; 5] = [
    "deployment watch demo",
    "deployment promote demo    # or pause, resume, fail, cancel",
    "deployment explain demo",
    "job versions demo",
    "job logs demo",
];

/// A tour, and what it is about.
struct Tour<'a> {
    client: &'a Client,
    /// Where the nodes keep what is theirs.
    dir: &'a Path,
    nodes: u32,
    out: &'a Out,
}

/// Shows all of it to its end. The exit code is 0 if each rollout ended as it was to: nobody was quicker, or had other
/// plans for it.
pub(super) async fn show(
    client: &Client,
    dir: &Path,
    nodes: u32,
    once: bool,
    out: &Out,
) -> Result<u8, Error> {
    let tour = Tour {
        client,
        dir,
        nodes,
        out,
    };
    tour.begin().await?;
    let before = tour.newest().await?;
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|number| before + number);
    let ends = [
        tour.goes_well(first).await?,
        tour.waits_for_somebody(second).await?,
        tour.is_taken_back(third).await?,
    ];
    tour.end(first, fourth, once)?;
    let were_to = [COMPLETED, COMPLETED, ROLLED_BACK];
    let other = ends
        .iter()
        .zip(were_to)
        .find(|(end, was_to)| *end != was_to);
    Ok(match other {
        None => 0,
        // What was to fail has not.
        Some((&COMPLETED, _)) => FAILED,
        Some((&code, _)) => code,
    })
}

impl Tour<'_> {
    async fn begin(&self) -> Result<(), Error> {
        let (address, nodes) = (self.client.address(), self.nodes);
        self.out.say(&format!(
            "A server listens on {address}, and {nodes} agents run what it tells them, as processes of this machine.\n\
             In a browser: {address}/docs. To ask it from another terminal, say there first:\n{}",
            self.call()
        ))?;
        self.all_there().await
    }

    async fn goes_well(&self, version: u64) -> Result<u8, Error> {
        self.act(
            &format!("1. Version {version} of a little web service, two nodes at a time."),
            "Each node starts it on a port of its own, asks it how it is twice a second, and reports what it hears.\n\
             The next two begin when these have been healthy for two seconds.",
        )?;
        let rolling = json!({ "strategy": "rolling", "max_parallel": 2 });
        let id = self.register(&job(version, false, &rolling)?).await?;
        let code = watch_to_its_end(id, self.client, self.out).await?;
        self.answers().await?;
        Ok(code)
    }

    async fn waits_for_somebody(&self, version: u64) -> Result<u8, Error> {
        let look = LOOK_AT_CANARY.as_secs();
        self.act(
            &format!("2. Version {version}, one node first: the canary."),
            &format!(
                "The other nodes keep what they have until somebody who looked at the canary promotes it. The tour does \
                 that\nitself {look} s after it is healthy. Until then, in another terminal:"
            ),
        )?;
        MEANWHILE
            .into_iter()
            .try_for_each(|line| self.to_try(line))?;
        let id = self.register(&job(version, false, &canary())?).await?;
        let watched = watch_to_its_end(id.clone(), self.client, self.out);
        let code = while_done(watched, self.promote(&id)).await?;
        self.answers().await?;
        Ok(code)
    }

    async fn is_taken_back(&self, version: u64) -> Result<u8, Error> {
        self.act(
            &format!("3. Version {version}, which answers every check with an error."),
            "Two bad intervals in a row are one too many: its canary fails, no other node ever sees it, and the canary \
             gets\nback what it had. Nobody has to do anything.",
        )?;
        let id = self.register(&job(version, true, &canary())?).await?;
        let code = watch_to_its_end(id, self.client, self.out).await?;
        self.answers().await?;
        Ok(code)
    }

    /// What somebody does who has seen it all.
    fn end(&self, first: u64, next: u64, once: bool) -> Result<(), Error> {
        let file = self.dir.join("next.json");
        let job = job(next, false, &canary())?;
        std::fs::write(&file, format!("{job:#}\n"))?;
        let title = match once {
            true => "Without --once it would go on now, and you could try:",
            false => "What now?",
        };
        let about = "A canary of your own, and nobody promotes it but you. In another terminal:";
        self.act(title, &format!("{about}\n{}", self.call().trim_end()))?;
        self.to_try(&format!("job run --detach {}", quoted(&file)))?;
        AFTERWARDS
            .into_iter()
            .try_for_each(|line| self.to_try(line))?;
        self.to_try(&format!("job rollback demo --to {first}"))
    }

    fn to_try(&self, command: &str) -> Result<(), Error> {
        self.out.say(&format!("  orchestrator {command}\n"))
    }

    /// What makes the commands that are shown work in another terminal.
    fn call(&self) -> String {
        let mut text = String::new();
        let this = std::env::current_exe();
        if let Ok(this) = this
            && !is_in_path(&this)
        {
            text += &format!("  alias orchestrator={}\n", quoted(&this));
        }
        format!(
            "{text}  export ORCHESTRATOR_ADDRESS={}\n",
            self.client.address()
        )
    }

    fn act(&self, title: &str, about: &str) -> Result<(), Error> {
        self.out
            .say(&format!("\n{}\n{about}\n", self.out.paint.bold(title)))
    }

    async fn all_there(&self) -> Result<(), Error> {
        loop {
            let list = self.client.get("/v1/nodes").await?;
            let is_ready = |node: &&Value| node["status"] == "ready";
            let nodes = list["nodes"].as_array();
            let there = nodes.map_or(0, |nodes| nodes.iter().filter(is_ready).count());
            if there >= self.nodes as usize {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The newest version that there is: none at first, and some where a tour was before.
    async fn newest(&self) -> Result<u64, Error> {
        match self.client.get("/v1/jobs/default/demo").await {
            Ok(shown) => Ok(shown["job"]["version"].as_u64().unwrap_or(0)),
            Err(Error::Refused { problem, .. }) if problem.status == 404 => Ok(0),
            Err(why) => Err(why),
        }
    }

    async fn register(&self, job: &Value) -> Result<String, Error> {
        let answer = self.client.post("/v1/jobs", job).await?;
        let id = answer["deployment_id"].as_str().map(str::to_owned);
        id.ok_or_else(|| self.client.broken("it began no deployment"))
    }

    /// Promotes the canary when it is healthy and was looked at, unless somebody else does something about it.
    async fn promote(&self, id: &str) -> Result<(), Error> {
        let mut seen = 0;
        loop {
            let path = format!("/v1/deployments/{id}?revision={seen}&wait=30s");
            let answer: schema::GetDeploymentResponse = read(self.client.get(&path).await?)?;
            let status = answer.deployment.status;
            seen = status.revision;
            if status.completed_at.is_some() {
                return Ok(());
            }
            if status.waiting_on.is_some_and(|gate| gate == "promotion") {
                tokio::time::sleep(LOOK_AT_CANARY).await;
                // Who has paused it in the meantime promotes it, too.
                let answer = self.client.get(&format!("/v1/deployments/{id}")).await?;
                let answer: schema::GetDeploymentResponse = read(answer)?;
                if answer.deployment.status.state == State::Paused {
                    self.out.say(
                        "\nYou have paused it: resume and promote it yourself, or cancel it.\n",
                    )?;
                    return Ok(());
                }
                let promote = format!("/v1/deployments/{id}/promote");
                match self.client.post(&promote, &json!({})).await {
                    // Somebody was quicker, or has other plans.
                    Err(Error::Refused { problem, .. })
                        if problem.status == StatusCode::CONFLICT => {}
                    done => return done.map(drop),
                }
            }
        }
    }

    /// What the services themselves say: nothing that was shown before comes from them.
    async fn answers(&self) -> Result<(), Error> {
        let mut text = "\nWhat the services answer now:\n".to_owned();
        for number in 1..=self.nodes {
            let port = port(&super::of_node(self.dir, number)).await;
            let Some(port) = port else {
                text += &format!("  n{number}  nothing runs there\n");
                continue;
            };
            let said = tokio::time::timeout(ANSWERS_WITHIN, ask(port)).await;
            let said = said.ok().and_then(Result::ok);
            let said = said.as_deref().unwrap_or("no answer");
            text += &format!("  n{number}  http://127.0.0.1:{port}  {said}\n");
        }
        self.out.say(&text)
    }
}

/// Where the service of a node listens, as its agent knows it.
async fn port(node: &Path) -> Option<u64> {
    let status = orchestrator_agent::status(node).await.ok()?;
    let mut runs = status["runs"].as_array()?.iter();
    let running = runs.find(|run| run["phase"] == "running")?;
    running["ports"]["http"].as_u64()
}

/// The last line of what a service answers.
async fn ask(port: u64) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    let mut stream = stream.take(ANSWER_BYTES_MAX);
    stream.read_to_string(&mut text).await?;
    Ok(text.lines().next_back().unwrap_or_default().to_owned())
}

/// Does something else while it is watched.
async fn while_done(
    watched: impl Future<Output = Result<u8, Error>>,
    meanwhile: impl Future<Output = Result<(), Error>>,
) -> Result<u8, Error> {
    let mut watched = pin!(watched);
    tokio::select! {
        ended = &mut watched => return ended,
        done = meanwhile => done?,
    }
    watched.await
}

fn canary() -> Value {
    json!({ "strategy": "canary", "canary_count": 1, "max_parallel": 2 })
}

fn job(version: u64, bad: bool, how: &Value) -> Result<Value, Error> {
    let this = std::env::current_exe()?;
    let mut rollout = how.clone();
    rollout["health_check"] = json!({
        "interval": "1s", "min_healthy_time": "2s", "deadline": "1m", "failure_threshold": 2,
    });
    Ok(json!({
        "job_id": "demo", "driver": "exec",
        "config": { "command": [this, DEMO], "stop_grace": "2s" },
        "env": { "VERSION": version.to_string(), "BAD": if bad { "yes" } else { "" } },
        "ports": [{ "name": "http" }],
        "checks": [{ "type": "http", "path": "/healthz", "interval": "500ms", "start_period": "1s" }],
        "rollout": rollout,
    }))
}

/// Whether `orchestrator` is this program wherever it is typed.
fn is_in_path(this: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("orchestrator"))
        .find_map(|program| program.canonicalize().ok());
    found.is_some_and(|found| this.canonicalize().is_ok_and(|this| this == found))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{AFTERWARDS, MEANWHILE, quoted};
    use crate::cli::Cli;

    #[test]
    fn what_it_says_can_be_typed() {
        for line in MEANWHILE.into_iter().chain(AFTERWARDS) {
            let command = line.split(" #").next().unwrap_or_default();
            let words = ["orchestrator"]
                .into_iter()
                .chain(command.split_whitespace());
            if let Err(why) = Cli::try_parse_from(words) {
                panic!("{line}: {why}");
            }
        }
        assert_eq!(quoted("/a/b-1.json".as_ref()), "/a/b-1.json");
        assert_eq!(quoted("/it's here".as_ref()), r"'/it'\''s here'");
    }
}
