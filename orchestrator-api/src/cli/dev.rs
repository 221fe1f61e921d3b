//! A whole orchestrator on this machine: the server, its embedded store, agents that run real processes, and a tour
//! of what it does with them.

mod tour;

use std::future::pending;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use orchestrator_agent::{Agent, Leave, Settings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;

use super::client::Client;
use super::error::Error;
use super::show::Out;
use super::watch::INTERRUPTED;
use crate::server::options::address;
use crate::server::{Error as ServerError, Options as ServerOptions, Server, Signals, Told};

/// The exit code where the terminal was closed.
const HUNG_UP: u8 = 129;
/// And of one that somebody has made quit.
const QUIT: u8 = 131;

/// What to begin, and where.
#[derive(clap::Args)]
pub(super) struct Options {
    /// How many nodes, each with an agent of its own
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=50))]
    nodes: u32,
    /// Where the server listens, on this machine
    #[arg(
        long,
        default_value = "127.0.0.1:4650",
        value_name = "ADDRESS",
        value_parser = address
    )]
    listen: SocketAddr,
    /// Keep everything here; a new directory that goes when this ends, if nothing is said
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// End when the tour is over, with 0 if all of it went as it was told
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
    // From here on a signal ends all of it in order, at whatever moment it comes; so does a terminal that is closed, or
    // that quits.
    let mut signals = Signals::new()?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let dir = Dir::new(data_dir)?;
    let at = dir.path().join("server");
    let server = Server::start(&ServerOptions::new(listen, at, "off")).await?;
    let address = format!("http://{}", server.address());
    let (leave, left) = channel::channel(false);
    let mut agents = JoinSet::new();
    for number in 1..=nodes {
        let name = format!("n{number}");
        let settings = Settings::new(&address, &name, of_node(dir.path(), number));
        let agent = Agent::open(settings)
            .await
            .map_err(|why| Error::Offline(crate::engine::chain(&why)))?;
        agents.spawn(agent.run(told_to_leave(left.clone())));
    }
    let client = Client::new(&address, None, None)?;
    let shown = async {
        let code = tour::show(&client, dir.path(), nodes, once, out).await?;
        if !once {
            out.say("\nCtrl-C ends all of it.\n")?;
            pending::<()>().await;
        }
        Ok(code)
    };
    let ended = tokio::select! {
        told = signals.next() => Ok(match told {
            Told::Terminate => 0,
            Told::Interrupt => INTERRUPTED,
        }),
        Some(()) = hang_up.recv() => Ok(HUNG_UP),
        Some(()) = quit.recv() => Ok(QUIT),
        shown = shown => shown,
    };
    tell("\nStopping what runs, the agents and the server.");
    leave.send_replace(true);
    let stopped = async {
        while let Some(agent) = agents.join_next().await {
            match agent {
                Ok(Ok(())) => {}
                Ok(Err(why)) => tell(&format!("an agent: {}", crate::engine::chain(&why))),
                Err(why) => tell(&format!("an agent: {why}")),
            }
        }
        server.stop().await;
    };
    tokio::select! {
        () = stopped => ended,
        () = signals.again() => {
            tell("Some of it may still run.");
            Err(ServerError::AtOnce.into())
        }
    }
}

/// Says it to whoever is still there.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What a node keeps.
fn of_node(dir: &Path, number: u32) -> PathBuf {
    dir.join("nodes").join(format!("n{number}"))
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
        // Whoever is told of it may stand elsewhere.
        let path = std::path::absolute(named.unwrap_or_else(own))?;
        std::fs::create_dir_all(&path).map_err(|why| {
            let path = path.display();
            let what =
                format!("{path} cannot be made: {why}; name a directory that can be by --data-dir");
            Error::Offline(what)
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
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    println!("{} listens on {}", text.trim_end(), listener.local_addr()?);
    let router = Router::new()
        .route("/", get(move || async move { text.clone() }))
        .route("/healthz", get(move || async move { health }));
    axum::serve(listener, router).await?;
    Ok(())
}
