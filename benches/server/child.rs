//! The processes that are measured: this program again, told to be a server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use orchestrator_api::server::{Options, run};

use crate::options::Process;

pub(crate) fn serve(dir: &str) -> ExitCode {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = Options::new(listen, dir, "warn");
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The least that axum can do: the bytes, with their type.
pub(crate) fn bare(file: &str) -> ExitCode {
    let body = bytes::Bytes::from(std::fs::read(file).expect("the bytes to answer with"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let answer = move || {
            let body = body.clone();
            async move { ([(CONTENT_TYPE, "application/json")], body) }
        };
        let router = Router::new().route("/v1/deployments/{id}", get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        println!("http://{}", listener.local_addr().expect("it is bound"));
        axum::serve(listener, router).await.expect("it serves");
    });
    ExitCode::SUCCESS
}

/// A process that listens; it ends with this.
pub(crate) struct Listening {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Listening {
    pub(crate) fn start(what: Process, on: &Path) -> Self {
        let this = std::env::current_exe().expect("this program");
        let child = Command::new(this)
            .arg(what.word())
            .arg(on)
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect("it starts");
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut lines = said.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            rest[..end.unwrap_or(rest.len())].parse().ok()
        });
        let address = address.expect("it says where it listens");
        // Whatever else it says is not to fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Bytes of memory that are resident.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("Linux tells");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
        kib.expect("a number of KiB") * 1024
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
