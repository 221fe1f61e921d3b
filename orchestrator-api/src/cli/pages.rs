//! What is generated from the command line: manual pages, and what a shell needs to complete it.

use std::io;
use std::path::Path;

use clap::{Arg, ArgAction, Command, ValueHint};
use clap_complete::Shell;

use super::AGENT;

/// What a shell needs to complete the commands.
pub(super) fn completions(shell: Shell, command: Command) -> String {
    let agent = agent(AGENT);
    let mut command = command.mut_subcommand(AGENT, |_| agent);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "orchestrator", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// A manual page for each command, and one for the agent.
pub(super) fn write(command: Command, dir: &Path) -> io::Result<()> {
    for command in [command, agent("orchestrator-agent")] {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        write_pages(&command, dir)?;
    }
    Ok(())
}

/// A manual page for a command, and for each below it.
fn write_pages(command: &Command, dir: &Path) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone())
        .source(concat!("orchestrator ", env!("CARGO_PKG_VERSION")))
        .manual("orchestrator");
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // Where what follows the options has a name of its own, that is the name.
    let mut text = text
        .replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n")
        .replace(".SH EXTRA\n", ".SH NOTES\n")
        .replace("\nExamples:\n", "\n.SH EXAMPLES\n");
    let of_environment = |arg: &Arg| {
        let name = arg.get_env()?.to_str()?.to_owned();
        Some(format!(
            ".TP\n\\fB{name}\\fR\nInstead of \\-\\-{}\n",
            arg.get_long()?
        ))
    };
    let environment: Vec<String> = command.get_arguments().filter_map(of_environment).collect();
    if !environment.is_empty() {
        text += ".SH ENVIRONMENT\n";
        text += &environment.concat();
    }
    std::fs::write(dir.join(page.get_filename()), text)?;
    let below = command.get_subcommands();
    // The agent has a command line of its own.
    let mut below = below.filter(|command| command.get_name() != AGENT);
    below.try_for_each(|command| write_pages(command, dir))
}

/// The agent's command line, which is its own: read from what it says of itself.
fn agent(name: &'static str) -> Command {
    let usage = orchestrator_agent::cli::USAGE;
    let (about, rest) = usage.split_once('\n').unwrap_or((usage, ""));
    let (_, rest) = rest.split_once("Options:\n").unwrap_or_default();
    let (options, notes) = rest.split_once("\n\n").unwrap_or((rest, ""));
    let mut args: Vec<Arg> = Vec::new();
    for line in options.lines().map(str::trim) {
        let (option, help) = line.split_once("  ").unwrap_or((line, ""));
        match option.strip_prefix("--") {
            Some(option) => args.push(of_agent(option).help(help.trim())),
            // What is said of the option in the line before.
            None => {
                let before = args.pop();
                args.extend(before.map(|arg| arg.help(line)));
            }
        }
    }
    let data_dir = args.iter().find(|arg| arg.get_id() == "data-dir").cloned();
    let status = Command::new("status").about("Shows how the agent of a data directory is");
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(about.trim_end_matches('.'))
        .after_help(notes.trim())
        .disable_version_flag(true)
        .args(args)
        .subcommand(status.args(data_dir))
}

fn of_agent(option: &'static str) -> Arg {
    let (long, value) = option.split_once(' ').unwrap_or((option, ""));
    // What the other commands have too has their name here: so it is this one's where it is a part of them.
    let name = match long {
        "ca-cert" => "ca_cert",
        "token-file" => "token_file",
        _ => long,
    };
    let arg = Arg::new(name).long(long);
    match value {
        "" => arg.action(ArgAction::SetTrue),
        "FILE" | "SOCKET" => arg.value_name(value).value_hint(ValueHint::FilePath),
        "DIR" => arg.value_name(value).value_hint(ValueHint::DirPath),
        _ => arg.value_name(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_command_line_is_read() {
        let mut agent = agent("orchestrator-agent");
        agent.build();
        agent.clone().debug_assert();
        let usage = orchestrator_agent::cli::USAGE;
        let (_, examples) = usage.split_once("Examples:\n").expect("it has examples");
        for line in examples.lines() {
            let read = agent.clone().try_get_matches_from(line.split_whitespace());
            assert!(read.is_ok(), "{line}: {read:?}");
        }
        for arg in agent.get_arguments() {
            assert!(
                arg.get_help()
                    .is_some_and(|help| !help.to_string().is_empty()),
                "{arg}"
            );
        }
        let file = agent
            .get_arguments()
            .find(|arg| arg.get_id() == "docker-config");
        let file = file.expect("it stands in a line of its own");
        assert_eq!(file.get_value_hint(), ValueHint::FilePath);
        assert!(agent.get_arguments().count() > 15);
    }
}
