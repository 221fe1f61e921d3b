//! The program's face.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::net::AddressError;
use crate::{Agent, AgentError, Leave, Settings, Token, disk, shim, status, systemd};

/// What can be said to it.
pub const USAGE: &str = "\
Runs on a node what the server wants there, and tells how it goes.

Usage: orchestrator-agent --server URL --node NAME [options]
       orchestrator-agent status [--data-dir DIR]

Options:
  --server URL       https://…, or http://… on this machine
  --node NAME        the name of this node; its host name if nothing is said
  --data-dir DIR     what is kept, and where workloads run (/var/lib/orchestrator-agent)
  --ca-cert FILE     trust these authorities, and not the system's
  --token-file FILE  a join token, or the node's own; or ORCHESTRATOR_TOKEN
  --label KEY=VALUE  for selectors; may be said often
  --docker SOCKET    where a Docker Engine listens (/var/run/docker.sock)
  --docker-config FILE
                     what `docker login` has written (config.json): with it, images come from registries with a password
  --external NAME=PROGRAM
                     a program that runs workloads of the driver `external`; may be said often
  --artifact-mib N   take no artifact that is larger (1024); unpacked it may be four times as large
  --artifacts N      keep so many artifacts that nothing needs just now (16)
  --artifacts-mib N  and no more than so much of them (8192)
  --drain            when told to end, tell the server that this node leaves, and stop the workloads first
  --accept-older     take the server's state though it is older than before: it was restored
  --version          which version this is

SIGTERM and SIGINT end the agent. Workloads go on without it, and the next one finds them. With --drain it ends when they
have; a second signal ends it at once.

Examples:
  orchestrator-agent --server http://127.0.0.1:4650 --node n1 --data-dir node-data
  orchestrator-agent --server https://orchestrator.example:4650 --ca-cert cert.pem --node n17 --token-file n17.token
  orchestrator-agent status --data-dir node-data
";

/// The exit code of a command line that cannot be read.
const MISUSED: u8 = 64;

/// All of the program, with the process's arguments.
pub fn main() -> ExitCode {
    run("orchestrator-agent", std::env::args_os().skip(1))
}

/// All of the program, as a part of another one: what that calls it, and what it is told.
pub fn run(program: &str, args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut args = args.peekable();
    let command = args.next_if(|arg| arg == "shim" || arg == "status");
    if command.as_ref().is_some_and(|command| command == "shim") {
        return shim::main(args);
    }
    match args.peek().and_then(|arg| arg.to_str()) {
        Some("--version" | "-V") => {
            println!("{program} {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("help") => {
            print!("{}", usage(program));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let read = read(args).and_then(|read| match read {
        Some((settings, ..)) if command.is_none() && settings.server.is_empty() => {
            Err("--server is missing: say where the server is, such as --server https://orchestrator.example:4650".to_owned())
        }
        read => Ok(read),
    });
    let (mut settings, leave, token_file) = match read {
        Ok(Some(read)) => read,
        Ok(None) => {
            print!("{}", usage(program));
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("error: {why}; see `{program} --help`");
            return ExitCode::from(MISUSED);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| {
        let outcome = match (command, token_file) {
            (Some(_), _) => runtime.block_on(show(&settings.data_dir)),
            (None, token_file) => {
                if let Some(path) = token_file {
                    settings.token = read_token(&path, settings.has_joined())?;
                }
                runtime.block_on(work(settings, leave))
            }
        };
        // What is still searched or unpacked is of no use to anybody now.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let mut text = why.to_string();
            let mut source = why.source();
            while let Some(why) = source {
                text += &format!(": {why}");
                source = why.source();
            }
            eprintln!("error: {text}");
            match why.downcast_ref() {
                Some(
                    AgentError::Name(_)
                    | AgentError::Address(AddressError::Shape(_) | AddressError::Open(_)),
                ) => ExitCode::from(MISUSED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The same, for a program that calls it so.
pub fn usage(program: &str) -> String {
    USAGE
        .replace("orchestrator-agent -", &format!("{program} -"))
        .replace("orchestrator-agent status", &format!("{program} status"))
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

async fn work(settings: Settings, leave: Leave) -> Outcome {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let mut ends = Ends::hear()?;
    let mut again = Ends::hear()?;
    let agent = Agent::open(settings).await?;
    let stop = async {
        systemd::tell("READY=1");
        ends.told().await;
        systemd::tell("STOPPING=1");
        leave
    };
    let impatient = async {
        again.told().await;
        again.told().await;
    };
    tokio::select! {
        ended = agent.run(stop) => Ok(ended?),
        () = impatient => Err("told to end once more: what runs has not been stopped, and goes on".into()),
        never = systemd::live() => match never {},
    }
}

/// The signals that end it.
struct Ends {
    term: Signal,
    int: Signal,
}

impl Ends {
    fn hear() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

async fn show(data_dir: &Path) -> Outcome {
    let status = status::ask(data_dir).await.map_err(|why| {
        let dir = data_dir.display();
        match why.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!(
                    "no agent works in {dir}: begin one there, or say where it is with --data-dir"
                )
            }
            _ => format!("the agent in {dir} gives no answer: {why}"),
        }
    })?;
    match writeln!(std::io::stdout(), "{status:#}") {
        // Who reads has seen enough.
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn number(option: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{option}: {text:?} is no number"))
}

fn mebibytes(option: &str, text: &str) -> Result<u64, String> {
    Ok(number(option, text)?.saturating_mul(1 << 20))
}

/// Who has emptied the file, once its token was used, gives none.
fn given(token: &str) -> Option<Token> {
    let token = token.trim();
    (!token.is_empty()).then(|| token.into())
}

fn read_token(path: &Path, has_joined: bool) -> Result<Option<Token>, String> {
    match std::fs::read_to_string(path) {
        Ok(token) => Ok(given(&token)),
        // Nor does who has taken it away.
        Err(why) if why.kind() == io::ErrorKind::NotFound && has_joined => Ok(None),
        Err(why) => {
            let (path, why) = (path.display(), disk::unread(&why));
            Err(format!("{path} cannot be read: {why}"))
        }
    }
}

/// What is to be done, how to leave, and where a token is.
type Told = (Settings, Leave, Option<PathBuf>);

/// `None` where help is asked for.
fn read(mut args: impl Iterator<Item = OsString>) -> Result<Option<Told>, String> {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let mut settings = Settings::new("", &host, "/var/lib/orchestrator-agent");
    let mut leave = Leave::Running;
    let mut token_file = None;
    let token = std::env::var("ORCHESTRATOR_TOKEN").ok();
    settings.token = token.as_deref().and_then(given);
    while let Some(arg) = args.next() {
        let arg = arg
            .into_string()
            .map_err(|arg| format!("{} is no option", arg.display()))?;
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let text = |value: OsString| value.into_string().map_err(|_| format!("{arg}: not UTF-8"));
        match arg.as_str() {
            "--server" => settings.server = text(value()?)?,
            "--node" => settings.node = text(value()?)?,
            "--data-dir" => settings.data_dir = value()?.into(),
            "--ca-cert" => settings.authorities = Some(value()?.into()),
            "--token-file" => token_file = Some(PathBuf::from(value()?)),
            "--label" => {
                let label = text(value()?)?;
                let (key, value) = label.split_once('=').ok_or("--label: not KEY=VALUE")?;
                settings.labels.insert(key.to_owned(), value.to_owned());
            }
            "--docker" => settings.docker = value()?.into(),
            "--docker-config" => settings.docker_config = Some(value()?.into()),
            "--external" => {
                let external = text(value()?)?;
                let parts = external.split_once('=');
                let (name, program) = parts.ok_or("--external: not NAME=PROGRAM")?;
                settings.externals.insert(name.to_owned(), program.into());
            }
            "--artifact-mib" => {
                let bytes = mebibytes(&arg, &text(value()?)?)?;
                settings.artifacts.bytes_max = bytes;
                settings.artifacts.unpacked_bytes_max = bytes.saturating_mul(4);
            }
            "--artifacts" => {
                settings.artifacts.kept_max = number(&arg, &text(value()?)?)? as usize;
            }
            "--artifacts-mib" => {
                settings.artifacts.kept_bytes_max = mebibytes(&arg, &text(value()?)?)?;
            }
            "--drain" => leave = Leave::Drained,
            "--accept-older" => settings.accept_older = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("{other} is no option")),
        }
    }
    Ok(Some((settings, leave, token_file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_joined_needs_no_token_file() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        let given = || {
            let told = [
                "--server".into(),
                "http://127.0.0.1:4650".into(),
                "--token-file".into(),
                token.clone().into_os_string(),
                "--data-dir".into(),
                dir.path().into(),
            ];
            let (settings, _, path) = read(told.into_iter())?.unwrap();
            let token = read_token(&path.unwrap(), settings.has_joined())?;
            Ok::<_, String>(token.map(|token| token.0))
        };
        let why = given().unwrap_err();
        assert!(why.contains("cannot be read: it is not there"), "{why}");
        std::fs::write(dir.path().join(crate::settings::IDENTITY), "{}").unwrap();
        assert_eq!(given(), Ok(None));
        std::fs::write(&token, "secret\n").unwrap();
        assert_eq!(given(), Ok(Some("secret".to_owned())));
        std::fs::write(&token, "").unwrap();
        assert_eq!(given(), Ok(None));
        std::fs::remove_file(&token).unwrap();
        std::fs::create_dir(&token).unwrap();
        assert!(given().is_err());
    }
}
