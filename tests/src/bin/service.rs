//! A little HTTP service that is deployed by the tests.
//!
//! `GET /` says who it is and, where it is no container, which run, `/health` that it is well, `/metrics` how many requests there were and how many failed. Its
//! environment says how it is broken: `ERRORS=n` answers every nth request with 500, `SICK=1` is never well, `CRASH=1`
//! ends at once, `HOG=1` takes memory without end. `ACCESS=1` writes a
//! line for each request to standard output. `BIND` is the address that it listens on, if not only this machine may ask. As a check it is told
//! `inside`, which it is where it is a container's `/service`, or `hang`. On standard output it says when it began.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // As a check.
    match env::args().nth(1).as_deref() {
        Some("inside") => return ExitCode::from(u8::from(!Path::new("/service").exists())),
        Some("hang") => loop {
            std::thread::park();
        },
        _ => {}
    }
    let said = |name: &str| env::var(name).unwrap_or_default();
    let number = |name: &str| said(name).parse::<u64>().unwrap_or(0);
    let (version, slot, node, run) = (
        said("ORCHESTRATOR_VERSION"),
        said("ORCHESTRATOR_SLOT"),
        said("ORCHESTRATOR_NODE"),
        said("ORCHESTRATOR_RUN"),
    );
    if number("CRASH") > 0 {
        eprintln!("broken from the start");
        return ExitCode::from(3);
    }
    let mut memory = Vec::new();
    while number("HOG") > 0 {
        memory.push(vec![1_u8; 1 << 20]);
    }
    let address = env::var("BIND").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let Ok(listener) = TcpListener::bind((address, number("PORT") as u16)) else {
        eprintln!("the port is taken");
        return ExitCode::from(4);
    };
    // Who starts twice writes twice.
    if let Ok(mut journal) = env::var("JOURNAL").map_err(drop).and_then(|path| {
        let mut file = std::fs::OpenOptions::new();
        file.create(true).append(true).open(path).map_err(drop)
    }) {
        // In one piece: others write there too.
        let line = format!("{node} {slot} {version} {}\n", std::process::id());
        let _ = journal.write_all(line.as_bytes());
    }
    println!("version {version} began");
    let (errors, sick) = (number("ERRORS"), number("SICK") > 0);
    let logs = number("ACCESS") > 0;
    let (mut requests, mut failed) = (0_u64, 0_u64);
    for stream in listener.incoming().flatten() {
        let Some(path) = asked(&stream) else {
            continue;
        };
        let (status, body) = match path.as_str() {
            "/health" if sick => (503, String::new()),
            "/health" => (200, "well".to_owned()),
            "/metrics" => (
                200,
                format!("requests_total {requests}\nfailed_total {failed}\n"),
            ),
            _ => {
                requests += 1;
                let pid = std::process::id();
                let body = format!("{node} {slot} {version} {pid} {run}");
                match errors > 0 && requests.is_multiple_of(errors) {
                    true => {
                        failed += 1;
                        (500, body)
                    }
                    false => (200, body),
                }
            }
        };
        if logs {
            println!(
                "127.0.0.1 - - \"GET {path} HTTP/1.1\" {status} {}",
                body.len()
            );
        }
        answer(stream, status, &body);
    }
    ExitCode::SUCCESS
}

fn asked(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    for line in lines {
        if line.ok()?.is_empty() {
            break;
        }
    }
    first.split(' ').nth(1).map(str::to_owned)
}

fn answer(mut stream: TcpStream, status: u16, body: &str) {
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
}
