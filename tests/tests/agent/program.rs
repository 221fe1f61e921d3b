//! A server that is a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::Api;

/// It ends with this.
pub(crate) struct Program {
    child: Child,
    data: PathBuf,
    pub(crate) api: Api,
}

impl Program {
    pub(crate) async fn start(data: &Path) -> Self {
        Self::listening(data, ([127, 0, 0, 1], 0).into()).await
    }

    /// It is killed, and begins again on the same data, where it listened before.
    pub(crate) async fn again(&mut self) {
        self.child.kill().await.unwrap();
        *self = Self::listening(&self.data.clone(), self.api.address).await;
    }

    async fn listening(data: &Path, address: SocketAddr) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_server"))
            .args(["server", "--listen", &address.to_string(), "--data-dir"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = said.next_line().await.unwrap().expect("it says where");
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split(' ').next().unwrap().parse().unwrap();
            }
        };
        // What else it says is not to fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Self {
            child,
            data: data.to_owned(),
            api: Api::of(address),
        }
    }
}
