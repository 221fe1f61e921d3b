//! The program: for now the server, and the way to its first token.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use orchestrator_api::access::{Role, token};
use orchestrator_api::server::{Options, run};

#[derive(Parser)]
#[command(name = "orchestrator", version, about)]
enum Program {
    /// Runs the server
    Server(Options),
    /// Makes tokens
    #[command(subcommand)]
    Token(Token),
}

#[derive(Parser)]
enum Token {
    /// Makes one in the data directory of a server that does not run
    Create {
        #[arg(long, env = "ORCHESTRATOR_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        #[arg(long)]
        name: String,
        #[arg(long, value_parser = |word: &str| Role::named(word).ok_or("there is no such role"))]
        role: Role,
    },
}

fn main() -> ExitCode {
    let done: Result<(), Box<dyn std::error::Error>> = match Program::parse() {
        Program::Server(options) => run(options).map_err(Into::into),
        Program::Token(create) => create_token(create),
    };
    let Err(why) = done else {
        return ExitCode::SUCCESS;
    };
    eprintln!("orchestrator: {why}");
    ExitCode::FAILURE
}

#[tokio::main]
async fn create_token(create: Token) -> Result<(), Box<dyn std::error::Error>> {
    let Token::Create {
        data_dir,
        name,
        role,
    } = create;
    let new = token::New {
        name,
        role,
        node: None,
        expires_at: None,
    };
    println!(
        "{}",
        token::create_offline(&data_dir, new).await?.token.reveal()
    );
    Ok(())
}
