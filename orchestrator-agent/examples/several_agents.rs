//! Several agents in one program, each a node of its own, until Ctrl-C:
//! `cargo run -p orchestrator-agent --example several_agents -- http://127.0.0.1:4650`.
//!
//! What they run outlives them. Who starts this again finds it.

use std::path::Path;
use std::process::ExitCode;

use orchestrator_agent::{Agent, AgentError, Leave, Settings};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Runs agents with these names, until they are told to leave.
pub async fn run(
    server: &str,
    names: &[&str],
    data: &Path,
    leave: watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let mut agents = JoinSet::new();
    for name in names {
        // Its identity and what it is to run are kept there, over restarts.
        let agent = Agent::open(Settings::new(server, name, data.join(name))).await?;
        let mut leave = leave.clone();
        agents.spawn(agent.run(async move {
            // That nobody can tell any more is a reason to leave as well.
            let _ = leave.wait_for(|leave| *leave).await;
            Leave::Running
        }));
    }
    while let Some(ended) = agents.join_next().await {
        ended.expect("an agent does not panic")?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    // The parent of each process that an agent runs is this program again.
    if let Some((word, told)) = words.split_first()
        && word == "shim"
    {
        return orchestrator_agent::shim::main(told.to_vec());
    }
    let server = words.first().and_then(|word| word.to_str());
    let server = server.unwrap_or("http://127.0.0.1:4650");
    let data = Path::new("several-agents-data");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ran = runtime.block_on(async {
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            let _ = tokio::signal::ctrl_c().await;
            tell.send_replace(true);
        });
        run(server, &["n1", "n2", "n3"], data, told).await
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
