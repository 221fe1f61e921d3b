//! The command line: what is typed, what is shown, and how it ends.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | done; of what was watched: completed |
//! | 1 | an error: no server, a refusal, a file that is wrong |
//! | 2 | the deployment or group failed, and was not taken back, or not all of it |
//! | 3 | the deployment or group failed, and was taken back |
//! | 4 | the deployment or group was canceled |
//! | 5 | it was still under way after `--timeout` |
//! | 64 | the command line itself is wrong |
//! | 130 | it was interrupted; what was watched goes on |
//! | 141 | nobody reads the output any more; what was watched goes on |
//!
//! With `--output json` an error is a problem document on the standard error: the server's as it was sent, and one of
//! the same form, without a status, for what goes wrong here.
//!
//! 2 is the number that clap and many others give to a wrong command line: a script that runs a deployment must not
//! take one for the other.

mod client;
mod deployments;
mod dev;
mod error;
mod fields;
mod file;
mod groups;
mod jobs;
mod live;
mod logs;
mod nodes;
mod pages;
mod show;
mod simulate;
mod tokens;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::Styles;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{
    ArgMatches, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};

use self::client::Client;
use self::error::{Error, NOBODY_READS, USAGE, usage_to_json};
use self::show::Out;
use crate::server;

const EXIT_CODES: &str = "\
Exit codes:
  0    done; of what was watched: completed
  1    an error: no server, a refusal, a file that is wrong
  2    the deployment or group failed, and was not taken back, or not all of it
  3    the deployment or group failed, and was taken back
  4    the deployment or group was canceled
  5    it was still under way after --timeout
  64   the command line itself is wrong
  130  it was interrupted; what was watched goes on
  141  nobody reads the output any more; what was watched goes on

Examples:
  orchestrator job run web.toml
  orchestrator deployment watch web
  orchestrator node list --output json";

/// Rolls new versions out over a fleet of nodes, wave by wave, and takes back what does no good
#[derive(Parser)]
#[command(
    name = "orchestrator",
    version,
    after_help = EXIT_CODES,
    arg_required_else_help = true,
    styles = Styles::styled(),
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Which server, and how its answers are shown.
#[derive(clap::Args)]
#[command(next_help_heading = "Server and output")]
struct Global {
    /// Where the server is
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_ADDRESS",
        default_value = "http://127.0.0.1:4650",
        value_name = "URL",
        hide_env_values = true
    )]
    address: String,
    /// Who asks; in a list of processes it can be seen, so rather use one of the other two ways
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// A file with the token in it; goes before --token
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The authority that signed the server's certificate, as PEM; the system's, if nothing is said
    #[arg(long, global = true, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// For people, or for programs
    #[arg(long, global = true, default_value = "text", value_name = "FORM")]
    output: Form,
    /// No colours, as NO_COLOR says it too
    #[arg(long, global = true)]
    no_color: bool,
}

/// How much of a list is shown.
#[derive(clap::Args)]
struct Limit {
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl Limit {
    fn rows(&self) -> usize {
        self.limit as usize
    }
}

#[derive(Clone, Copy, Eq, PartialEq, ValueEnum)]
enum Form {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server
    #[command(
        after_help = "Examples:\n  orchestrator server --data-dir /var/lib/orchestrator\n  orchestrator server --listen 0.0.0.0:4650 --tls-cert cert.pem --tls-key key.pem"
    )]
    Server(Box<server::Options>),
    /// Shows it all on this machine: a server, agents, and a service that they roll out
    #[command(after_help = "Examples:\n  orchestrator dev\n  orchestrator dev --nodes 8 --once")]
    Dev(dev::Options),
    /// Runs a node's agent; `orchestrator agent --help` says more
    #[command(
        disable_help_flag = true,
        after_help = "Examples:\n  orchestrator agent --server https://orchestrator.example:4650 --node n17"
    )]
    Agent {
        /// What the agent is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// What should run, and how it comes to run
    #[command(
        subcommand,
        after_help = "Examples:\n  orchestrator job plan web.toml\n  orchestrator job run web.toml"
    )]
    Job(jobs::Command),
    /// How the fleet moves from one version to the next
    #[command(
        subcommand,
        visible_alias = "deploy",
        after_help = "Examples:\n  orchestrator deployment list --state in_progress\n  orchestrator deployment promote web\n\nA deployment is named by its id, or by its job: then it is the job's last one."
    )]
    Deployment(deployments::Command),
    /// Several jobs, in the order of what depends on what
    #[command(
        subcommand,
        after_help = "Examples:\n  orchestrator group plan release.toml\n  orchestrator group run release.toml\n\nA group is named by its id, or by its name: then it is the newest one of that name."
    )]
    Group(groups::Command),
    /// The machines
    #[command(
        subcommand,
        after_help = "Examples:\n  orchestrator node list\n  orchestrator node drain n17"
    )]
    Node(nodes::Command),
    /// Who may do what
    #[command(
        subcommand,
        after_help = "Examples:\n  orchestrator token create --name ci --role deployer\n  orchestrator token list"
    )]
    Token(tokens::Command),
    /// Who did what
    #[command(
        subcommand,
        after_help = "Examples:\n  orchestrator audit list --limit 20"
    )]
    Audit(tokens::Audit),
    /// Rolls a new version out over a fleet that exists only here, and shows how it would go
    #[command(
        after_help = "A SHARE is a number from 0 to 1. The same options show the same run on every machine.\n\nExamples:\n  orchestrator simulate --nodes 10000 --strategy canary --failure-rate 0.02 --seed 7"
    )]
    Simulate(simulate::Options),
    /// Writes what a shell needs to complete commands
    #[command(
        after_help = "Examples:\n  orchestrator completions bash > ~/.local/share/bash-completion/completions/orchestrator"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages into a directory
    #[command(after_help = "Examples:\n  orchestrator man ~/.local/share/man/man1")]
    Man {
        /// Where to; it is made if it is not there
        dir: PathBuf,
    },
}

/// The word that this program is the agent by.
const AGENT: &str = "agent";
/// What it is called then.
const AGENT_CALLED: &str = "orchestrator agent";

/// Does what the command line says.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        // These have a command line of their own.
        Some(word) if word == AGENT || word == "shim" => {
            let words = (word == "shim").then_some(word).into_iter().chain(words);
            return orchestrator_agent::cli::run(AGENT_CALLED, words);
        }
        Some(word) if word == dev::DEMO => return demo(),
        _ => {}
    }
    let of_agent = orchestrator_agent::cli::usage(AGENT_CALLED);
    let mut command = Cli::command().mut_subcommand(AGENT, |agent| agent.override_help(of_agent));
    // Clap speaks before anything is read.
    if std::env::args_os().any(|word| word == "--no-color") {
        command = command.color(ColorChoice::Never);
    }
    let cli = command.try_get_matches_from_mut(std::env::args_os());
    let cli = cli.and_then(|matches| match in_vain(&matches) {
        Some(why) => Err(command.error(ErrorKind::ArgumentConflict, why)),
        None => Cli::from_arg_matches(&matches),
    });
    let cli = match cli {
        Ok(cli) => cli,
        Err(why) if why.use_stderr() && wants_json() => {
            eprintln!("{}", usage_to_json(&why));
            return ExitCode::from(USAGE);
        }
        Err(why) => {
            // Where nobody reads it, there is nobody to tell.
            let _ = why.print();
            return ExitCode::from(if why.use_stderr() { USAGE } else { 0 });
        }
    };
    let form = cli.global.output;
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(why) if why.is_nobody_reads() => ExitCode::from(NOBODY_READS),
        Err(why) => {
            match form {
                Form::Text => eprintln!("error: {why}"),
                Form::Json => eprintln!("{}", why.to_json()),
            }
            ExitCode::from(why.code())
        }
    }
}

/// What was said of a server to a command that asks none.
fn in_vain(matches: &ArgMatches) -> Option<String> {
    let (name, told) = matches.subcommand()?;
    let is_typed = |id: &&str| told.value_source(id) == Some(ValueSource::CommandLine);
    let hint = match name {
        "server" if is_typed(&"output") => {
            return Some(
                "server takes no --output: what it logs is JSON with --log json".to_owned(),
            );
        }
        "dev" if is_typed(&"output") => {
            return Some("dev takes no --output: it shows itself to people; its server answers other commands in JSON".to_owned());
        }
        "server" | "dev" => "it is the server; where it listens is said by --listen",
        "simulate" | "completions" | "man" => "it asks no server",
        _ => return None,
    };
    let all = ["address", "token", "token_file", "ca_cert"];
    let typed = all.into_iter().find(is_typed)?.replace('_', "-");
    Some(format!("{name} takes no --{typed}: {hint}"))
}

/// Whether a command line that cannot be read asks for JSON.
fn wants_json() -> bool {
    let words: Vec<OsString> = std::env::args_os().collect();
    let apart = words
        .windows(2)
        .any(|two| two[0] == "--output" && two[1] == "json");
    apart || words.iter().any(|word| word == "--output=json")
}

fn demo() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().map_err(Error::from);
    match runtime.and_then(|runtime| runtime.block_on(dev::demo())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<u8, Error> {
    let Cli { command, global } = cli;
    let out = Out::new(global.output == Form::Json, global.no_color);
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Ok::<_, Error>(runtime.enable_all().build()?)
    };
    let client = || global.client();
    match command {
        Command::Server(mut options) => {
            options.log.no_color = global.no_color;
            server::run(*options)?;
            Ok(0)
        }
        Command::Dev(options) => {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(dev::run(options, &out))
        }
        // Without anything before that word it is run before the command line is read.
        Command::Agent { .. } => Err(Error::Usage(format!(
            "what the agent is told stands after `{AGENT}`, and nothing before it; see `{AGENT_CALLED} --help`"
        ))),
        Command::Job(command) => runtime()?.block_on(jobs::run(command, client, &out)),
        Command::Deployment(command) => {
            runtime()?.block_on(deployments::run(command, &client()?, &out))
        }
        Command::Group(command) => runtime()?.block_on(groups::run(command, client, &out)),
        Command::Node(command) => runtime()?.block_on(nodes::run(command, &client()?, &out)),
        Command::Token(command) => runtime()?.block_on(tokens::run(command, client, &out)),
        Command::Audit(command) => runtime()?.block_on(tokens::audit(command, &client()?, &out)),
        Command::Simulate(options) => simulate::run(&options, &out),
        Command::Completions { shell } => {
            out.say(&pages::completions(shell, Cli::command()))?;
            Ok(0)
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).map_err(|why| {
                Error::Offline(format!("{} cannot be made: {why}", dir.display()))
            })?;
            let written = pages::write(Cli::command(), &dir);
            written.map_err(|why| Error::Offline(format!("{}: {why}", dir.display())))?;
            Ok(0)
        }
    }
}

impl Global {
    fn client(&self) -> Result<Client, Error> {
        let token = match &self.token_file {
            Some(path) => {
                let token = std::fs::read_to_string(path);
                let token = token.map_err(|why| Error::unreadable(path, &why))?;
                // Whoever names a file does not want to ask as nobody.
                if token.trim().is_empty() {
                    return Err(Error::NoToken(path.clone()));
                }
                Some(token)
            }
            None => self.token.clone(),
        };
        Client::new(&self.address, token.as_deref(), self.ca_cert.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(command: &clap::Command, path: &str, see: &mut impl FnMut(&clap::Command, &str)) {
        let path = format!("{path} {}", command.get_name());
        let path = path.trim();
        see(command, path);
        for below in command.get_subcommands().filter(|c| c.get_name() != "help") {
            walk(below, path, see);
        }
    }

    /// The words of a line; what stands in single quotes is one.
    fn typed(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in line.split('\'').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        words
    }

    #[test]
    fn clap_finds_nothing_wrong() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_has_an_example_of_that_command_that_can_be_typed() {
        let mut command = Cli::command();
        command.build();
        let mut without = Vec::new();
        walk(&command, "", &mut |command, path| {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let examples = help.split("Examples:\n").nth(1).unwrap_or_default();
            let examples: Vec<&str> = examples
                .lines()
                .map_while(|line| line.strip_prefix("  "))
                .collect();
            if !examples.iter().any(|line| line.starts_with(path)) {
                without.push(path.to_owned());
            }
            for line in examples {
                let words = typed(line);
                let words = words.split(|word| word == "|").next_back();
                let words = words.and_then(|words| words.split(|word| word == ">").next());
                let words = words.unwrap_or_default();
                if let Err(why) = Cli::try_parse_from(words) {
                    panic!("{line}: {why}");
                }
            }
        });
        assert_eq!(without, [""; 0], "these have none");
    }

    #[test]
    fn helps_are_short_sentences_without_a_full_stop() {
        let mut command = Cli::command();
        command.build();
        walk(&command, "", &mut |command, path| {
            let about = command.get_about().map(ToString::to_string);
            let about = about.unwrap_or_else(|| panic!("{path} does not say what it does"));
            assert!(
                !about.ends_with('.') && !about.contains('\n'),
                "{path}: {about}"
            );
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string);
                let help = help.unwrap_or_else(|| panic!("{path} {argument}: no help"));
                assert!(!help.ends_with('.'), "{path} {argument}: {help}");
            }
        });
    }
}
