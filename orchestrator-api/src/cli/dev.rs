//! A whole orchestrator on this machine: the server, its embedded store, agents that run real processes, and a tour
//! of what it does with them.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use orchestrator_agent::{Agent, Leave, Settings};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio::task::JoinSet;

use super::client::Client;
use super::deployments::explain_text;
use super::error::Error;
use super::show::{Out, read};
use super::watch::{INTERRUPTED, watch_to_its_end};
use crate::native::schema;
use crate::server::{Error as ServerError, Options as ServerOptions, Server, Signals, Told};

/// How long the tour looks at a healthy canary before it is promoted.
const LOOK_AT_CANARY: Duration = Duration::from_secs(3);

/// What to begin, and where.
#[derive(clap::Args)]
pub(super) struct Options {
    /// How many nodes, each with an agent of its own
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=50))]
    nodes: u32,
    /// Where the server listens, on this machine
    #[arg(long, default_value = "127.0.0.1:4650", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Keep everything here; a new directory that goes when this ends, if nothing is said
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// End when the tour is over
    #[arg(long)]
    once: bool,
}

/// Runs all of it until it is interrupted, or the tour is over and that was all.
pub(super) async fn run(options: Options, out: &Out) -> Result<u8, Error> {
    let Options {
        nodes,
        listen,
        data_dir,
        once,
    } = options;
    if !listen.ip().is_loopback() {
        let why = format!(
            "--listen {listen}: everybody is an admin of it, so it listens on 127.0.0.1 only"
        );
        return Err(Error::Usage(why));
    }
    // From here on a signal ends all of it in order, at whatever moment it comes.
    let mut signals = Signals::new()?;
    let dir = Dir::new(data_dir)?;
    let at = dir.path().join("server");
    let server = Server::start(&ServerOptions::new(listen, at, "off")).await?;
    let address = format!("http://{}", server.address());
    let (leave, left) = channel::channel(false);
    let mut agents = JoinSet::new();
    for number in 1..=nodes {
        let name = format!("n{number}");
        let settings = Settings::new(&address, &name, dir.path().join("nodes").join(&name));
        let agent = Agent::open(settings)
            .await
            .map_err(|why| Error::Offline(crate::engine::chain(&why)))?;
        agents.spawn(agent.run(told_to_leave(left.clone())));
    }
    let client = Client::new(&address, None, None)?;
    let ended = tokio::select! {
        told = signals.next() => Ok(match told {
            Told::Terminate => 0,
            Told::Interrupt => INTERRUPTED,
        }),
        toured = tour(&client, nodes, once, out) => toured.map(|()| 0),
    };
    eprintln!("\nStopping what runs, the agents and the server.");
    leave.send_replace(true);
    let stopped = async {
        while let Some(agent) = agents.join_next().await {
            match agent {
                Ok(Ok(())) => {}
                Ok(Err(why)) => eprintln!("an agent: {}", crate::engine::chain(&why)),
                Err(why) => eprintln!("an agent: {why}"),
            }
        }
        server.stop().await;
    };
    tokio::select! {
        () = stopped => ended,
        () = signals.again() => {
            eprintln!("Some of it may still run.");
            Err(ServerError::AtOnce.into())
        }
    }
}

async fn told_to_leave(mut left: channel::Receiver<bool>) -> Leave {
    // An error means that nobody is left who could say it.
    let _ = left.wait_for(|left| *left).await;
    Leave::Drained
}

/// Where all of it is kept.
struct Dir {
    path: PathBuf,
    goes: bool,
}

impl Dir {
    fn new(named: Option<PathBuf>) -> Result<Self, Error> {
        let goes = named.is_none();
        let own = || std::env::temp_dir().join(format!("orchestrator-dev-{}", std::process::id()));
        let path = named.unwrap_or_else(own);
        std::fs::create_dir_all(&path).map_err(|why| Error::Unreadable {
            path: path.clone(),
            why: why.to_string(),
        })?;
        Ok(Self { path, goes })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.goes {
            // What cannot be taken away is in a directory for such things.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

async fn tour(client: &Client, nodes: u32, once: bool, out: &Out) -> Result<(), Error> {
    let address = client.address().to_owned();
    let say = |text: &str| out.say(&format!("\n{}\n", out.paint.bold(text)));
    out.say(&format!(
        "A server listens on {address}, and {nodes} agents run what it tells them, as processes of this machine.\n\
         Ask it from another terminal, or in a browser: {address}/docs\n"
    ))?;
    all_there(client, nodes).await?;

    say("1. Version 1 of a little web service, two nodes at a time.")?;
    let id = register(
        client,
        1,
        false,
        &json!({ "strategy": "rolling", "max_parallel": 2 }),
    )
    .await?;
    watch_to_its_end(id, client, out).await?;

    say(
        "2. Version 2, one node first: the canary. While it is healthy the others wait for a promotion.",
    )?;
    out.say("   A person says `orchestrator deployment promote demo`. This tour does that itself, after a look.\n")?;
    let canary = json!({ "strategy": "canary", "canary_count": 1, "max_parallel": 2 });
    let id = register(client, 2, false, &canary).await?;
    let watched = watch_to_its_end(id.clone(), client, out);
    while_done(watched, promote(client, &id)).await?;

    say(
        "3. Version 3, which answers every check with an error. It gets no further than its canary.",
    )?;
    let id = register(client, 3, true, &canary).await?;
    watch_to_its_end(id.clone(), client, out).await?;
    say("Why:")?;
    let answer = client.get(&format!("/v1/deployments/{id}/explain")).await?;
    out.say(&explain_text(&read(answer)?, out))?;

    let to = match address.as_str() {
        "http://127.0.0.1:4650" => String::new(),
        _ => format!(" --address {address}"),
    };
    say("What now? In another terminal:")?;
    out.say(&format!(
        "  orchestrator{to} node list\n  \
           orchestrator{to} job versions demo\n  \
           orchestrator{to} deployment list\n  \
           orchestrator{to} deployment targets demo\n  \
           orchestrator{to} job restart demo          # and meanwhile: deployment pause demo, resume, cancel\n  \
           orchestrator{to} job rollback demo --to 1\n"
    ))?;
    if !once {
        out.say("\nCtrl-C ends all of it.\n")?;
        pending::<()>().await;
    }
    Ok(())
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

async fn all_there(client: &Client, nodes: u32) -> Result<(), Error> {
    loop {
        let list = client.get("/v1/nodes").await?;
        let there = list["nodes"].as_array().map_or(0, |nodes| {
            nodes
                .iter()
                .filter(|node| node["status"] == "ready")
                .count()
        });
        if there >= nodes as usize {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Promotes the canary when it is healthy, and was looked at.
async fn promote(client: &Client, id: &str) -> Result<(), Error> {
    let mut seen = 0;
    loop {
        let path = format!("/v1/deployments/{id}?revision={seen}&wait=30s");
        let answer: schema::GetDeploymentResponse = read(client.get(&path).await?)?;
        let status = answer.deployment.status;
        seen = status.revision;
        if status.waiting_on.is_some_and(|gate| gate == "promotion") {
            tokio::time::sleep(LOOK_AT_CANARY).await;
            let promote = format!("/v1/deployments/{id}/promote");
            return client.post(&promote, &json!({})).await.map(drop);
        }
        if status.completed_at.is_some() {
            return Ok(());
        }
    }
}

async fn register(client: &Client, version: u32, bad: bool, how: &Value) -> Result<String, Error> {
    let this = std::env::current_exe()?;
    let mut rollout = how.clone();
    rollout["health_check"] = json!({
        "interval": "1s", "min_healthy_time": "2s", "deadline": "1m", "failure_threshold": 2,
    });
    let job = json!({
        "job_id": "demo", "driver": "exec",
        "config": { "command": [this, DEMO], "stop_grace": "2s" },
        "env": { "VERSION": version.to_string(), "BAD": if bad { "yes" } else { "" } },
        "ports": [{ "name": "http" }],
        "checks": [{ "type": "http", "path": "/healthz", "interval": "500ms", "start_period": "1s" }],
        "rollout": rollout,
    });
    let answer = client.post("/v1/jobs", &job).await?;
    let id = answer["deployment_id"].as_str();
    id.map(str::to_owned).ok_or_else(|| {
        Error::Offline("the demo job was there already, and is as it should be".to_owned())
    })
}

/// The word that this program runs the little web service by.
pub(super) const DEMO: &str = "demo-service";

/// The little web service: it says which version it is, and whether it is well.
pub(super) async fn demo() -> Result<(), Error> {
    let told = |name: &str| std::env::var(name).unwrap_or_default();
    let port: u16 = told("PORT").parse().unwrap_or(0);
    let text = format!(
        "version {} on {}\n",
        told("VERSION"),
        told("ORCHESTRATOR_NODE")
    );
    let health = match told("BAD").as_str() {
        "" => StatusCode::OK,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let router = Router::new()
        .route("/", get(move || async move { text.clone() }))
        .route("/healthz", get(move || async move { health }));
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    axum::serve(listener, router).await?;
    Ok(())
}
