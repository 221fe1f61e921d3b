//! What an agent is told when it is started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::artifact::Bounds;
use crate::cgroup::Groups;

/// Where a Docker Engine listens, if nothing is said.
const DOCKER: &str = "/var/run/docker.sock";

/// The node's own identity, in the data directory, once it has joined.
pub(crate) const IDENTITY: &str = "identity.json";

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's address: `https://…`, or `http://…` where it is on this machine.
    pub server: String,
    /// The certificates of the authorities that are trusted; the system's if nothing is said.
    pub authorities: Option<PathBuf>,
    /// The name of the node.
    pub node: String,
    /// Where the agent keeps what it knows, and its runs. No two agents share one.
    pub data_dir: PathBuf,
    /// A join token, or the node's own. Not needed where one is in the data directory, or the server is open.
    pub token: Option<Token>,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// The program, and its first arguments, that goes on as [`shim::main`](crate::shim::main) with what it is told after them.
    /// `shim` of this program if nothing is said.
    pub shim: Vec<OsString>,
    /// Where a Docker Engine listens.
    pub docker: PathBuf,
    /// What `docker login` has written, with passwords of registries. It is read anew for each image. Programs that it
    /// names are not asked.
    pub docker_config: Option<PathBuf>,
    /// Programs that run workloads, by the names that jobs call them by; see [`external`](crate::driver::external).
    pub externals: BTreeMap<String, PathBuf>,
    /// The most that artifacts take of the node.
    pub artifacts: Bounds,
    /// Takes the server's state though it is older than what was accepted before: the server was restored.
    pub accept_older: bool,
}

/// A token; what is logged of settings does not show it.
#[derive(Clone)]
pub struct Token(pub(crate) String);

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Settings {
    /// The least that has to be said.
    pub fn new(server: &str, node: &str, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            server: server.to_owned(),
            authorities: None,
            node: node.to_owned(),
            data_dir: data_dir.into(),
            token: None,
            labels: BTreeMap::new(),
            shim: Vec::new(),
            docker: DOCKER.into(),
            docker_config: None,
            externals: BTreeMap::new(),
            artifacts: Bounds::default(),
            accept_older: false,
        }
    }

    /// Whether it has an identity, so that it needs no token.
    pub(crate) fn has_joined(&self) -> bool {
        self.data_dir.join(IDENTITY).exists()
    }

    /// The program that goes on as a shim.
    pub(crate) fn shim(&self) -> std::io::Result<Vec<OsString>> {
        if !self.shim.is_empty() {
            return Ok(self.shim.clone());
        }
        Ok(vec![std::env::current_exe()?.into(), "shim".into()])
    }
}

/// What a node tells about itself.
pub(crate) fn facts() -> BTreeMap<String, String> {
    let system = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = rustix::system::sysinfo();
    let memory = (memory.totalram as u64 * u64::from(memory.mem_unit)) >> 20;
    let facts = [
        ("agent", env!("CARGO_PKG_VERSION").to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
        ("cores", cores.to_string()),
        ("host", system.nodename().to_string_lossy().into_owned()),
        ("kernel", system.release().to_string_lossy().into_owned()),
        ("limits", Groups::find().fields()),
        ("memory_mib", memory.to_string()),
        ("os", std::env::consts::OS.to_owned()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}
